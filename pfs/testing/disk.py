"""A disk in memory that knows what a crash may take.

Each file and directory has two states: what calls see, and what is durable.  Between them lies the list of changes that
no sync covers yet, in the order they were made.  A sync applies the changes of one file (or one directory) to the
durable state; a crash applies only those that a policy lets survive.

Invariant: durable state + pending changes in order = what calls see, except after a failed sync, which drops the
pending changes as Linux does (the pages count as clean, though they never reached the disk).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Literal, NamedTuple

SECTOR = 512
"""Bytes that a disk writes wholly or not at all."""

CrashPolicy = Literal["none", "all", "prefix", "subset", "torn", "garbage", "size"]
"""Which unsynced changes survive a crash: none; all; those before a random moment; each or not by chance; the same with
every sector of a write on its own; that with random bytes in place of some of what was being written; and names and
sizes without the bytes (a file system that writes its journal before the data).  Bytes that were not being written
never change."""


class Write(NamedTuple):
    """Bytes written into a file."""

    sequence: int
    offset: int
    data: bytes


class Resize(NamedTuple):
    """A file cut, or extended with zeros."""

    sequence: int
    length: int


@dataclass(eq=False)
class File:
    """A file's content, its durable content and the changes between them."""

    inode: int
    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Resize] = field(default_factory=list)

    def change(self, change: Write | Resize) -> None:
        """Make a change that calls see at once, and that a sync will make durable."""
        apply(self.content, change)
        self.pending.append(change)

    def sync(self) -> None:
        """Make all changes durable."""
        for change in self.pending:
            apply(self.durable, change)
        self.pending.clear()

    def lose_pending(self, *, revert: bool) -> None:
        """What a failed sync does: nothing pending is ever written; the cache may fall back to what is durable."""
        self.pending.clear()
        if revert:
            self.content[:] = self.durable


@dataclass(eq=False)
class Directory:
    """A directory's entries and its durable entries; pending changes are the disk's, as a rename concerns two."""

    inode: int
    entries: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)


Node = File | Directory


class Entry(NamedTuple):
    """One name in one directory set to a file or directory, or removed (None)."""

    directory: Directory
    name: str
    node: Node | None


class NameChange(NamedTuple):
    """Entries that change together: one for a creation or removal, two for a rename."""

    sequence: int
    entries: tuple[Entry, ...]


class Disk:
    """A tree of files and directories with its pending name changes."""

    def __init__(self) -> None:
        self._inodes = 1
        self.sequence = 0
        self.boot = 1
        """How often the machine was started."""
        self.root = Directory(self._inodes)
        self.names: list[NameChange] = []

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence

    def new_file(self) -> File:
        self._inodes += 1
        return File(self._inodes)

    def new_directory(self) -> Directory:
        self._inodes += 1
        return Directory(self._inodes)

    def set_names(self, *entries: Entry) -> None:
        """Change names, as one step."""
        for directory, name, node in entries:
            _set(directory.entries, name, node)
        self.names.append(NameChange(self.next_sequence(), entries))

    def sync_directory(self, directory: Directory) -> None:
        """Make every change of a directory's names durable."""
        concerned = {
            change.sequence for change in self.names if any(entry.directory is directory for entry in change.entries)
        }
        durable = _with_earlier(self.names, concerned)
        for change in self.names:
            if change.sequence in durable:
                for inner, name, node in change.entries:
                    _set(inner.durable, name, node)
        self.names = [change for change in self.names if change.sequence not in durable]

    def crashed(self, policy: CrashPolicy, rng: Random) -> Disk:
        """A copy of this disk as a crash at this moment may leave it; this one is not touched."""
        survives: Callable[[int], bool]
        if policy == "prefix":
            cut = rng.randint(0, self.sequence + 1)
            survives = cut.__gt__
        elif policy in ("subset", "torn", "garbage"):

            def survives(sequence: int) -> bool:
                return rng.random() < 0.5
        else:

            def survives(sequence: int) -> bool:
                return policy in ("all", "size")

        after = Disk()
        after._inodes = self._inodes
        after.boot = self.boot + 1
        names: dict[int, dict[str, Node]] = {}
        chosen = _with_earlier(self.names, {change.sequence for change in self.names if survives(change.sequence)})
        for change in self.names:
            if change.sequence in chosen:
                for directory, name, node in change.entries:
                    _set(names.setdefault(directory.inode, dict(directory.durable)), name, node)

        def copy(node: Node) -> Node:
            if isinstance(node, File):
                content = bytearray(node.durable)
                for part in node.pending:
                    for piece in _sectors(part) if policy in ("torn", "garbage") else [part]:
                        if survives(piece.sequence):
                            if policy == "garbage" and isinstance(piece, Write) and rng.random() < 0.5:
                                piece = piece._replace(data=rng.randbytes(len(piece.data)))
                            elif policy == "size" and isinstance(piece, Write):
                                end = piece.offset + len(piece.data)
                                piece = Resize(piece.sequence, max(len(content), end))
                            apply(content, piece)
                return File(node.inode, content, bytearray(content))
            inner = Directory(node.inode)
            for name, child in names.get(node.inode, node.durable).items():
                inner.entries[name] = copy(child)
            inner.durable = dict(inner.entries)
            return inner

        root = copy(self.root)
        assert isinstance(root, Directory)
        after.root = root
        return after

    def killed(self) -> Disk:
        """A copy of this disk as the end of the process leaves it: all is there, and no more durable than it was."""
        after = Disk()
        after._inodes, after.sequence, after.boot = self._inodes, self.sequence, self.boot
        copies: dict[Node, Node] = {}

        def copy(node: Node) -> Node:
            if node in copies:
                return copies[node]
            if isinstance(node, File):
                file = File(node.inode, bytearray(node.content), bytearray(node.durable), list(node.pending))
                copies[node] = file
                return file
            directory = copies[node] = Directory(node.inode)
            directory.entries = {name: copy(child) for name, child in node.entries.items()}
            directory.durable = {name: copy(child) for name, child in node.durable.items()}
            return directory

        root = copy(self.root)
        assert isinstance(root, Directory)
        after.root = root
        for change in self.names:
            entries = []
            for directory, name, node in change.entries:
                owner = copy(directory)
                assert isinstance(owner, Directory)
                entries.append(Entry(owner, name, None if node is None else copy(node)))
            after.names.append(NameChange(change.sequence, tuple(entries)))
        return after

    def identity(self) -> int:
        """A hash of all that calls see and all that is durable: equal for disks that cannot be told apart."""

        def of(node: Node, durable: bool) -> object:
            if isinstance(node, File):
                return bytes(node.durable if durable else node.content)
            entries = node.durable if durable else node.entries
            return tuple((name, of(child, durable)) for name, child in sorted(entries.items()))

        if self.names or any(file.content != file.durable for file in self._files()):
            return hash((of(self.root, False), of(self.root, True)))
        return hash(of(self.root, True))

    def unsynced(self) -> int:
        """How many changes no sync covers: of names, and of the files that have names."""
        return len(self.names) + sum(len(file.pending) for file in self._files())

    def _files(self) -> Iterator[File]:
        directories = [self.root]
        while directories:
            for node in directories.pop().entries.values():
                if isinstance(node, File):
                    yield node
                else:
                    directories.append(node)


def apply(content: bytearray, change: Write | Resize) -> None:
    """Carry a change out on a file's content."""
    length = change.length if isinstance(change, Resize) else change.offset
    if length > len(content):
        content.extend(bytes(length - len(content)))
    if isinstance(change, Resize):
        del content[length:]
    else:
        content[length : length + len(change.data)] = change.data


def _sectors(change: Write | Resize) -> list[Write | Resize]:
    if isinstance(change, Resize):
        return [change]
    pieces: list[Write | Resize] = []
    start = 0
    while start < len(change.data):
        end = min(len(change.data), start + SECTOR - (change.offset + start) % SECTOR)
        pieces.append(Write(change.sequence, change.offset + start, change.data[start:end]))
        start = end
    return pieces


def _set(entries: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


def _with_earlier(changes: list[NameChange], chosen: set[int]) -> set[int]:
    """The chosen changes, and every earlier one of a name that they change too: no disk puts those in another order."""
    found = set(chosen)
    names: set[tuple[int, str]] = set()
    for change in reversed(changes):
        keys = {(entry.directory.inode, entry.name) for entry in change.entries}
        if change.sequence in found or keys & names:
            found.add(change.sequence)
            names |= keys
    return found
