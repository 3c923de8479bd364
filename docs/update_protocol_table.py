"""Write the protocol table of `pfs.protocol` into the README, between its markers.

Run it after a change of the messages: `.venv/bin/python docs/update_protocol_table.py`.
"""

from __future__ import annotations

from pathlib import Path

from pfs.protocol import protocol_table

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- protocol -->", "<!-- /protocol -->"


def with_table(text: str) -> str:
    """The text with the table between the markers; ValueError if it does not have each marker once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"the README must have {BEGIN} and {END} once each, around the protocol table")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{protocol_table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
