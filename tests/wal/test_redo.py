"""The plan: which image of a page counts, what files are called, and how many pages they have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.errors import CorruptionFound
from pfs.wal.bodies import (
    Body,
    Checkpoint,
    Commit,
    Create,
    Drop,
    Noop,
    PageImage,
    Rename,
    SidecarImage,
    Truncate,
)
from pfs.wal.records import Record, Stamp, decode, encode
from pfs.wal.redo import CatalogChange, PageSource, Plan, Redo
from tests.wal.logs import PAGE


def record(lsn: int, body: Body) -> Record:
    found = decode(memoryview(b"".join(encode(Stamp(lsn, 0, 0, 1, 0), body))), 0, lsn, 0)
    assert found is not None
    return found


def plan_of(*bodies: Body, redo_lsn: int = 8, counts: dict[int, int] | None = None) -> Plan:
    """The plan of records at LSN 8, 16, 24, ..."""
    redo = Redo(redo_lsn)
    redo.start(Checkpoint(redo_lsn, 0, 20, 30), counts or {})
    for number, body in enumerate(bodies, 1):
        redo.add(record(8 * number, body))
    return redo.plan()


def image(transaction: int, index: int = 0, file_id: int = 1) -> PageImage:
    return PageImage(transaction, file_id, index, PAGE)


def test_without_records_the_checkpoint_is_the_plan() -> None:
    plan = plan_of(counts={1: 5})
    assert (plan.page_counts, plan.next_file_id, plan.next_transaction) == ({1: 5}, 20, 30)
    assert (plan.catalog, plan.page_total, plan.transactions, plan.uncommitted) == ({}, 0, 0, set())


def test_what_has_no_commit_is_ignored() -> None:
    plan = plan_of(image(40), image(41), Commit(41, 1, 16, 3, 1, 4), image(42), counts={1: 3})
    assert plan.pages == {1: {3: PageSource(16, 24)}}
    assert plan.page_counts == {1: 4}
    assert plan.uncommitted == {40, 42}
    assert plan.next_transaction == 43


def test_the_order_of_commits_decides_not_that_of_images() -> None:
    plan = plan_of(image(1), image(2), Commit(2, 1, 16, 0, 1, 1), Commit(1, 1, 8, 0, 1, 1))
    assert plan.pages == {1: {0: PageSource(8, 32)}}
    assert plan.transactions == 2


def test_images_of_one_transaction_may_come_in_any_order() -> None:
    plan = plan_of(image(1, 1), image(2, 0, 9), image(1, 0), Commit(1, 1, 8, 5, 2, 7))
    assert plan.pages == {1: {6: PageSource(8, 32), 5: PageSource(24, 32)}}


def test_a_bulk_append_has_no_images_and_voids_older_ones() -> None:
    plan = plan_of(
        image(1), Commit(1, 1, 8, 4, 1, 5), Truncate(1, 2), image(2), Commit(2, 1, 32, 1, 1, 2),
        Commit(3, 1, 48, 2, 1000, 1002, bulk=True),
    )  # fmt: skip
    assert plan.pages == {1: {1: PageSource(32, 40)}}
    assert plan.page_counts == {1: 1002}
    plan = plan_of(image(1), Commit(1, 1, 8, 4, 1, 5), Commit(3, 1, 24, 4, 1, 5, bulk=True))
    assert plan.pages == {1: {}}


def test_the_first_pages_of_a_bulk_append_may_have_images() -> None:
    plan = plan_of(image(1, 1), image(1, 0), Commit(1, 1, 8, 4, 50, 54, bulk=True))
    assert plan.pages == {1: {4: PageSource(16, 24), 5: PageSource(8, 24)}}
    settled = plan_of(image(1, 1), Commit(1, 1, 8, 4, 50, 54, bulk=True), redo_lsn=16)
    assert settled.pages == {1: {}}


def test_a_bulk_append_with_an_image_of_a_page_that_it_does_not_have_is_corruption() -> None:
    with pytest.raises(CorruptionFound, match="has an image of number 3"):
        plan_of(image(1, 3), Commit(1, 1, 8, 0, 2, 2, bulk=True))


def test_a_transaction_from_before_the_redo_point_is_in_the_data_files_and_newer_than_images_before_it() -> None:
    plan = plan_of(
        image(2), Commit(2, 1, 16, 0, 1, 9), Commit(1, 1, 8, 0, 1, 9), image(3), Commit(3, 1, 40, 7, 1, 9), redo_lsn=16
    )
    assert plan.pages == {1: {7: PageSource(32, 40)}}


@pytest.mark.parametrize(
    "bodies",
    [
        [image(1), Commit(1, 1, 8, 0, 2, 2)],
        [image(1, 1), Commit(1, 1, 8, 0, 1, 1)],
        [Commit(1, 1, 8, 0, 1, 1)],
    ],
)
def test_a_commit_without_all_its_images_is_a_contradiction(bodies: list[Body]) -> None:
    with pytest.raises(CorruptionFound, match="images of it are there"):
        plan_of(*bodies)


def test_truncation_voids_what_it_cuts_and_not_what_is_appended_afterwards() -> None:
    plan = plan_of(
        image(1, 0),
        image(1, 1),
        image(1, 2),
        Commit(1, 1, 8, 5, 3, 8),
        Truncate(1, 6),
        image(2),
        Commit(2, 1, 48, 6, 1, 7),
    )
    assert plan.pages == {1: {5: PageSource(8, 32), 6: PageSource(48, 56)}}
    assert plan.page_counts == {1: 7}
    assert plan_of(Truncate(3, 1)).page_counts == {3: 1}


def test_a_chain_of_renames_is_one_change() -> None:
    plan = plan_of(Create(20, 512, "a"), Rename(20, "b"), Create(21, 512, "a"), Rename(5, "c"), Rename(5, "d"))
    assert list(plan.catalog.values()) == [
        CatalogChange(20, "b", 512, False),
        CatalogChange(21, "a", 512, False),
        CatalogChange(5, "d", None, False),
    ]
    assert plan.page_counts == {20: 0, 21: 0}
    assert plan.next_file_id == 22


def test_nothing_is_left_of_a_dropped_file() -> None:
    plan = plan_of(
        image(1), Commit(1, 1, 8, 0, 1, 1), SidecarImage(1, 0, PAGE), SidecarImage(2, 0, PAGE), image(2), Drop(1),
        SidecarImage(1, 0, PAGE), Drop(3), counts={1: 0, 2: 7, 3: 1},
    )  # fmt: skip
    assert plan.pages == {}
    assert plan.page_counts == {2: 7}
    assert plan.sidecar_blocks == {(2, 0): 32}
    assert [change.dropped for change in plan.catalog.values()] == [True, True]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (Commit(1, 1, 16, 0, 1, 1, bulk=True), "commits pages of file 1"),
        (Rename(1, "x"), "changes file 1"),
        (Truncate(1, 0), "changes file 1"),
        (Create(1, 512, "x"), "changes file 1"),
        (Drop(1), "changes file 1"),
    ],
)
def test_nothing_happens_to_a_dropped_file(body: Body, what: str) -> None:
    with pytest.raises(CorruptionFound, match=f"{what}, which was dropped before"):
        plan_of(Drop(1), body)


def test_the_last_image_of_a_sidecar_block_counts() -> None:
    plan = plan_of(SidecarImage(1, 4, PAGE), SidecarImage(1, 5, PAGE), SidecarImage(1, 4, PAGE), Noop(0))
    assert plan.sidecar_blocks == {(1, 4): 24, (1, 5): 16}


def test_ids_used_by_a_checkpoint_that_the_control_file_does_not_know_are_not_used_again() -> None:
    plan = plan_of(Checkpoint(8, 0, 99, 98))
    assert (plan.next_file_id, plan.next_transaction) == (99, 98)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.booleans()), max_size=12), st.randoms())
def test_interleaved_transactions_give_the_same_pages_as_one_after_the_other(writes, rng) -> None:
    """writes: first pgid, pages, committed or not.  The commits keep their order; images move about before them."""
    bodies: list[Body] = []
    expected: dict[int, tuple[int, int]] = {}
    for transaction, (pgid, n, committed) in enumerate(writes, 100):
        bodies += [image(transaction, index) for index in range(n)]
        if committed:
            bodies.append(Commit(transaction, 1, 8, pgid, n, 6))
            expected |= {pgid + index: (transaction, index) for index in range(n)}
    for _ in range(30):  # swap neighbours, but never an image past its own commit, nor two commits
        if len(bodies) > 1:
            at = rng.randrange(len(bodies) - 1)
            first, second = bodies[at], bodies[at + 1]
            if isinstance(first, PageImage) and (
                isinstance(second, PageImage) or first.transaction != second.transaction
            ):
                bodies[at], bodies[at + 1] = second, first
    plan = plan_of(*bodies)
    found = {pgid: bodies[source.image_lsn // 8 - 1] for pgid, source in plan.pages.get(1, {}).items()}
    assert {pgid: (body.transaction, body.index) for pgid, body in found.items()} == expected
