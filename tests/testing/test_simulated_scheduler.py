"""The simulated scheduler: a run is a function of its seed, and nothing that can go wrong in time goes unseen."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.actors import Actor, ActorKilled, BlockingActor, Down
from pfs.errors import CallInHandler, DeadlockFound, Timeout
from pfs.testing.file_system import Fault, SimulatedFileSystem
from pfs.testing.scheduler import LEAP_ODDS, LEAPS, STEP, SimulatedScheduler

SEEDS = st.integers(0, 2**32)


@pytest.fixture
def simulate() -> Iterator[Callable[[int], SimulatedScheduler]]:
    """`simulate(seed)` makes a scheduler, abandoned at the end."""
    made: list[SimulatedScheduler] = []

    def make(seed: int) -> SimulatedScheduler:
        made.append(SimulatedScheduler(seed))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.abandon()


@pytest.fixture
def scheduler(simulate: Callable[[int], SimulatedScheduler], seed: int) -> SimulatedScheduler:
    return simulate(seed)


class Log(Actor):
    """Keeps what it is told."""

    def __init__(self, kept: list[Any]) -> None:
        super().__init__()
        self.kept = kept

    def on_receive(self, message: Any) -> Any:
        self.kept.append(message)
        return message


class Disk(BlockingActor):
    """Writes what it is told to a file, and says so."""

    def __init__(self, fs: SimulatedFileSystem, heard: Any, name: str = "file") -> None:
        super().__init__()
        self.fs, self.heard, self.name = fs, heard, name

    def on_receive(self, message: Any) -> Any:
        try:
            descriptor = self.fs.open(self.name, os.O_RDWR | os.O_CREAT)
            self.fs.pwritev(descriptor, [message], 0)
            self.fs.fsync(descriptor)
            self.fs.close(descriptor)
        except OSError as error:
            self.heard.tell((self.name, error.errno))
            return error.errno
        self.heard.tell((self.name, message))
        return message


def disk_of(scheduler: SimulatedScheduler, *faults: Fault) -> SimulatedFileSystem:
    return SimulatedFileSystem(faults=faults, on_operation=scheduler.file_call, condition=scheduler.condition)


def everything(seed: int) -> tuple[str, str, list[Any]]:
    """One run with blocking actors, file faults, locks, conditions, timers, processes and deaths."""
    scheduler = SimulatedScheduler(seed)
    fs = disk_of(scheduler, Fault(error=errno.EIO, operation="fsync", at=3), Fault(error=errno.ENOSPC, at=9))
    kept: list[Any] = []
    log = scheduler.start(Log, kept)
    disks = [scheduler.start(Disk, fs, log, f"file-{number}") for number in range(3)]
    lock, waiting = scheduler.condition(), scheduler.condition()
    choose = random.Random(seed)

    def process(number: int) -> Callable[[], None]:
        def body() -> None:
            for _ in range(3):
                with lock:
                    disks[number].tell(b"told")
                    kept.append((number, disks[number].ask(b"asked")))
                with waiting:
                    waiting.notify()
                    waiting.wait(choose.random())
            scheduler.send_after(choose.random(), log, f"late {number}")

        return body

    ends = [scheduler.spawn(process(number), f"process-{number}") for number in range(3)]
    scheduler.run(lambda: all(ended() for ended in ends))
    disks[0].stop(block=False)
    scheduler.run()
    scheduler.stop()
    return scheduler.trace_hash(), fs.trace_hash(), kept


# ------------------------------------------------------------------------------------------------ one seed, one run


@given(seed=SEEDS)
def test_the_same_seed_gives_the_same_run(seed: int) -> None:
    assert everything(seed) == everything(seed)


def test_different_seeds_give_different_interleavings() -> None:
    assert len({everything(seed)[0] for seed in range(50)}) == 50
    assert len({tuple(map(str, everything(seed)[2])) for seed in range(50)}) > 25


def test_a_run_does_not_depend_on_the_hash_seed_or_the_process() -> None:
    source = "from tests.testing.test_simulated_scheduler import everything; print(everything(7)[:2])"
    outputs = set()
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-W", "error", "-c", source]
        outputs.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert outputs == {f"{everything(7)[:2]}\n"}


def test_the_trace_tells_two_runs_apart_that_differ_in_one_message(
    simulate: Callable[[int], SimulatedScheduler],
) -> None:
    hashes = []
    for messages in (["a", "b"], ["a", 1]):
        scheduler = simulate(5)
        log = scheduler.start(Log, [])
        for message in messages:
            log.tell(message)
        scheduler.run()
        hashes.append(scheduler.trace_hash())
    assert hashes[0] != hashes[1]


def test_a_tracer_sees_each_message_before_its_handler_does(scheduler: SimulatedScheduler) -> None:
    seen: list[Any] = []
    scheduler.add_tracer(lambda ref, message: seen.append((ref.actor_class, message, len(kept))))
    kept: list[Any] = []
    log = scheduler.start(Log, kept)
    log.tell("x")
    log.tell("y")
    scheduler.run()
    assert seen == [(Log, "x", 0), (Log, "y", 1)]


# ------------------------------------------------------------------------------------------------ blocking actors


def test_messages_arrive_and_others_run_during_a_file_call(scheduler: SimulatedScheduler) -> None:
    kept: list[Any] = []
    log = scheduler.start(Log, kept)
    disk = scheduler.start(Disk, disk_of(scheduler), log)
    disk.tell(b"first")
    scheduler.run(lambda: bool(scheduler.who_waits()) and "Operation" in scheduler.who_waits()[0])
    disk.tell(b"second")
    log.tell("meanwhile")
    scheduler.run(lambda: "meanwhile" in kept)
    scheduler.run()
    assert sorted(map(str, kept)) == ["('file', b'first')", "('file', b'second')", "meanwhile"]
    assert kept.index(("file", b"first")) < kept.index(("file", b"second"))


def test_in_some_runs_a_later_message_is_handled_before_a_file_call_ends() -> None:
    orders = set()
    for seed in range(30):
        scheduler = SimulatedScheduler(seed)
        kept: list[Any] = []
        scheduler.start(Disk, disk_of(scheduler), scheduler.start(Log, kept)).tell(b"written")
        scheduler.start(Log, kept).tell("other")
        scheduler.run()
        scheduler.stop()
        orders.add(tuple(map(str, kept)))
    assert len(orders) == 2


def test_a_blocking_actor_gets_its_backlog_as_one_batch_or_in_parts() -> None:
    class Batches(BlockingActor):
        most_in_batch = 4

        def on_batch(self, messages: list[Any]) -> None:
            batches.append(messages)

    lengths = set()
    for seed in range(20):
        scheduler = SimulatedScheduler(seed)
        batches: list[list[Any]] = []
        ref = scheduler.start(Batches)
        for number in range(6):
            ref.tell(number)
        scheduler.run()
        scheduler.stop()
        assert [message for batch in batches for message in batch] == list(range(6))
        lengths |= {len(batch) for batch in batches}
    assert {1, 4} <= lengths
    assert max(lengths) == 4


def test_a_fault_of_the_file_system_reaches_the_blocking_actor(scheduler: SimulatedScheduler) -> None:
    kept: list[Any] = []
    fs = disk_of(scheduler, Fault(error=errno.EIO, operation="fsync"))
    disk = scheduler.start(Disk, fs, scheduler.start(Log, kept))
    assert disk.ask(b"x") == errno.EIO
    assert disk.ask(b"x") == b"x"


def test_whoever_asked_a_blocking_actor_that_is_killed_in_a_file_call_is_answered(
    scheduler: SimulatedScheduler,
) -> None:
    lock = scheduler.condition()

    class Waits(BlockingActor):
        def on_receive(self, message: Any) -> None:
            with lock:
                lock.wait()

    ref = scheduler.start(Waits)
    future = ref.ask("never answered", block=False)
    late = ref.ask("never handled", block=False)
    scheduler.run(lambda: "notification" in str(scheduler.who_waits()))
    ref.kill()  # type: ignore[attr-defined]
    for each in (future, late):
        with pytest.raises(pykka.ActorDeadError):
            each.get(timeout=1)


def test_stop_waits_for_the_file_call_of_an_actor_that_was_killed(scheduler: SimulatedScheduler) -> None:
    fs = disk_of(scheduler)
    disk = scheduler.start(Disk, fs, scheduler.start(Log, []))
    disk.tell(b"x")
    scheduler.run(lambda: bool(fs.open_descriptors))
    disk.kill()  # type: ignore[attr-defined]
    scheduler.stop()
    assert fs.open_descriptors == {}
    assert scheduler.who_waits() == []


# ------------------------------------------------------------------------------------------------ deadlocks


def test_a_deadlock_is_reported_with_who_waits_for_whom(scheduler: SimulatedScheduler) -> None:
    first, second = scheduler.condition(), scheduler.condition()
    holding: list[str] = []

    def hold(mine: Any, other: Any, name: str) -> Callable[[], None]:
        def body() -> None:
            with mine:
                holding.append(name)
                scheduler.wait_until(lambda: len(holding) == 2, lambda: "the other")
                with other:
                    raise AssertionError("both locks are held")

        return body

    scheduler.spawn(hold(first, second, "ann"), "ann")
    scheduler.spawn(hold(second, first, "ben"), "ben")
    with pytest.raises(DeadlockFound) as caught:
        scheduler.run()
    assert "ann waits for a lock that ben holds" in str(caught.value)
    assert "ben waits for a lock that ann holds" in str(caught.value)
    assert f"seed {scheduler.seed}" in str(caught.value)


def test_a_reply_that_nobody_gives_is_a_deadlock(scheduler: SimulatedScheduler) -> None:
    from pfs.actors.replies import DelayedReply

    class Forgets(Actor):
        def on_receive(self, message: Any) -> Any:
            return DelayedReply()

    ref = scheduler.start(Forgets)
    with pytest.raises(DeadlockFound, match=r"the test waits for a reply of Forgets-1"):
        ref.ask("anything")


def test_a_condition_that_nobody_notifies_is_a_deadlock(scheduler: SimulatedScheduler) -> None:
    condition = scheduler.condition()

    def wait() -> None:
        with condition:
            condition.wait()

    scheduler.spawn(wait, "waiter")
    with pytest.raises(DeadlockFound, match="waiter waits for a condition's notification"):
        scheduler.run()


def test_a_run_that_goes_round_in_circles_is_ended(scheduler: SimulatedScheduler) -> None:
    class Circle(Actor):
        def on_receive(self, message: Any) -> None:
            self._actor_ref.tell(message)

    scheduler.start(Circle).tell("round")
    with pytest.raises(DeadlockFound, match="no end after 100 steps"):
        scheduler.run(max_steps=100)


def test_a_run_that_never_makes_its_condition_true_is_a_deadlock(scheduler: SimulatedScheduler) -> None:
    with pytest.raises(DeadlockFound, match="not finished"):
        scheduler.run(lambda: False)


# ------------------------------------------------------------------------------------------------ time


def test_timers_fire_in_the_order_of_their_times_and_the_clock_jumps_to_them(scheduler: SimulatedScheduler) -> None:
    kept: list[Any] = []
    log = scheduler.start(Log, kept)
    for delay in (3600.0, 10.0, 60.0):
        scheduler.send_after(delay, log, delay)
    scheduler.run()
    assert kept == [10.0, 60.0, 3600.0]
    assert 3600.0 <= scheduler.now() < 3600.0 + 1000 * STEP + sum(LEAPS)


def test_a_cancelled_timer_neither_fires_nor_moves_the_clock(scheduler: SimulatedScheduler) -> None:
    kept: list[Any] = []
    timer = scheduler.send_after(1e6, scheduler.start(Log, kept), "late")
    timer.cancel()
    scheduler.run()
    assert kept == []
    assert scheduler.now() < 1.0


def test_without_timers_a_step_takes_a_microsecond(scheduler: SimulatedScheduler) -> None:
    log = scheduler.start(Log, [])
    for number in range(100):
        log.tell(number)
    steps = scheduler.run()
    assert scheduler.now() == pytest.approx(steps * STEP)


def test_in_some_runs_a_timer_fires_before_work_that_could_be_done(simulate: Callable[[int], Any]) -> None:
    firsts = set()
    for seed in range(4 * LEAP_ODDS):
        scheduler = simulate(seed)
        kept: list[Any] = []
        scheduler.send_after(1e-5, scheduler.start(Log, kept), "timer")
        for number in range(3):
            scheduler.start(Log, kept).tell(number)
        scheduler.run()
        firsts.add(kept[0])
    assert "timer" in firsts
    assert firsts & {0, 1, 2}


def test_a_wait_ends_at_its_deadline_in_virtual_time(scheduler: SimulatedScheduler) -> None:
    lock = scheduler.condition()

    class Slow(BlockingActor):
        def on_receive(self, message: Any) -> str:
            with lock:
                lock.wait(1000.0)
            return "late"

    ref = scheduler.start(Slow)
    with pytest.raises(Timeout, match="within 30 seconds"):
        ref.ask("x", timeout=30)
    assert 30.0 <= scheduler.now() < 40.0
    assert ref.ask("x", timeout=10_000) == "late"


# ------------------------------------------------------------------------------------------------ locks


def test_a_lock_is_held_by_one_process_at_a_time(scheduler: SimulatedScheduler) -> None:
    fs = disk_of(scheduler)
    lock = scheduler.condition()
    inside: list[str] = []

    def process(name: str) -> Callable[[], None]:
        def body() -> None:
            for _ in range(5):
                with lock:
                    inside.append(name)
                    fs.exists("anything")
                    assert inside == [name]
                    inside.remove(name)

        return body

    for name in ("ann", "ben", "cleo"):
        scheduler.spawn(process(name), name)
    scheduler.run()


def test_entering_a_lock_twice_is_reported_at_once(scheduler: SimulatedScheduler) -> None:
    lock = scheduler.condition()

    def twice() -> None:
        with lock, lock:
            raise AssertionError("a real lock would stop the thread here")

    scheduler.spawn(twice, "ann")
    with pytest.raises(DeadlockFound, match="ann waits for a lock that it holds"):
        scheduler.run()


def test_a_handler_may_enter_a_free_lock_and_is_refused_one_that_is_held(scheduler: SimulatedScheduler) -> None:
    lock = scheduler.condition()

    class Enters(Actor):
        def on_receive(self, message: Any) -> str:
            with lock:
                return "entered"

    ref = scheduler.start(Enters)
    assert ref.ask("x") == "entered"
    with lock, pytest.raises(CallInHandler, match="a lock that the test holds"):
        ref.ask("x")


def test_notify_wakes_those_who_have_waited_longest_and_notify_all_everybody(scheduler: SimulatedScheduler) -> None:
    condition = scheduler.condition()
    woken: list[int] = []

    def waiter(number: int) -> Callable[[], None]:
        def body() -> None:
            with condition:
                assert condition.wait()
            woken.append(number)

        return body

    for number in range(5):
        scheduler.spawn(waiter(number), f"waiter-{number}")
        scheduler.run(lambda number=number: len(condition._waiting) == number + 1)  # type: ignore[misc]
    with condition:
        condition.notify(2)
    scheduler.run(lambda: len(woken) == 2)
    assert sorted(woken) == [0, 1]
    with condition:
        condition.notify_all()
    scheduler.run()
    assert sorted(woken) == [0, 1, 2, 3, 4]


def test_a_notified_waiter_goes_on_only_when_the_lock_is_free(scheduler: SimulatedScheduler) -> None:
    condition = scheduler.condition()
    order: list[str] = []

    def waiter() -> None:
        with condition:
            condition.wait()
            order.append("woken")

    ended = scheduler.spawn(waiter, "waiter")
    scheduler.run(lambda: bool(condition._waiting))
    with condition:
        condition.notify()
        log = scheduler.start(Log, order)
        for number in range(20):
            log.ask(number)
        order.append("freed")
    scheduler.run(ended)
    assert order[-2:] == ["freed", "woken"]


def test_a_wait_with_a_timeout_says_whether_it_was_notified(scheduler: SimulatedScheduler) -> None:
    condition = scheduler.condition()
    with condition:
        assert condition.wait(5.0) is False
    assert scheduler.now() >= 5.0

    def notify() -> None:
        with condition:
            condition.notify()

    scheduler.spawn(notify)
    with condition:
        assert condition.wait(1e6) is True
    assert scheduler.now() < 1e6


def test_a_wait_that_timed_out_does_not_use_up_a_notification(scheduler: SimulatedScheduler) -> None:
    condition = scheduler.condition()
    woken: list[bool] = []

    def patient() -> None:
        with condition:
            woken.append(condition.wait())

    with condition:
        condition.wait(0.001)
    scheduler.spawn(patient, "patient")
    scheduler.run(lambda: bool(condition._waiting))
    with condition:
        condition.notify()
    scheduler.run()
    assert woken == [True]


@pytest.mark.parametrize("use", ["wait", "notify", "notify_all"])
def test_a_condition_is_refused_to_who_does_not_hold_its_lock(scheduler: SimulatedScheduler, use: str) -> None:
    condition = scheduler.condition()
    with pytest.raises(RuntimeError, match="the test uses a lock that nobody holds"):
        getattr(condition, use)()


# ------------------------------------------------------------------------------------------------ processes


def test_a_process_may_make_waiting_calls(scheduler: SimulatedScheduler) -> None:
    kept: list[Any] = []
    answers: list[Any] = []
    fs = disk_of(scheduler)

    def process() -> None:
        log = scheduler.start(Log, kept)
        disk = scheduler.start(Disk, fs, log)
        answers.append(disk.ask(b"bytes"))
        answers.append(log.ask("question"))
        disk.stop()
        answers.append(disk.is_alive())

    ended = scheduler.spawn(process)
    scheduler.run(ended)
    assert answers == [b"bytes", "question", False]


def test_what_a_process_raises_comes_out_of_the_run(scheduler: SimulatedScheduler) -> None:
    def process() -> None:
        raise ZeroDivisionError("of the process")

    ended = scheduler.spawn(process)
    with pytest.raises(ZeroDivisionError, match="of the process"):
        scheduler.run()
    assert ended()


def test_a_handler_that_waits_is_refused(scheduler: SimulatedScheduler) -> None:
    other = scheduler.start(Log, [])

    class Asks(Actor):
        def on_receive(self, message: Any) -> Any:
            return other.ask(message)

    with pytest.raises(CallInHandler):
        scheduler.start(Asks).ask("x")


def test_a_step_inside_a_step_is_refused(scheduler: SimulatedScheduler) -> None:
    class Steps(Actor):
        def on_receive(self, message: Any) -> Any:
            return scheduler.run()

    with pytest.raises(CallInHandler, match="inside a step"):
        scheduler.start(Steps).ask("x")
    scheduler.spawn(scheduler.step)  # type: ignore[arg-type]
    with pytest.raises(CallInHandler, match="inside a step"):
        scheduler.run()


@pytest.mark.parametrize("kind", [Actor, BlockingActor])
def test_an_interrupt_in_a_handler_reaches_whoever_runs_the_simulation(
    scheduler: SimulatedScheduler, kind: type[Any]
) -> None:
    class Interrupted(kind):  # type: ignore[misc]
        def on_receive(self, message: Any) -> None:
            raise KeyboardInterrupt

    reasons: list[Any] = []
    ref = scheduler.start(Interrupted)
    scheduler.watch(ref, scheduler.start(Log, reasons))
    ref.tell("x")
    with pytest.raises(KeyboardInterrupt):
        scheduler.run()
    scheduler.run()
    assert [type(down.reason) for down in reasons] == [KeyboardInterrupt]


def test_watchers_hear_of_a_blocking_actors_failure(scheduler: SimulatedScheduler) -> None:
    class Fails(BlockingActor):
        def on_receive(self, message: Any) -> None:
            raise ZeroDivisionError

    heard: list[Any] = []
    ref = scheduler.start(Fails)
    scheduler.watch(ref, scheduler.start(Log, heard))
    ref.tell("x")
    scheduler.run()
    assert len(heard) == 1
    assert isinstance(heard[0], Down)
    assert isinstance(heard[0].reason, ZeroDivisionError)


# ------------------------------------------------------------------------------------------------ the end


def test_abandon_ends_everything_where_it_stands(scheduler: SimulatedScheduler) -> None:
    fs = disk_of(scheduler)
    kept: list[Any] = []
    steps: list[str] = []
    log = scheduler.start(Log, kept)
    disk = scheduler.start(Disk, fs, log)
    lock = scheduler.condition()

    def process() -> None:
        try:
            with lock:
                steps.append("waits")
                lock.wait()
                steps.append("never")
        finally:
            with lock:
                steps.append("cleaned up")

    ended = scheduler.spawn(process, "process")
    scheduler.run(lambda: bool(steps))
    disk.tell(b"x")
    scheduler.run(lambda: bool(fs.open_descriptors))
    log.tell("unread")
    before = list(kept)
    scheduler.abandon()
    assert ended()
    assert steps == ["waits", "cleaned up"]
    assert kept == before
    assert not disk.is_alive()
    assert isinstance(disk.exit_reason, ActorKilled)  # type: ignore[attr-defined]
    assert scheduler.who_waits() == []
    assert not scheduler.step()
    scheduler.stop()  # no effect


def test_abandon_ends_a_process_that_waits_for_others_in_its_clean_up(scheduler: SimulatedScheduler) -> None:
    lock = scheduler.condition()
    steps: list[str] = []

    def holder() -> None:
        with lock:
            steps.append("held")
            scheduler.wait_until(lambda: False, lambda: "the end of the world")

    def other() -> None:
        try:
            scheduler.wait_until(lambda: False, lambda: "the end of the world")
        finally:
            steps.append("cleaning")
            with lock:
                steps.append("never")

    ends = [scheduler.spawn(other, "other"), scheduler.spawn(holder, "holder")]
    scheduler.run(lambda: not any("its turn" in line for line in scheduler.who_waits()))
    scheduler.abandon()
    assert all(ended() for ended in ends)
    assert "never" not in steps


def test_stop_ends_the_actors_and_refuses_new_ones(scheduler: SimulatedScheduler) -> None:
    from pfs.errors import SystemStopped

    order: list[str] = []

    class Named(Actor):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def on_stop(self) -> None:
            order.append(self.name)

    for name in ("first", "second"):
        scheduler.start(Named, name)
    scheduler.stop()
    assert order == ["second", "first"]
    assert scheduler.living == {}
    with pytest.raises(SystemStopped):
        scheduler.start(Named, "third")
