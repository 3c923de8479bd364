"""The checker of the kill loops notices each way in which a crash could break a promise, and allows what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.process.known import Contradiction, Known, Request

OK: dict[str, Any] = {"id": 1}


def make_known() -> Known:
    return Known({"s": "shared", "p": "private", "c": "contested"})


def append(known: Known, file: str, *texts: str, pgid: int | None = None, durable: bool = True) -> Request:
    """An append that is acknowledged, if it has a place."""
    request = known.begin(file, "append", texts, durable=durable)
    known.end(request, None if pgid is None else {"pgid": pgid})
    return request


def check(known: Known, s: Sequence[str] = (), p: Sequence[str] = (), c: Sequence[str] = ()) -> None:
    known.check({"s": list(s), "p": list(p), "c": list(c)})


def test_what_was_acknowledged_must_be_there() -> None:
    known = make_known()
    append(known, "s", "a", "b", pgid=0)
    with pytest.raises(Contradiction, match="acknowledged and gone"):
        check(known)
    check(known, ["a", "b"])
    with pytest.raises(Contradiction, match="was there before"):
        check(known, ["a"])


def test_what_was_not_acknowledged_may_be_there_whole_or_not_at_all() -> None:
    for found in ([], ["a", "b"], ["x", "a", "b"], ["x"]):
        known = make_known()
        append(known, "s", "a", "b")
        append(known, "s", "x")
        check(known, found)
    for found in (["a"], ["b"], ["a", "x", "b"], ["a", "b", "nobody's"]):
        known = make_known()
        append(known, "s", "a", "b")
        append(known, "s", "x")
        with pytest.raises(Contradiction, match="nobody's"):
            check(known, found)


def test_an_append_is_where_its_answer_said() -> None:
    known = make_known()
    append(known, "s", "a", pgid=0)
    append(known, "s", "b", pgid=1)
    with pytest.raises(Contradiction, match="has at 0"):
        check(known, ["b", "a"])


def test_a_refused_request_must_not_be_there() -> None:
    for file in ("s", "p", "c"):
        known = make_known()
        request = known.begin(file, "append" if file != "c" else "write", ["a"], pgid=0)
        known.end(request, {"error": "NoSpace"})
        with pytest.raises(Contradiction):
            check(known, **{file: ["a"]})
        check(known)


def test_a_request_whose_system_failed_may_be_there() -> None:
    for found in ([], ["a"]):
        known = make_known()
        known.end(known.begin("s", "append", ["a"]), {"error": "SystemFailed"})
        check(known, found)


def test_a_request_in_memory_may_be_lost_but_not_once_a_later_one_is_durable() -> None:
    known = make_known()
    append(known, "s", "a", pgid=0, durable=False)
    check(known)
    append(known, "s", "b", pgid=0, durable=False)
    append(known, "p", "x", pgid=0)
    with pytest.raises(Contradiction, match="acknowledged and gone"):
        check(known, [], ["x"])
    check(known, ["b"], ["x"])


def test_a_sync_makes_all_before_it_durable() -> None:
    known = make_known()
    append(known, "s", "a", pgid=0, durable=False)
    known.end(known.begin("p", "sync"), OK)
    with pytest.raises(Contradiction, match="acknowledged and gone"):
        check(known)


def test_what_is_lost_is_lost_from_the_end() -> None:
    known = make_known()
    append(known, "s", "a", pgid=0, durable=False)
    append(known, "p", "x", pgid=0, durable=False)
    check(known, ["a"])
    append(known, "s", "b", pgid=1, durable=False)
    append(known, "p", "x", pgid=0, durable=False)
    with pytest.raises(Contradiction, match="a hole: gone is append of 'b'"):
        check(known, ["a"], ["x"])


def test_a_private_file_is_in_a_state_that_it_went_through() -> None:
    def history() -> Known:
        known = make_known()
        append(known, "p", "a", "b", "c", pgid=0)
        known.end(known.begin("p", "write", ["d"], pgid=1, durable=False), OK)
        known.end(known.begin("p", "truncate", n=2, durable=False), OK)
        append(known, "p", "e", pgid=2, durable=False)
        return known

    for state in (["a", "b", "c"], ["a", "d", "c"], ["a", "d"], ["a", "d", "e"]):
        check(history(), p=state)
    for state in ([], ["a", "b"], ["a", "b", "e"], ["a", "d", "c", "e"]):
        with pytest.raises(Contradiction, match=r"none of the states|acknowledged and gone"):
            check(history(), p=state)


def test_the_same_state_twice_counts_for_the_durable_request() -> None:
    known = make_known()
    append(known, "p", "a", pgid=0)
    append(known, "p", "b", pgid=1)
    known.end(known.begin("p", "truncate", n=1), OK)
    check(known, p=["a"])


def test_contested_pages_are_all_of_one_request_and_not_of_an_older_one() -> None:
    def history() -> Known:
        known = make_known()
        for texts in (["a0", "a1"], ["b0", "b1"]):
            known.end(known.begin("c", "write", texts, pgid=0), OK)
        known.begin("c", "write", ["x0", "x1"], pgid=0)
        return known

    check(history(), c=["b0", "b1"])
    check(history(), c=["x0", "x1"])
    for found in (["a0", "b1"], ["b0", "x1"], ["n0", "n1"]):
        with pytest.raises(Contradiction, match="pages of several"):
            check(history(), c=found)
    for found in (["a0", "a1"], []):
        with pytest.raises(Contradiction, match="acknowledged and gone"):
            check(history(), c=found)


def test_requests_at_the_same_time_may_take_effect_in_either_order() -> None:
    for found in (["a"], ["b"]):
        known = make_known()
        first, second = (known.begin("c", "write", [text], pgid=0) for text in "ab")
        known.end(first, OK)
        known.end(second, OK)
        check(known, c=found)


def test_a_read_finds_nothing_but_what_was_written() -> None:
    known = make_known()
    append(known, "s", "a")
    append(known, "p", "b", pgid=0)
    known.begin("c", "write", ["c", "d"], pgid=0)
    known.begin("c", "write", ["e", "f"], pgid=0)
    known.check_read("s", 0, ["a"])
    known.check_read("p", 0, ["b"])
    known.check_read("c", 0, ["e", "f"])
    for file, pages in (("s", ["b"]), ("p", ["a"]), ("p", []), ("c", ["c", "f"]), ("s", ["torn"])):
        with pytest.raises(Contradiction):
            known.check_read(file, 0, pages) if pages else known.check_read(file, 0, ["x"])


def test_a_copy_must_have_what_was_acknowledged_before_it_and_may_have_more() -> None:
    for durable, synced in ((True, False), (False, True)):
        known = make_known()
        append(known, "s", "a", pgid=0, durable=durable)
        begun = known.now()
        append(known, "s", "b", pgid=1, durable=durable)
        append(known, "s", "c", pgid=2, durable=durable)
        for found in (["a"], ["a", "b"], ["a", "b", "c"]):
            check(known.as_of(begun, synced=synced), found)
        with pytest.raises(Contradiction, match="acknowledged and gone"):
            check(known.as_of(begun, synced=synced))
        check(known, ["a", "b", "c"])


def test_a_copy_has_no_holes_and_need_not_have_what_was_in_memory() -> None:
    known = make_known()
    append(known, "s", "a", pgid=0, durable=False)
    begun = known.now()
    check(known.as_of(begun))
    append(known, "p", "b", pgid=0)
    append(known, "s", "c", pgid=1)
    with pytest.raises(Contradiction, match="a hole"):
        check(known.as_of(begun), ["a", "c"])
