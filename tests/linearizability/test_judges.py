"""The two judges of histories: what they accept, what they refuse, and that they agree where both can tell.

More random histories: `PFS_HISTORIES=100000 PFS_SEED=1 pytest tests/linearizability/test_judges.py`.
"""

from __future__ import annotations

import os
from random import Random

import pytest

from pfs.testing.linearizability import Kind, Operation, SearchTooLong, check_by_lsn, search

HISTORIES = int(os.environ.get("PFS_HISTORIES", "3000"))
FIRST_SEED = int(os.environ.get("PFS_SEED", "0"))


def read(pages: str, pgid: int, started: int, ended: int) -> Operation:
    return Operation("read", pgid, len(pages), tuple(pages), started, ended)


def write(pages: str, pgid: int, started: int, ended: int | None, lsn: int = 0) -> Operation:
    return Operation("write", pgid, len(pages), tuple(pages), started, ended, lsn)


def append(pages: str, pgid: int, started: int, ended: int | None, lsn: int = 0) -> Operation:
    return Operation("append", pgid, len(pages), tuple(pages), started, ended, lsn)


def told(kind: Kind, pgid: int, n: int, started: int, ended: int, lsn: int = 0) -> Operation:
    return Operation(kind, pgid, n, (), started, ended, lsn)


RIGHT = {
    "a read during a write may show the pages before it": [write("xy", 0, 1, 4, 10), read("ab", 0, 2, 3)],
    "or after it": [write("xy", 0, 1, 4, 10), read("xy", 0, 2, 3)],
    "two reads during a write in the order of time": [
        write("x", 0, 1, 9, 10),
        read("a", 0, 2, 4),
        read("x", 0, 3, 5),
        read("x", 0, 6, 7),
    ],
    "writes under way together in either order": [
        write("x", 0, 1, 4, 20),
        write("y", 0, 2, 3, 10),
        read("x", 0, 5, 6),
    ],
    "appends one behind the other": [append("x", 2, 1, 4, 10), append("yz", 3, 2, 3, 20), read("abxyz", 0, 5, 6)],
    "a page is gone after a truncation, and may be appended again": [
        told("truncate", 0, 1, 1, 2, 10),
        told("refused", 1, 1, 3, 4),
        told("count", 0, 1, 5, 6),
        append("x", 1, 7, 8, 20),
        read("ax", 0, 9, 10),
    ],
    "a refusal during the append that makes the page": [
        append("x", 2, 1, 6, 10),
        told("refused", 2, 1, 2, 3),
        told("count", 0, 3, 4, 5),
    ],
}

WRONG = {
    "stale read": ([write("xy", 0, 1, 2, 10), read("ab", 0, 3, 4)], "stale"),
    "torn multi-page read": ([write("xy", 0, 1, 4, 10), read("xb", 0, 2, 3)], "not one cut"),
    "lost update": (
        [write("x", 0, 1, 2, 10), write("y", 0, 3, 4, 20), read("x", 0, 5, 6)],
        "stale",
    ),
    "append overlap": ([append("xy", 2, 1, 3, 10), append("z", 3, 2, 4, 20)], "the file ended at page 4"),
    "append that leaves a gap": ([append("x", 3, 1, 2, 10)], "the file ended at page 2"),
    "read from the future": ([read("x", 0, 1, 2), write("x", 0, 3, 4, 10)], "from the future"),
    "a later read shows less than an earlier one": (
        [write("x", 0, 1, 9, 10), read("x", 0, 2, 3), read("a", 0, 4, 5)],
        "older than what an earlier read showed",
    ),
    "a page that nobody wrote": ([read("?", 0, 1, 2)], "nobody wrote"),
    "a page at another page's place": ([read("b", 0, 1, 2)], "nobody wrote"),
    "a write beyond the end": ([write("xy", 1, 1, 2, 10)], "the file had 2 pages"),
    "a truncation to more than there is": ([told("truncate", 0, 3, 1, 2, 10)], "the file had 2 pages"),
    "a truncation that did not happen": (
        [told("truncate", 0, 1, 1, 2, 10), read("ab", 0, 3, 4)],
        "stale",
    ),
    "a refusal of what was there all the time": ([told("refused", 1, 1, 1, 2)], "the file had [2] pages then"),
    "a page count that never was": (
        [append("xy", 2, 1, 4, 10), told("count", 0, 3, 2, 3)],
        "the file had [2, 4] pages then",
    ),
}


@pytest.mark.parametrize("what", RIGHT)
def test_both_judges_accept(what: str) -> None:
    assert check_by_lsn(RIGHT[what], "ab") == []
    assert search(RIGHT[what], "ab")
    assert search(RIGHT[what], "ab", by_lsn=True)


@pytest.mark.parametrize("what", WRONG)
def test_both_judges_refuse(what: str) -> None:
    history, reason = WRONG[what]
    violations = check_by_lsn(history, "ab")
    assert [violation for violation in violations if reason in violation], violations
    assert not search(history, "ab")
    assert not search(history, "ab", by_lsn=True)


def test_the_witness_must_keep_to_the_order_in_time() -> None:
    history = [write("x", 0, 1, 2, 20), write("y", 1, 3, 4, 10)]
    assert search(history, "ab")
    assert not search(history, "ab", by_lsn=True)
    assert "has the higher LSN" in check_by_lsn(history, "ab")[0]


def test_a_commit_that_was_seen_takes_along_all_of_lower_lsn() -> None:
    history = [write("x", 0, 1, 9, 10), write("y", 1, 2, 10, 20), read("y", 1, 4, 5), read("a", 0, 6, 7)]
    assert search(history, "ab")
    assert not search(history, "ab", by_lsn=True)
    assert "older than what an earlier read showed" in check_by_lsn(history, "ab")[0]


def test_two_commits_cannot_have_one_lsn() -> None:
    assert "has the LSN of" in check_by_lsn([write("x", 0, 1, 2, 10), write("y", 1, 3, 4, 10)], "ab")[0]


def test_an_append_that_was_acknowledged_with_other_pages_than_were_sent_is_found() -> None:
    history = [append("x", 2, 1, 2, 10)._replace(n=2)]
    assert "1 pages were meant to be written" in check_by_lsn(history, "ab")[0]


def test_contents_must_be_unique() -> None:
    with pytest.raises(ValueError, match="make it unique"):
        check_by_lsn([write("x", 0, 1, 2, 10), write("y", 0, 3, 4, 20), write("x", 0, 5, 6, 30)], "ab")


def test_a_search_that_takes_too_long_says_so() -> None:
    history = [write(str(number), 0, number + 1, 100 + number, number) for number in range(9)]
    with pytest.raises(SearchTooLong, match="configurations of 10 operations"):
        search([*history, read("?", 0, 0, 200)], "a", most_configurations=1000)


# ------------------------------------------------------------------------------------------------ unknown outcomes


@pytest.mark.parametrize(
    ("seen", "right"),
    [
        (["ab"], True),  # it did not happen
        (["xy"], True),  # it happened
        (["ab", "ab", "xy", "xy"], True),  # it happened long after its client gave up
        (["xb"], False),
        (["ab", "xy", "ab"], False),
        (["xy", "ab"], False),
    ],
)
def test_a_write_of_unknown_outcome_happens_once_or_not_at_all(seen: list[str], right: bool) -> None:
    reads = [read(pages, 0, 10 + 2 * number, 11 + 2 * number) for number, pages in enumerate(seen)]
    assert search([write("xy", 0, 1, None), *reads], "ab") == right


def test_nothing_is_seen_of_a_write_of_unknown_outcome_before_it_was_asked_for() -> None:
    assert not search([read("x", 0, 1, 2), write("x", 0, 3, None)], "ab")


@pytest.mark.parametrize(
    ("found", "right"), [("ab", True), ("abxy", True), ("abz", True), ("abxyz", True), ("abzxy", True)]
)
def test_appends_of_unknown_outcome_are_found_whole_in_any_order(found: str, right: bool) -> None:
    unknown = [append("xy", -1, 1, None), append("z", -1, 2, None)]
    assert search([*unknown, read(found, 0, 10, 11), told("count", 0, len(found), 12, 13)], "ab") == right


@pytest.mark.parametrize("found", ["abx", "aby", "abzx", "abxz"])
def test_half_of_an_append_of_unknown_outcome_is_refused(found: str) -> None:
    unknown = [append("xy", -1, 1, None), append("z", -1, 2, None)]
    assert not search([*unknown, read(found, 0, 10, 11), told("count", 0, len(found), 12, 13)], "ab")


def test_an_acknowledged_append_that_a_crash_took_is_refused() -> None:
    history = [append("x", 2, 1, 2), append("y", -1, 3, None)]
    assert search([*history, read("abx", 0, 10, 11)], "ab")
    assert not search([*history, told("count", 0, 2, 10, 11)], "ab")
    assert not search([*history, read("aby", 0, 10, 11)], "ab")


# ------------------------------------------------------------------------------------------------ the judges' judge


def random_history(random: Random, clients: int, operations: int) -> list[Operation]:
    """A history of a file that keeps every promise: each operation takes effect at one moment between its two."""
    pages = list("ab")
    history: list[Operation] = []
    under_way: dict[int, list[object]] = {}
    moment = lsn = written = 0
    while len(history) < operations or under_way:
        moment += 1
        client = random.randrange(clients)
        mine = under_way.get(client)
        if mine is None and len(history) >= operations:
            continue
        if mine is None:
            under_way[client] = [moment]
        elif len(mine) == 1:  # it takes effect now
            kind = random.choice(("read", "read", "write", "append", "truncate", "count"))
            pgid = random.randrange(len(pages) + 1)
            n = random.randint(1, 3)
            new = tuple(f"{written}.{index}" for index in range(n))
            lsn += random.choice((1, 64))
            if kind in ("read", "write") and pgid + n > len(pages):
                mine += ["refused", pgid, n, (), 0]
            elif kind == "read":
                mine += ["read", pgid, n, tuple(pages[pgid : pgid + n]), 0]
            elif kind == "count":
                mine += ["count", 0, len(pages), (), 0]
            elif kind == "truncate":
                n = random.randint(max(len(pages) - 1, 0), len(pages))
                del pages[n:]
                mine += ["truncate", 0, n, (), lsn]
            else:
                written += 1
                pgid = len(pages) if kind == "append" else pgid
                pages[pgid : pgid + n] = new
                mine += [kind, pgid, n, new, lsn]
        else:
            started, *rest, at_lsn = under_way.pop(client)
            history.append(Operation(*rest, started, moment, at_lsn, f"client {client}"))  # type: ignore[arg-type]
    return history


def spoiled(history: list[Operation], random: Random) -> list[Operation]:
    """The history with something in it changed; about half of them are wrong then."""
    changed = list(history)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(changed))
        operation = changed[at]
        others = [number for number, each in enumerate(changed) if each.kind == operation.kind and number != at]
        other_at = random.choice(others or [at])
        other = changed[other_at]
        assert operation.ended is not None
        match random.randrange(4):
            case 0:  # two of a kind were told what the other should have been
                changed[at] = operation._replace(pgid=other.pgid, n=other.n, pages=other.pages)
                changed[other_at] = other._replace(pgid=operation.pgid, n=operation.n, pages=operation.pages)
            case 1:  # it was over sooner
                changed[at] = operation._replace(ended=random.randint(operation.started + 1, operation.ended))
            case 2:  # it was all before, or after
                length = operation.ended - operation.started
                started = random.randint(0, max(each.started for each in changed))
                changed[at] = operation._replace(started=started, ended=started + length)
            case _:
                changed[other_at] = other._replace(lsn=operation.lsn)
                changed[at] = operation._replace(lsn=other.lsn)
    return shaken(changed)


def shaken(history: list[Operation]) -> list[Operation]:
    """The same history with every moment a number of its own, those that were the same in an order that allows less."""
    moments = sorted(
        [(each.ended, 0, number) for number, each in enumerate(history)]
        + [(each.started, 1, number) for number, each in enumerate(history)]
    )
    place = {(is_start, number): moment for moment, (_, is_start, number) in enumerate(moments)}
    return [
        each._replace(started=place[1, number], ended=place[0, number])
        for number, each in enumerate(history)
        if place[1, number] < place[0, number]
    ]


def test_the_judges_agree_on_random_histories_right_and_wrong() -> None:
    refused = 0
    for seed in range(FIRST_SEED, FIRST_SEED + HISTORIES):
        random = Random(f"history {seed}")
        right = random_history(random, random.randint(1, 4), random.randint(2, 12))
        replay = f"replay: PFS_SEED={seed} PFS_HISTORIES=1 pytest {__file__}"
        assert check_by_lsn(right, "ab") == [], replay
        assert search(right, "ab"), replay
        assert search(right, "ab", by_lsn=True), replay
        history = spoiled(right, random)
        violations = check_by_lsn(history, "ab")
        assert search(history, "ab", by_lsn=True) == (not violations), f"{violations}; {replay}"
        assert search(history, "ab") or violations, replay
        refused += bool(violations)
    assert refused > HISTORIES // 4 or HISTORIES < 100
