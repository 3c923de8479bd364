"""Named queues: blocks, credits, order, ends, and operations of another type."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pfs.errors import Busy, InvalidRequest, NotThisQueueType, ProtocolError, RequestTooLarge, StreamClosed, StreamEmpty
from pfs.streams import queues
from pfs.streams.queues import InputQueue, OutputQueue, PlainQueue, Unit, named_queue

Returned = list[tuple[str, int]]


def input_queue(unit: Unit = "element", block_size: int = 3, window: int = 2) -> tuple[InputQueue[str, int], Returned]:
    returned: Returned = []
    queue: InputQueue[str, int] = InputQueue(
        "in", lambda sender, n: returned.append((sender, n)), unit=unit, block_size=block_size, credits=window
    )
    return queue, returned


def output_queue(
    unit: Unit = "element", block_size: int = 3, window: int = 2
) -> tuple[OutputQueue[int], list[tuple[int, ...]], list[int]]:
    sent: list[tuple[int, ...]] = []
    ends: list[int] = []
    queue = OutputQueue("out", sent.append, unit=unit, block_size=block_size, credits=window, send_end=ends.append)
    return queue, sent, ends


def test_the_three_stages_of_the_module_text_do_what_it_says() -> None:
    result = doctest.testmod(queues)
    assert result.attempted > 20
    assert result.failed == 0


# ---------------------------------------------------------------------------------------------- output queues


def test_an_output_queue_makes_blocks_of_exactly_its_block_size() -> None:
    queue, sent, _ = output_queue()
    for number in range(5):
        queue.put(number)
        assert queue.block_end == (number == 2)
    assert sent == [(0, 1, 2)]
    queue.put(5)
    assert sent == [(0, 1, 2), (3, 4, 5)]


def test_a_half_full_buffer_is_neither_empty_nor_prepared() -> None:
    queue, _, _ = output_queue()
    assert (queue.empty, queue.prepared) == (True, False)
    queue.put(0)
    assert (queue.empty, queue.prepared) == (False, False)
    queue.put(1)
    queue.put(2)
    assert (queue.empty, queue.prepared) == (True, False), "the block was sent"


def test_flush_sends_a_shorter_block_and_nothing_if_there_is_nothing() -> None:
    queue, sent, _ = output_queue()
    queue.flush()
    queue.put(0)
    assert (queue.block_end, sent) == (False, [])
    queue.flush()
    assert (queue.block_end, sent) == (True, [(0,)])
    queue.flush()
    assert sent == [(0,)]
    for number in (1, 2, 3):
        queue.put(number)
    assert sent == [(0,), (1, 2, 3)]


def test_a_block_without_credit_waits_and_nothing_more_is_taken() -> None:
    queue, sent, _ = output_queue(block_size=1, window=1)
    queue.put(0)
    queue.put(1)
    assert (queue.credits, queue.prepared, queue.empty, sent) == (0, True, False, [(0,)])
    with pytest.raises(Busy, match="'out' holds a block of 1 and has no credit"):
        queue.put(2)
    queue.credit(1)
    assert (queue.credits, queue.prepared, queue.empty, sent) == (0, False, True, [(0,), (1,)])
    queue.credit(1)
    assert queue.credits == 1
    queue.put(2)
    assert sent == [(0,), (1,), (2,)]


def test_a_flushed_block_without_credit_waits_too() -> None:
    queue, sent, _ = output_queue(block_size=2, window=1)
    for number in range(3):
        queue.put(number)
    queue.flush()
    assert queue.prepared
    queue.flush()
    queue.credit(1)
    assert sent == [(0, 1), (2,)]


def test_no_more_credits_come_back_than_messages_are_in_flight() -> None:
    queue, _, _ = output_queue(block_size=1, window=2)
    queue.put(0)
    with pytest.raises(ProtocolError, match="2 credits back, but only 1 messages"):
        queue.credit(2)
    assert queue.credits == 1
    for number in (0, -1, True, 1.0):
        with pytest.raises(InvalidRequest, match="credits"):
            queue.credit(number)  # type: ignore[arg-type]


def test_the_end_is_sent_once_after_the_last_block_with_the_number_of_elements() -> None:
    queue, sent, ends = output_queue(block_size=2, window=1)
    for number in range(3):
        queue.put(number)
    queue.close()
    assert (sent, ends, queue.closed) == ([(0, 1)], [], True)
    queue.credit(1)
    assert (sent, ends) == ([(0, 1), (2,)], [3])
    queue.credit(1)
    queue.close()
    assert ends == [3]


def test_a_stream_without_elements_ends_at_once() -> None:
    queue, sent, ends = output_queue()
    queue.close()
    assert (sent, ends) == ([], [0])


def test_nobody_need_be_told_of_the_end() -> None:
    queue: OutputQueue[int] = OutputQueue("out", lambda message: None)
    queue.close()
    assert queue.empty


def test_a_closed_output_queue_takes_nothing() -> None:
    queue, _, _ = output_queue()
    queue.close()
    with pytest.raises(StreamClosed, match="'out' was closed"):
        queue.put(1)
    with pytest.raises(StreamClosed, match="'out' was closed"):
        queue.flush()


def test_whole_messages_are_sent_as_they_are() -> None:
    queue, sent, ends = output_queue(unit="message", window=3)
    queue.write([1])
    queue.write([])
    queue.write((1, 2, 3))
    with pytest.raises(RequestTooLarge, match="4 elements: a block has 3"):
        OutputQueue("out", sent.append, unit="message", block_size=3).write([1, 2, 3, 4])
    assert sent == [(1,), (), (1, 2, 3)]
    queue.write([])
    assert queue.prepared, "a message without elements waits for credit like any other"
    assert not queue.empty
    with pytest.raises(Busy, match="write again"):
        queue.write([4])
    queue.close()
    queue.credit(3)
    assert (sent[3:], ends) == ([()], [4])
    with pytest.raises(StreamClosed):
        queue.write([5])


# ---------------------------------------------------------------------------------------------- input queues


def test_an_input_queue_tells_the_sender_with_each_element() -> None:
    queue, returned = input_queue()
    queue.write("anna", (1, 2))
    queue.write("bert", (3,))
    queue.write("anna", (4,))
    assert [queue.get() for _ in range(4)] == [("anna", 1), ("anna", 2), ("bert", 3), ("anna", 4)]
    assert returned == [("anna", 1), ("bert", 1), ("anna", 1)]


def test_a_credit_goes_back_with_the_last_element_of_a_block_and_not_before() -> None:
    queue, returned = input_queue()
    queue.write("anna", (1, 2))
    queue.get()
    assert (returned, queue.block_end, queue.empty) == ([], False, False)
    queue.get()
    assert (returned, queue.block_end, queue.empty) == ([("anna", 1)], True, True)


def test_reading_an_empty_queue_is_an_error_that_changes_nothing() -> None:
    queue, _ = input_queue()
    assert (queue.empty, queue.prepared) == (True, False)
    with pytest.raises(StreamEmpty, match="'in' is empty"):
        queue.get()
    queue.write("anna", (1,))
    assert (queue.empty, queue.prepared) == (False, True)
    assert queue.get() == ("anna", 1)


def test_a_block_without_elements_pays_its_credit_back_when_it_is_reached() -> None:
    queue, returned = input_queue(window=4)
    queue.write("anna", ())
    assert (returned, queue.empty) == ([("anna", 1)], True)
    queue.write("anna", (1,))
    queue.write("anna", ())
    queue.write("bert", ())
    queue.write("anna", (2,))
    assert len(returned) == 1
    assert queue.get() == ("anna", 1)
    assert returned[1:] == [("anna", 1), ("anna", 1), ("bert", 1)]
    assert queue.block_end
    assert queue.get() == ("anna", 2)


def test_an_input_queue_ends_after_its_last_element() -> None:
    queue, _ = input_queue()
    queue.write("anna", (1, 2))
    queue.get()
    queue.close()
    with pytest.raises(StreamClosed, match="takes nothing more"):
        queue.write("anna", (3,))
    assert queue.get() == ("anna", 2)
    with pytest.raises(StreamClosed, match="'in' has ended"):
        queue.get()


def test_a_sender_without_credit_is_found_out() -> None:
    queue, _ = input_queue(window=2)
    queue.write("anna", (1,))
    queue.write("anna", (2,))
    with pytest.raises(ProtocolError, match="'anna' without credit: 2 of it"):
        queue.write("anna", (3,))
    queue.write("bert", (4,))
    queue.get()
    queue.write("anna", (5,))
    assert [queue.get() for _ in range(3)] == [("anna", 2), ("bert", 4), ("anna", 5)]


def test_a_message_larger_than_a_block_is_refused() -> None:
    queue, _ = input_queue()
    with pytest.raises(ProtocolError, match="4 elements from 'anna'"):
        queue.write("anna", (1, 2, 3, 4))
    assert queue.empty


def test_whole_messages_are_read_with_their_sender_and_may_have_no_elements() -> None:
    queue, returned = input_queue(unit="message", window=3)
    queue.write("anna", ())
    queue.write("bert", (1, 2))
    assert returned == []
    assert queue.read() == ("anna", ())
    assert queue.read() == ("bert", (1, 2))
    assert queue.block_end
    assert returned == [("anna", 1), ("bert", 1)]
    with pytest.raises(StreamEmpty, match="read again"):
        queue.read()


# ---------------------------------------------------------------------------------------------- plain queues


def test_a_plain_queue_is_first_in_first_out() -> None:
    queue: PlainQueue[int] = PlainQueue("plain")
    assert (queue.empty, queue.prepared) == (True, False)
    queue.put(1)
    queue.put(2)
    assert (queue.empty, queue.prepared) == (False, True)
    assert (queue.get(), queue.get()) == (1, 2)
    with pytest.raises(StreamEmpty):
        queue.get()
    queue.put(3)
    queue.close()
    with pytest.raises(StreamClosed):
        queue.put(4)
    assert queue.get() == 3
    with pytest.raises(StreamClosed):
        queue.get()


def test_a_plain_queue_of_messages_is_written_and_read() -> None:
    queue: PlainQueue[tuple[int, ...]] = PlainQueue("plain", unit="message")
    queue.write((1, 2))
    queue.write(())
    assert (queue.read(), queue.read()) == ((1, 2), ())
    with pytest.raises(StreamEmpty):
        queue.read()
    queue.close()
    with pytest.raises(StreamClosed):
        queue.write((3,))


# ---------------------------------------------------------------------------------------------- types and units


@pytest.mark.parametrize(
    ("kind", "unit", "allowed"),
    [
        ("input", "element", {"write", "get", "empty", "prepared", "block_end"}),
        ("input", "message", {"write", "read", "empty", "prepared", "block_end"}),
        ("output", "element", {"put", "flush", "empty", "prepared", "block_end"}),
        ("output", "message", {"write", "flush", "empty", "prepared", "block_end"}),
        ("plain", "element", {"put", "get", "empty", "prepared"}),
        ("plain", "message", {"write", "read", "empty", "prepared"}),
    ],
)
def test_operations_of_another_type_or_unit_are_clear_errors(kind: str, unit: Unit, allowed: set[str]) -> None:
    options_by_kind: dict[str, dict[str, object]] = {
        "input": {"return_credit": lambda sender, n: None},
        "output": {"send": lambda message: None},
        "plain": {},
    }
    options = options_by_kind[kind]
    arguments = {"put": (1,), "write": (("anna", (1,)) if kind == "input" else ((1,),))}
    queue = named_queue("numbers", kind, unit=unit, **options)  # type: ignore[call-overload]
    for operation in ("put", "write", "get", "read", "flush", "empty", "prepared", "block_end"):
        if operation in allowed:
            found = getattr(queue, operation)
            assert isinstance(found, bool) or found(*arguments.get(operation, ())) is not NotImplemented
        else:
            with pytest.raises(NotThisQueueType, match=f"'numbers' has type {kind} and unit {unit}: no {operation}"):
                getattr(queue, operation)(*arguments.get(operation, ()))


def test_a_misspelt_operation_is_no_matter_of_types() -> None:
    queue: PlainQueue[int] = PlainQueue("plain")
    with pytest.raises(AttributeError, match="'PlainQueue' object has no attribute 'ptu'"):
        queue.ptu  # type: ignore[attr-defined]  # noqa: B018


def test_the_factory_makes_each_type() -> None:
    incoming: InputQueue[str, int] = named_queue("a", "input", return_credit=lambda sender, n: None, block_size=2)
    outgoing: OutputQueue[int] = named_queue("b", "output", send=lambda message: None, unit="message")
    plain: PlainQueue[int] = named_queue("c", "plain")
    assert [type(queue) for queue in (incoming, outgoing, plain)] == [InputQueue, OutputQueue, PlainQueue]
    assert [(queue.name, queue.type, queue.unit) for queue in (incoming, outgoing, plain)] == [
        ("a", "input", "element"),
        ("b", "output", "message"),
        ("c", "plain", "element"),
    ]


def test_values_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="type 'both': give one of input, output, plain"):
        named_queue("a", "both")  # type: ignore[call-overload]
    with pytest.raises(InvalidRequest, match="unit 'page'"):
        PlainQueue("a", unit="page")  # type: ignore[arg-type]
    for name in ("", None, 3):
        with pytest.raises(InvalidRequest, match="name"):
            PlainQueue(name)  # type: ignore[arg-type]
    for number in (0, -1, True, 1.5):
        with pytest.raises(InvalidRequest, match="block size"):
            OutputQueue("a", lambda message: None, block_size=number)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="number of credits"):
            InputQueue("a", lambda sender, n: None, credits=number)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="send"):
        named_queue("a", "output")  # type: ignore[call-overload]


# ---------------------------------------------------------------------------------------------- both ends together


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 40))
def test_ends_that_call_each_other_directly_lose_nothing(block_size: int, window: int, count: int) -> None:
    received: list[int] = []
    ends: list[int] = []
    queue: InputQueue[str, int] = InputQueue(
        "in", lambda sender, n: source.credit(n), block_size=block_size, credits=window
    )

    def deliver(message: tuple[int, ...]) -> None:
        queue.write("source", message)
        while not queue.empty:
            received.append(queue.get()[1])

    source = OutputQueue("out", deliver, block_size=block_size, credits=window, send_end=ends.append)
    for number in range(count):
        source.put(number)
    source.close()
    assert received == list(range(count))
    assert ends == [count]
    assert source.credits == window


class StreamMachine(RuleBasedStateMachine):
    """A producer, two streams' worth of messages and credits on their way, and a consumer, in any order."""

    BLOCK = 3
    WINDOW = 2

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[int, ...]] = []
        self.credits: list[int] = []
        self.ends: list[int] = []
        self.source = OutputQueue(
            "out", self.messages.append, block_size=self.BLOCK, credits=self.WINDOW, send_end=self.ends.append
        )
        self.target: InputQueue[str, int] = InputQueue(
            "in", lambda sender, n: self.credits.append(n), block_size=self.BLOCK, credits=self.WINDOW
        )
        self.put_so_far = 0
        self.got_so_far = 0
        self.arrived = 0
        self.flushed = False

    @precondition(lambda self: not self.source.closed)
    @rule()
    def put(self) -> None:
        if self.source.prepared:
            with pytest.raises(Busy):
                self.source.put(-1)
        else:
            self.source.put(self.put_so_far)
            self.put_so_far += 1

    @precondition(lambda self: not self.source.closed)
    @rule()
    def flush(self) -> None:
        self.flushed = True
        self.source.flush()

    @precondition(lambda self: self.put_so_far > 8)
    @rule()
    def close(self) -> None:
        self.source.close()

    @precondition(lambda self: self.messages)
    @rule()
    def deliver(self) -> None:
        message = self.messages.pop(0)
        assert message
        if not self.flushed and not self.source.closed:
            assert len(message) == self.BLOCK
        self.arrived += len(message)
        self.target.write("source", message)

    @rule()
    def get(self) -> None:
        if self.got_so_far == self.arrived:
            assert self.target.empty
            with pytest.raises(StreamEmpty):
                self.target.get()
        else:
            assert self.target.get() == ("source", self.got_so_far)
            self.got_so_far += 1

    @precondition(lambda self: self.credits)
    @rule()
    def bring_credit_back(self) -> None:
        self.source.credit(self.credits.pop(0))

    @invariant()
    def wagons_are_neither_lost_nor_made(self) -> None:
        here = 0 if self.target.empty else 1
        away = self.WINDOW - self.source.credits
        assert len(self.messages) + len(self.credits) + here <= away <= self.WINDOW
        if self.source.prepared:
            assert self.source.credits == 0

    def teardown(self) -> None:
        """Let it run out: everything that was put arrives, every wagon comes home, and the end is told once."""
        self.source.close()
        while self.messages or self.credits or not self.target.empty:
            if self.messages:
                self.deliver()
            while not self.target.empty:
                self.get()
            if self.credits:
                self.bring_credit_back()
        assert self.got_so_far == self.put_so_far
        assert self.ends == [self.put_so_far]
        assert self.source.credits == self.WINDOW


TestStreamOfQueues = StreamMachine.TestCase
