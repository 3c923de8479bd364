"""The stream actor alone: what it passes on to whom, and what it says when somebody breaks the rules or is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pfs.actors import Actor
from pfs.errors import Cancelled, ProtocolError, SessionEnded
from pfs.protocol import DataPages, Empty, RequestFailed, StreamEnd
from pfs.streams.stream import REMEMBERED, CloseTransfer, OpenTransfer, Received, Stream, TransferFailed
from pfs.testing.scheduler import SimulatedScheduler


class Recorder(Actor):
    """Keeps what it is told."""

    def __init__(self, messages: list[Any]) -> None:
        super().__init__()
        self._messages = messages

    def on_receive(self, message: Any) -> None:
        self._messages.append(message)


class Ends:
    """A stream between a server and a client that keep what they are told."""

    def __init__(self, seed: int = 1) -> None:
        self.scheduler = SimulatedScheduler(seed)
        self.at_server: list[Any] = []
        self.at_client: list[Any] = []
        self.server = self.recorder(self.at_server)
        self.client = self.recorder(self.at_client)
        self.stream: Any = self.scheduler.start(Stream, self.server, self.client)

    def recorder(self, messages: list[Any]) -> Any:
        return self.scheduler.start(Recorder, messages)

    def tell(self, *messages: Any) -> None:
        for message in messages:
            self.stream.tell(message)
        self.scheduler.run()

    def open_write(self, ref: int = 1, credits: int = 2) -> None:
        self.tell(OpenTransfer(ref, self.client, self.server, credits))

    def open_read(self, ref: int = 1, credits: int = 2, consumer: Any = None) -> None:
        self.tell(OpenTransfer(ref, self.server, consumer or self.client, credits))

    def data(self, ref: int = 1, n: int = 1) -> DataPages:
        return DataPages(ref, self.stream, None, (b"page",) * n)

    def error_at_server(self) -> Any:
        [failed] = [each for each in self.at_server if isinstance(each, TransferFailed)]
        assert failed.client is self.client
        return failed.error


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.scheduler.stop()


def test_a_writers_messages_reach_the_server_in_order_with_the_writers_name(ends: Ends) -> None:
    ends.open_write()
    messages = [ends.data(), ends.data(), StreamEnd(1, 2)]
    ends.tell(*messages)
    assert ends.at_server == [Received(ends.client, message) for message in messages]
    assert ends.at_client == []


def test_a_reads_pages_reach_the_consumer_and_its_credit_the_server(ends: Ends) -> None:
    ends.open_read()
    data = ends.data()
    ends.tell(data, Empty(1), data, data, StreamEnd(1, 3))
    assert ends.at_client == [data, data, data, StreamEnd(1, 3)]
    assert ends.at_server == [Received(ends.client, Empty(1))]


def test_the_servers_credit_reaches_the_writer(ends: Ends) -> None:
    ends.open_write(credits=1)
    ends.tell(ends.data(), Empty(1), ends.data())
    assert ends.at_client == [Empty(1)]
    assert len(ends.at_server) == 2


def test_transfers_are_told_apart_by_their_refs(ends: Ends) -> None:
    ends.open_write(1, credits=1)
    ends.open_write(2, credits=1)
    ends.tell(ends.data(1), ends.data(2), ends.data(1))
    assert [each.message.ref for each in ends.at_server if isinstance(each, Received)] == [1, 2]
    assert isinstance(ends.error_at_server(), ProtocolError)
    ends.tell(StreamEnd(2, 1))
    assert ends.at_server[-1] == Received(ends.client, StreamEnd(2, 1))


def test_a_data_message_without_credit_ends_its_transfer(ends: Ends) -> None:
    ends.open_write(credits=2)
    ends.tell(ends.data(), ends.data(), ends.data())
    assert sum(isinstance(each, Received) for each in ends.at_server) == 2
    assert "without credit" in str(ends.error_at_server())


def test_credit_for_what_was_never_sent_ends_its_transfer(ends: Ends) -> None:
    ends.open_read()
    ends.tell(ends.data(), Empty(1, 2))
    assert "credits given back" in str(ends.error_at_server())


def test_a_data_message_that_names_another_stream_ends_its_transfer(ends: Ends) -> None:
    ends.open_write()
    ends.tell(DataPages(1, ends.client, None, ()))
    assert "another stream" in str(ends.error_at_server())


def test_credit_that_comes_after_the_end_is_dropped(ends: Ends) -> None:
    ends.open_read()
    ends.tell(ends.data(), StreamEnd(1, 1), Empty(1))
    assert ends.at_server == []


def test_data_after_the_end_is_told_to_the_server_which_knows_the_request(ends: Ends) -> None:
    ends.open_write()
    ends.tell(StreamEnd(1, 0))
    ends.at_server.clear()
    ends.tell(ends.data())
    assert "after the end" in str(ends.error_at_server())
    assert ends.at_client == []


def test_data_for_a_ref_that_was_never_heard_of_is_told_to_the_server_which_knows_who_waits(ends: Ends) -> None:
    ends.open_write()
    ends.tell(ends.data(2), StreamEnd(2, 0), Empty(2))
    assert [(type(each), each.ref, each.opened) for each in ends.at_server] == [(TransferFailed, 2, False)] * 2
    assert all("not open" in str(each.error) for each in ends.at_server)
    assert ends.at_client == []


@pytest.mark.parametrize("ref", [None, [], "1", True])
def test_data_with_a_ref_that_can_never_be_right_is_answered_to_the_client(ends: Ends, ref: Any) -> None:
    ends.open_write()
    ends.tell(DataPages(ref, ends.stream, None, ()), StreamEnd(ref, 0), Empty(ref))
    assert [type(each) for each in ends.at_client] == [RequestFailed, RequestFailed]
    assert all(isinstance(each.error, ProtocolError) for each in ends.at_client)
    assert ends.at_server == []


def test_only_so_many_ended_transfers_are_remembered(ends: Ends) -> None:
    for ref in range(REMEMBERED + 1):
        ends.open_write(ref)
        ends.tell(StreamEnd(ref, 0))
    ends.tell(ends.data(REMEMBERED))
    assert ends.error_at_server(), "it came after the end"
    ends.at_server.clear()
    ends.tell(ends.data(0))
    assert "not open" in str(ends.error_at_server())


def test_a_closed_transfer_passes_nothing_on(ends: Ends) -> None:
    ends.open_read()
    close = CloseTransfer(1, Cancelled("given up"))
    ends.tell(ends.data(), close, close, Empty(1))
    assert len(ends.at_client) == 1
    assert ends.at_server == []


def test_a_consumer_that_is_not_the_client_is_told_of_the_failure_behind_the_data(ends: Ends) -> None:
    at_consumer: list[Any] = []
    ends.open_read(consumer=ends.recorder(at_consumer))
    error = Cancelled("given up")
    data = ends.data()
    ends.tell(data, data, CloseTransfer(1, error))
    assert at_consumer == [data, data, RequestFailed(1, error)]
    assert ends.at_client == []


def test_the_death_of_a_consumer_ends_its_transfers_only(ends: Ends) -> None:
    dying, living = ends.recorder([]), ends.recorder([])
    for ref, consumer in ((1, dying), (2, dying), (3, living)):
        ends.open_read(ref, consumer=consumer)
    dying.kill()
    ends.scheduler.run()
    failed = [each for each in ends.at_server if isinstance(each, TransferFailed)]
    assert [each.ref for each in failed] == [1, 2]
    assert all(isinstance(each.error, SessionEnded) for each in failed)
    ends.tell(ends.data(3), Empty(3))
    assert ends.at_server[-1] == Received(ends.client, Empty(3))


def test_data_for_a_consumer_that_is_dead_fails_the_transfer_once(ends: Ends) -> None:
    consumer = ends.recorder([])
    ends.open_read(consumer=consumer)
    consumer.kill()
    ends.tell(ends.data(), ends.data())
    assert [type(each) for each in ends.at_server].count(TransferFailed) >= 1
    assert isinstance(ends.at_server[0].error, SessionEnded)


class Broken:
    """A consumer that raises."""

    def tell(self, message: object) -> None:
        raise OSError("the pipe is broken")

    def is_alive(self) -> bool:
        return True


@pytest.mark.leaks_allowed("the looks at a foreign address go on until the scheduler stops")
def test_a_consumer_that_raises_fails_its_transfer_and_not_the_stream(ends: Ends) -> None:
    ends.stream.tell(OpenTransfer(1, ends.server, Broken(), 2))
    ends.stream.tell(ends.data())
    ends.scheduler.run(until=lambda: bool(ends.at_server))
    assert "pipe is broken" in str(ends.error_at_server())
    assert ends.stream.is_alive()


def test_a_stream_whose_server_is_gone_does_not_fail(ends: Ends) -> None:
    ends.open_write(credits=1)
    ends.server.kill()
    ends.tell(ends.data(), ends.data(), StreamEnd(1, 2), CloseTransfer(1, Cancelled("")))
    assert ends.stream.is_alive()


def test_a_message_that_a_stream_does_not_know_is_dropped(ends: Ends) -> None:
    ends.tell("nonsense", None)
    assert ends.stream.is_alive()


def test_a_stream_that_ends_no_longer_watches_the_consumers(ends: Ends) -> None:
    consumer = ends.recorder([])
    ends.open_read(1, consumer=consumer)
    ends.open_read(2, consumer=consumer)
    ends.stream.stop()
    assert not consumer._watchers
