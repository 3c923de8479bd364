"""The lock that may be held across I/O."""

from __future__ import annotations

import threading

import pytest

from pfs.files.exclusive import Exclusive
from pfs.testing.file_system import SimulatedFileSystem
from tests.support import join, wait_for


class TellingCondition(threading.Condition):
    """A condition that tells when somebody begins to wait."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())
        self.somebody_waits = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.somebody_waits.set()
        return super().wait(timeout)


def test_who_comes_second_waits_until_the_first_is_done():
    condition = TellingCondition()
    lock = Exclusive(SimulatedFileSystem(condition=lambda: condition))
    order = []

    def second() -> None:
        with lock:
            order.append("second")

    thread = threading.Thread(target=second)
    with lock:
        thread.start()
        wait_for(condition.somebody_waits, what="the second one's wait")
        order.append("first")
    join(thread)
    assert order == ["first", "second"]


def test_it_is_free_again_after_an_error():
    lock = Exclusive(SimulatedFileSystem())
    with pytest.raises(ValueError, match="inside"), lock:
        raise ValueError("inside")
    with lock:
        pass
