"""The calls of plain threads as the small state machines that they are, told messages by hand."""

from __future__ import annotations

from typing import Any, NoReturn

import pykka
import pytest

from pfs.calls import Call, ReadCall, StreamCall, ThreadClient, WriteCall
from pfs.errors import Cancelled
from pfs.protocol import DataPages, DataReadEnd, DataWriteEnd, Empty, RequestFailed, StreamEnd, StreamReady


class Recorder:
    def __init__(self) -> None:
        self.messages: list[Any] = []

    def tell(self, message: Any) -> None:
        self.messages.append(message)


class Gone:
    def tell(self, message: Any) -> NoReturn:
        raise pykka.ActorDeadError("the stream has ended")


@pytest.mark.parametrize("ends", [[StreamEnd(1, 2), DataReadEnd(1, 0, 2)], [DataReadEnd(1, 0, 2), StreamEnd(1, 2)]])
def test_a_read_has_ended_when_both_its_ends_are_there_in_either_order(ends: list[Any]) -> None:
    call, stream = ReadCall(1, 2), Recorder()
    call.receive(DataPages(1, stream, 0, (b"a",)))
    call.receive(DataPages(1, stream, 1, (b"b",)))
    assert stream.messages == [Empty(1)], "no credit is needed after the last page"
    call.receive(ends[0])
    assert not call.done
    call.receive(ends[1])
    assert call.done
    assert call.pages == [b"a", b"b"]


def test_a_block_that_is_taken_gives_its_credit_back() -> None:
    call, stream = StreamCall(1), Recorder()
    assert call.take() is None
    for number in range(2):
        call.receive(DataPages(1, stream, number, (b"%d" % number,)))
    assert call.done
    assert stream.messages == []
    assert call.take() == (b"0",)
    assert stream.messages == [Empty(1)]
    call.receive(StreamEnd(1, 2))
    call.receive(DataReadEnd(1, 0, 2))
    assert call.take() == (b"1",)
    assert stream.messages == [Empty(1)], "after the end nobody needs credit"
    assert call.take() is None
    assert call.ended
    assert call.done


def test_a_stream_that_fails_gives_first_what_had_come() -> None:
    call = StreamCall(1)
    call.receive(DataPages(1, Recorder(), 0, (b"0",)))
    call.receive(RequestFailed(1, Cancelled("given up")))
    assert call.take() == (b"0",)
    assert call.take() is None
    assert call.ended
    assert isinstance(call.error, Cancelled)


def test_a_write_sends_what_its_credit_allows_and_then_its_end() -> None:
    call, stream = WriteCall(1, 5, [b"a", b"b", b"c"]), Recorder()
    assert "cancelled" in call.what_times_out()
    call.receive(StreamReady(1, stream, 1, 2))
    assert stream.messages == [DataPages(1, stream, 5, (b"a", b"b"))]
    call.receive(Empty(1, 3))
    assert stream.messages[1:] == [DataPages(1, stream, 7, (b"c",)), StreamEnd(1, 3)]
    assert "may have been carried out" in call.what_times_out()
    call.receive(DataWriteEnd(1, 5, 3, 1))
    assert call.done
    assert call.written is not None


@pytest.mark.parametrize("call", [ReadCall(1, 2), StreamCall(1), WriteCall(1, 0, [b"a"])])
def test_a_call_passes_over_messages_that_mean_nothing_to_it(call: Call) -> None:
    call.receive("nonsense")
    assert not call.done
    assert "request 1" in call.describe()


def test_a_stream_that_has_ended_is_no_error_for_the_call_which_hears_of_it_from_the_server() -> None:
    call = WriteCall(1, None, [b"a"])
    call.receive(StreamReady(1, Gone(), 1, 1))
    call.receive(RequestFailed(1, Cancelled("given up")))
    assert isinstance(call.error, Cancelled)


def test_a_thread_drops_what_comes_for_a_call_that_it_has_given_up() -> None:
    client = ThreadClient("main")
    client.tell(Empty(7))
    assert str(client) == "thread main"
    assert client.is_alive()
    client.end()
    assert not client.is_alive()
