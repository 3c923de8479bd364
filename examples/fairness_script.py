"""The script of the fairness demo: a TOML file that says which clients there are and what they do.

Plain code.  `load` gives a `Script` or raises `ScriptError`, whose message names the file, the line, the key and what
the key takes.  `examples/fairness.toml` explains every key.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUIRED = object()


class ScriptError(Exception):
    """The script cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Data:
    """The page file."""

    pages: int
    page_size: int


@dataclass(frozen=True)
class Server:
    """The limits of the server."""

    chunk: int
    block: int
    credits: int


@dataclass(frozen=True)
class Client:
    """`count` clients that all do the same; times in seconds."""

    name: str
    kind: str
    count: int
    requests: int
    pages: int
    """Pages of a request; 0: one page, of a scan all that there are."""
    start: float
    think: tuple[float, float]
    pause: float
    dies: int
    """After how many pages of its last request the client ends; 0: it does not."""


@dataclass(frozen=True)
class Script:
    """What the demo runs."""

    seed: int
    data: Data
    server: Server
    clients: tuple[Client, ...]

    def pages(self, client: Client) -> int:
        """Pages in each request of a client."""
        return client.pages or (self.data.pages if client.kind == "scan" else 1)


# ------------------------------------------------------------------------------------------ what each key takes

Check = Callable[[Any], Any]
"""Gives the value to be used, or raises `ValueError` that says what the key takes."""


def whole(least: int, most: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"a whole number from {least:,} to {most:,}")
        return value

    return check


def one_of(*values: Any) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not type(values[0]) or value not in values:
            raise ValueError(f"one of {', '.join(map(repr, values))}")
        return value

    return check


def seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 3600:
        raise ValueError("a number of seconds from 0 to 3600")
    return float(value)


def seconds_between(value: Any) -> tuple[float, float]:
    if not isinstance(value, list):
        value = [value, value]
    try:
        least, most = map(seconds, value)
    except ValueError:
        least, most = 1.0, 0.0
    if least > most:
        raise ValueError("a number of seconds from 0 to 3600, or two such, [least, most]")
    return least, most


def text(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 40 or not value.isprintable():
        raise ValueError("a text of 1 to 40 characters")
    return value


LIMIT = 1_000_000
MOST_BYTES = 1 << 30
"""The largest page file: it should fit into the buffer pool, so that disks do not blur the picture."""

KEYS: dict[str, dict[str, tuple[Check, Any]]] = {
    "": {"seed": (whole(0, 2**64), 0)},
    "data": {
        "pages": (whole(1, LIMIT), 4096),
        "page_size": (one_of(*(2**power for power in range(9, 17))), 8192),
    },
    "server": {"chunk": (whole(1, LIMIT), 32), "block": (whole(1, LIMIT), 8), "credits": (whole(1, LIMIT), 4)},
    "clients": {
        "name": (text, REQUIRED),
        "kind": (one_of("scan", "read", "append"), REQUIRED),
        "count": (whole(1, 100_000), 1),
        "requests": (whole(1, LIMIT), 1),
        "pages": (whole(1, LIMIT), 0),
        "start": (seconds, 0.0),
        "think": (seconds_between, (0.0, 0.0)),
        "pause": (seconds, 0.0),
        "dies": (whole(1, LIMIT), 0),
    },
}
"""For each table its keys: what they take, and what they are if they are left out."""

# ------------------------------------------------------------------------------------------ reading


def load(path: Path) -> Script:
    """The script in a file."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScriptError(f"{path} cannot be read: {error}") from None
    return parse(content, str(path))


def parse(content: str, source: str = "script") -> Script:
    """The script in a text; `source` is what messages call it."""
    try:
        tables = tomllib.loads(content)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ScriptError(f"{source}: {error}") from None
    reader = _Reader(content, source)
    top = {key: value for key, value in tables.items() if key not in KEYS}
    if unknown := [key for key in top if key not in KEYS[""]]:
        raise reader.unknown(unknown[0], [*KEYS[""], *filter(None, KEYS)], "", 0)
    clients = tables.get("clients")
    if not isinstance(clients, list) or not clients:
        raise reader.error("there are no clients: add at least one [[clients]]", "clients", "", 0)
    script = Script(
        **reader.values(top, "", 0),
        data=Data(**reader.values(tables.get("data", {}), "data", 0)),
        server=Server(**reader.values(tables.get("server", {}), "server", 0)),
        clients=tuple(Client(**reader.values(table, "clients", number)) for number, table in enumerate(clients)),
    )
    if script.data.pages * script.data.page_size > MOST_BYTES:
        what = (
            f"the page file would have {script.data.pages * script.data.page_size:,} bytes; the most is {MOST_BYTES:,}"
        )
        raise reader.error(what, "pages", "data", 0)
    for number, client in enumerate(script.clients):
        key, what = contradiction(script, number, client)
        if key:
            raise reader.error(f"{key} {what}", key, "clients", number)
    return script


def contradiction(script: Script, number: int, client: Client) -> tuple[str, str]:
    """The key of a client that does not go with the rest of the script, and why; ("", "") if all do."""
    pages = script.pages(client)
    if any(client.name == other.name for other in script.clients[:number]):
        return "name", f"{client.name!r} is taken; use `count` for several clients that do the same"
    if client.kind != "append" and pages > script.data.pages:
        return "pages", f"is {pages:,}, but the page file has {script.data.pages:,} (`pages` of [data])"
    if client.kind == "append" and client.pause:
        return "pause", "is for clients that read"
    if client.kind == "append" and client.dies:
        return "dies", "is for clients that read"
    if client.dies >= pages:
        return "dies", f"is {client.dies:,}, but a request of this client ends after {pages:,} pages"
    return "", ""


class _Reader:
    """Checks the tables of a TOML text, and knows where in the text they are."""

    def __init__(self, content: str, source: str) -> None:
        self._lines = content.splitlines()
        self._source = source

    def values(self, table: Any, header: str, number: int) -> dict[str, Any]:
        """All values of the number-th table of this name, those that are left out too."""
        if not isinstance(table, dict):
            raise self.error(f"{header} must be a table", header, "", 0)
        keys = KEYS[header]
        values = {}
        for key, value in table.items():
            if key not in keys:
                raise self.unknown(key, keys, header, number)
            try:
                values[key] = keys[key][0](value)
            except ValueError as takes:
                raise self.error(f"{key} is {value!r}, but it must be {takes}", key, header, number) from None
        for key, (_, default) in keys.items():
            if key not in values:
                if default is REQUIRED:
                    raise self.error(f"{key} is missing", key, header, number)
                values[key] = default
        return values

    def unknown(self, key: str, known: Iterable[str], header: str, number: int) -> ScriptError:
        known = list(known)
        close = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        return self.error(f"there is no key {key!r}: {hint}", key, header, number)

    def error(self, what: str, key: str, header: str, number: int) -> ScriptError:
        """An error at a key of the number-th table of this name ("" for the top of the file)."""
        line = self._line(key, header, number)
        where = f", line {line}" if line else ""
        return ScriptError(f"{self._source}{where}: {what}")

    def _line(self, key: str, header: str, number: int) -> int | None:
        """The line of the key, else of its table; None if the text is laid out in a way that this does not follow."""
        is_key = re.compile(rf'\s*"?{re.escape(key)}"?\s*=')
        tables = 0
        inside = not header
        line_of_table = None
        for index, line in enumerate(self._lines, 1):
            if heading := re.match(r"\s*\[+\s*([\w-]+)\s*\]+", line):
                name = heading[1]
                inside = name == header and tables == number
                tables += name == header
                if inside or (not header and name == key):
                    line_of_table = index
            elif inside and is_key.match(line):
                return index
        return line_of_table
