"""The README's protocol table is what `pfs.protocol` says, and the classes are what the table promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pfs import errors, protocol
from pfs.protocol import MESSAGES, MessageRow, protocol_table

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- protocol -->", "<!-- /protocol -->"
REGENERATE = "run `.venv/bin/python docs/update_protocol_table.py` and commit README.md"

ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type)}

CLASSES = [
    each
    for each in vars(protocol).values()
    if isinstance(each, type) and issubclass(each, msgspec.Struct) and each.__module__ == protocol.__name__
]


def test_the_readme_has_the_protocol_table_of_the_classes() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count(BEGIN) == 1, f"README.md must have {BEGIN} once"
    assert text.count(END) == 1, f"README.md must have {END} once"
    shown = text.split(BEGIN)[1].split(END)[0].strip()
    if shown != protocol_table():
        pytest.fail(f"the README's protocol table is not that of pfs.protocol: {REGENERATE}", pytrace=False)


def test_every_message_class_has_one_row_and_every_row_a_class() -> None:
    assert sorted(row.message.__name__ for row in MESSAGES) == sorted(each.__name__ for each in CLASSES)


@pytest.mark.parametrize("row", MESSAGES, ids=lambda row: row.message.__name__)
def test_a_row_says_who_sends_what_to_whom_and_when(row: MessageRow) -> None:
    assert row.sender
    assert row.receiver
    assert row.states
    assert f"`{row.message.__name__}`" in protocol_table()
    if row.sender == "client" and row.message is not protocol.Cancel:
        assert row.reply, "every request has an answer"
    known = {row.message.__name__ for row in MESSAGES}
    for name in row.reply.replace(" to `to`", "").split(", "):
        assert name in known | {""}
    for name in row.errors.removeprefix("any ").split(", "):
        assert name in ERRORS | {""}


@pytest.mark.parametrize("message_class", CLASSES, ids=lambda each: each.__name__)
def test_a_message_is_immutable_says_what_it_is_and_carries_its_ref(message_class: Any) -> None:
    assert message_class.__struct_config__.frozen
    assert message_class.__doc__
    assert "ref" in message_class.__struct_fields__
    message = message_class(*range(len(message_class.__struct_fields__)))
    with pytest.raises(AttributeError):
        message.ref = 7
    with pytest.raises(AttributeError):
        message.another = 7


def test_refs_are_never_used_twice() -> None:
    refs = [protocol.new_ref() for _ in range(1000)]
    assert len(set(refs)) == 1000
