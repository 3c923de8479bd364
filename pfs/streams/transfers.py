"""The credit account of one transfer: how many empty wagons the producer has.  Plain code.

Invariant: `granted == sent + credit`, and `credit` is between 0 and `limit`: the consumer can give back only what it
was sent.
"""

from __future__ import annotations

from typing import Any

from pfs.errors import ProtocolError


class Transfer:
    """One transfer on a stream, told apart by its ref."""

    __slots__ = ("consumer", "credit", "limit", "producer", "ref")

    def __init__(self, ref: int, producer: Any, consumer: Any, limit: int) -> None:
        self.ref = ref
        self.producer = producer
        self.consumer = consumer
        self.limit = limit
        self.credit = limit

    def spend(self) -> None:
        """One data message passes.  `ProtocolError` if the producer had no credit for it."""
        if not self.credit:
            raise ProtocolError(
                f"request {self.ref}: a data message was sent without credit ({self.limit} are on their way): "
                "wait for Empty"
            )
        self.credit -= 1

    def give_back(self, n: Any) -> None:
        """n empty wagons come back.  `ProtocolError` if that many are not under way."""
        if type(n) is not int or n < 1 or n > self.limit - self.credit:
            raise ProtocolError(
                f"request {self.ref}: {n!r} credits given back; {self.limit - self.credit} data messages are out"
            )
        self.credit += n
