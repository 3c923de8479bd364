"""The insertion point: places, batches, segments, limits, and where recovery must begin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfs.errors import InvalidRequest, NoSpace, ProtocolError
from pfs.wal.bodies import Commit, Drop, Noop, PageImage, Rename, Seal
from pfs.wal.log_buffer import Batch, LogBuffer
from pfs.wal.lsn import SEGMENT_HEADER_SIZE
from pfs.wal.records import Record, decode, decode_commit

SIZE = 4096
START = SIZE + SEGMENT_HEADER_SIZE
PAGE = b"p" * 512


def make(**options: int) -> LogBuffer:
    settings = {"segment_size": SIZE, "position": START, "prev_lsn": 0, "epoch": 1, "seed": 9} | options
    return LogBuffer(**settings)  # type: ignore[arg-type]


class Disk:
    """The segments as a device would hold them."""

    def __init__(self) -> None:
        self.segments: dict[int, bytearray] = {}

    def write(self, batch: Batch) -> None:
        for segment, offset, buffers in batch.parts:
            data = b"".join(buffers)
            assert offset >= SEGMENT_HEADER_SIZE
            assert offset + len(data) <= SIZE, "a batch crosses a segment"
            self.segments.setdefault(segment, bytearray(SIZE))[offset : offset + len(data)] = data

    def drain(self, buffer: LogBuffer) -> list[Batch]:
        batches = []
        while (batch := buffer.next_batch()) is not None:
            self.write(batch)
            buffer.batch_flushed(batch)
            batches.append(batch)
        return batches

    def record(self, lsn: int) -> Record:
        segment, offset = divmod(lsn, SIZE)
        found = decode(memoryview(self.segments[segment]), offset, lsn, 9)
        assert found is not None
        return found


def test_records_lie_one_behind_the_other_and_name_their_predecessors() -> None:
    buffer, disk = make(), Disk()
    first = buffer.insert_page(1, 7, 0, PAGE)
    second = buffer.insert_commit(1, 7, 5, 1, 6)
    assert first == (START, START + 584)
    assert second == (first.end, first.end + 112)
    assert buffer.inserted == second.end
    assert buffer.written == buffer.flushed == START
    assert buffer.pending_bytes == 696
    (batch,) = disk.drain(buffer)
    assert (batch.start, batch.end, batch.requests) == (START, second.end, 1)
    assert disk.record(first.lsn).prev_lsn == 0
    commit = disk.record(second.lsn)
    assert commit.prev_lsn == first.lsn
    assert decode_commit(commit) == Commit(1, 7, first.lsn, 5, 1, 6)
    assert buffer.written == buffer.flushed == second.end
    assert buffer.records == 2


def test_a_page_is_handed_out_without_a_copy_and_small_records_are_joined() -> None:
    buffer = make(segment_size=1 << 20, position=(1 << 20) + 64)
    page = b"x" * 8192
    for transaction in (1, 2):
        buffer.insert_page(transaction, 7, 0, page)
        buffer.insert_commit(transaction, 7, 0, 1, 1)
    batch = buffer.next_batch()
    assert batch is not None
    ((_, _, buffers),) = batch.parts
    assert list(map(len, buffers)) == [72, 8192, 112 + 72, 8192, 112]
    assert buffers[1] is buffers[3] is page


def test_a_record_vouches_for_what_was_durable_when_it_was_inserted() -> None:
    buffer, disk = make(), Disk()
    buffer.insert(Drop(1))
    batch = buffer.next_batch()
    assert batch is not None
    buffer.batch_written(batch)
    assert (buffer.written, buffer.flushed) == (batch.end, START)
    before = buffer.insert(Drop(2))
    disk.write(batch)
    buffer.batch_flushed(batch)
    after = buffer.insert(Drop(3))
    disk.drain(buffer)
    assert disk.record(before.lsn).durable_upto == START
    assert disk.record(after.lsn).durable_upto == batch.end


def test_nothing_is_vouched_for_if_nothing_is_synced() -> None:
    buffer, disk = make(vouch=False), Disk()
    place = buffer.insert(Drop(1))
    disk.drain(buffer)
    assert disk.record(place.lsn).durable_upto == 0


def test_one_batch_is_under_way_at_a_time() -> None:
    buffer = make()
    assert not buffer.has_batch
    assert buffer.next_batch() is None
    buffer.insert(Drop(1))
    batch = buffer.next_batch()
    assert batch is not None
    buffer.insert(Drop(2))
    assert not buffer.has_batch
    assert buffer.next_batch() is None
    buffer.batch_flushed(batch)
    following = buffer.next_batch()
    assert following is not None
    assert following.start == batch.end
    for wrong in (buffer.batch_written, buffer.batch_flushed):
        with pytest.raises(ProtocolError, match="not the one under way"):
            wrong(batch)


def test_a_batch_takes_no_more_than_its_requests() -> None:
    buffer = make(batch_requests=3)
    for file_id in range(1, 8):
        buffer.insert(Drop(file_id))
    assert [batch.requests for batch in Disk().drain(buffer)] == [3, 3, 1]


def test_a_batch_takes_its_bytes_and_at_most_one_record_more() -> None:
    buffer = make(batch_bytes=600)
    for index in range(4):
        buffer.insert_page(1, 7, index, PAGE)
    assert [batch.end - batch.start for batch in Disk().drain(buffer)] == [1168, 1168]


def test_a_batch_may_reach_into_the_next_segment() -> None:
    buffer = make()
    for index in range(8):
        buffer.insert_page(1, 7, index, PAGE)
    (batch,) = Disk().drain(buffer)
    assert [(part.segment, part.offset) for part in batch.parts] == [(1, 64), (2, 64)]


def test_what_does_not_fit_goes_to_the_next_segment_behind_a_switch() -> None:
    buffer, disk = make(), Disk()
    places = [buffer.insert_page(1, 7, index, PAGE) for index in range(7)]
    assert places[5].end == SIZE + 64 + 6 * 584
    assert places[6].lsn == 2 * SIZE + 64
    disk.drain(buffer)
    switch = disk.record(places[5].end)
    assert switch.name == "SEGMENT_SWITCH"
    assert switch.prev_lsn == places[5].lsn
    assert disk.record(places[6].lsn).prev_lsn == switch.lsn


def test_where_not_even_a_switch_fits_the_rest_of_a_segment_is_left_alone() -> None:
    buffer, disk = make(), Disk()
    last = buffer.insert(Noop(SIZE - SEGMENT_HEADER_SIZE - 64 - 56))
    assert last.end == 2 * SIZE - 56
    following = buffer.insert(Seal())
    assert following.lsn == 2 * SIZE + 64
    disk.drain(buffer)
    assert disk.record(following.lsn).prev_lsn == last.lsn


def test_a_segment_may_be_filled_to_its_last_byte() -> None:
    buffer = make()
    place = buffer.insert(Noop(SIZE - SEGMENT_HEADER_SIZE - 64))
    assert place.end == 2 * SIZE
    assert buffer.next_lsn == 2 * SIZE + 64
    assert buffer.insert(Seal()).lsn == buffer.inserted - 64 == 2 * SIZE + 64


def test_a_segment_can_be_left_on_demand() -> None:
    buffer = make()
    buffer.switch_segment()
    assert buffer.inserted == START
    buffer.insert(Drop(1))
    buffer.switch_segment()
    assert buffer.next_lsn == buffer.redo_point() == 2 * SIZE + 64
    buffer.switch_segment()
    assert buffer.insert(Drop(2)).lsn == 2 * SIZE + 64


def test_nothing_is_inserted_beyond_the_segments_that_exist() -> None:
    buffer = make(limit=2 * SIZE)
    buffer.insert(Noop(2600))
    last = buffer.insert_page(1, 7, 0, PAGE)
    with pytest.raises(NoSpace, match="no room for 584 bytes"):
        buffer.insert_page(1, 7, 1, PAGE)
    assert buffer.inserted == last.end
    with pytest.raises(NoSpace):
        buffer.switch_segment()
    buffer.limit = 3 * SIZE
    assert buffer.limit == 3 * SIZE
    assert buffer.insert_page(1, 7, 0, PAGE * 2).lsn == 2 * SIZE + 64
    with pytest.raises(NoSpace):
        buffer.insert(Noop(SIZE - 64 - 64))


def test_a_reserve_is_kept_for_checkpoints() -> None:
    buffer = make(limit=2 * SIZE, reserve=3600)
    buffer.insert_commit(1, 7, 0, 0, 0)
    with pytest.raises(NoSpace):
        buffer.insert_page(2, 7, 0, PAGE)
    with pytest.raises(NoSpace):
        buffer.insert(Noop(400))
    assert buffer.unsettled == {1: START}
    buffer.insert_reserved(Noop(400))
    with pytest.raises(NoSpace):
        buffer.insert_commit(3, 7, 0, 0, 0)


def test_recovery_begins_at_the_first_record_of_the_oldest_unsettled_transaction() -> None:
    buffer = make(segment_size=1 << 20, position=(1 << 20) + 64)
    first = buffer.insert_page(1, 7, 0, PAGE)
    second = buffer.insert_page(2, 7, 0, PAGE)
    buffer.insert_page(1, 7, 1, PAGE)
    bulk = buffer.insert_commit(3, 7, 0, 1, 1, bulk=True)
    assert buffer.redo_point() == first.lsn
    assert buffer.unsettled == {1: first.lsn, 2: second.lsn, 3: bulk.lsn}
    assert buffer.first_lsn(2) == second.lsn
    buffer.insert_commit(1, 7, 1, 2, 3)
    assert buffer.redo_point() == first.lsn
    buffer.settle(1)
    assert buffer.redo_point() == second.lsn
    buffer.settle(2)
    buffer.settle(2)
    assert buffer.redo_point() == bulk.lsn
    buffer.settle(3)
    assert buffer.redo_point() == buffer.next_lsn == buffer.inserted


def test_the_last_batch_wants_a_seal_once() -> None:
    buffer, disk = make(epoch=4), Disk()
    assert buffer.epoch == 4
    assert not buffer.wants_seal
    buffer.insert(Rename(1, "b"))
    assert not buffer.wants_seal
    disk.drain(buffer)
    assert buffer.wants_seal
    place = buffer.seal()
    disk.drain(buffer)
    assert not buffer.wants_seal
    assert disk.record(place.lsn).durable_upto == place.lsn
    buffer.insert_page(1, 7, 0, PAGE)
    disk.drain(buffer)
    assert buffer.wants_seal


@pytest.mark.parametrize("body", [PageImage(1, 2, 0, PAGE), Commit(1, 2, 3, 4, 5, 6)])
def test_pages_and_commits_have_functions_of_their_own(body: PageImage | Commit) -> None:
    with pytest.raises(InvalidRequest, match="insert_page and insert_commit"):
        make().insert(body)


def test_a_record_larger_than_a_segment_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most 4032 bytes"):
        make().insert(Noop(4000))


@pytest.mark.parametrize("option", ["batch_bytes", "batch_requests"])
@pytest.mark.parametrize("value", [0, -1, True, 1.0])
def test_a_cap_that_is_none_is_refused(option: str, value: int) -> None:
    with pytest.raises(InvalidRequest, match=option):
        make(**{option: value})


@given(
    st.lists(
        st.tuples(st.sampled_from(["page", "commit", "noop", "switch", "batch", "small"]), st.integers(0, 3900)),
        max_size=60,
    ),
    st.integers(1, 3000),
    st.integers(1, 5),
)
def test_whatever_is_inserted_is_written_in_order_without_gaps(
    steps: list[tuple[str, int]], batch_bytes: int, batch_requests: int
) -> None:
    buffer, disk = make(batch_bytes=batch_bytes, batch_requests=batch_requests), Disk()
    places = []
    end = START

    def take() -> bool:
        nonlocal end
        batch = buffer.next_batch()
        if batch is None:
            return False
        assert batch.start == end or batch.start % SIZE == SEGMENT_HEADER_SIZE
        assert batch.requests <= batch_requests
        end = batch.end
        disk.write(batch)
        buffer.batch_flushed(batch)
        return True

    for kind, number in steps:
        if kind == "page":
            places.append(buffer.insert_page(number, 7, 0, bytes(512) if number % 3 == 0 else PAGE * (1 + number % 4)))
        elif kind == "commit":
            places.append(buffer.insert_commit(number, 7, 0, 1, 1))
        elif kind == "noop":
            places.append(buffer.insert(Noop(number)))
        elif kind == "small":
            places.append(buffer.insert(Drop(number)))
        elif kind == "switch":
            buffer.switch_segment()
        else:
            take()
        assert buffer.flushed <= buffer.written <= buffer.inserted <= buffer.next_lsn
    while take():
        pass
    assert buffer.flushed == buffer.inserted
    previous = 0
    for place in places:
        record = disk.record(place.lsn)
        assert record.end == place.end
        if record.prev_lsn != previous:
            switch = disk.record(record.prev_lsn)
            assert (switch.name, switch.prev_lsn) == ("SEGMENT_SWITCH", previous)
        previous = place.lsn
