"""Random operations on virtual files over three slots, against plain byte strings, with crashes in between."""

from __future__ import annotations

import itertools
import os
from random import Random

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from pfs.files.virtual_file import OpenOptions, VirtualFilePool
from pfs.testing.file_system import SimulatedFileSystem

SLOTS = 3
names = st.sampled_from([f"f{number}" for number in range(6)])
offsets = st.integers(0, 200)
data = st.binary(max_size=100)


class Machine(RuleBasedStateMachine):
    """The model: `contents` is what calls see by name, `synced` the names whose content a sync has promised.

    After later writes a crash may leave any mixture, so only files untouched since their sync are checked then.
    """

    handles = Bundle("handles")

    def __init__(self):
        super().__init__()
        self.fs = SimulatedFileSystem()
        self.open_pool()
        self.contents: dict[str, bytes] = {}
        self.synced: set[str] = set()
        self.files: list[Handle] = []

    def open_pool(self):
        self.pool = VirtualFilePool(self.fs, slots=SLOTS, clock=itertools.count().__next__, engine="nowait")

    @rule(target=handles, name=names, truncate=st.booleans())
    def open(self, name, truncate):
        if any(handle.name == name for handle in self.files):
            truncate = False  # two virtual files of one file do not take turns
        file = self.pool.open(name, OpenOptions(write=True, create=True, truncate=truncate))
        if truncate or name not in self.contents:
            self.contents[name] = b""
            self.synced.discard(name)
        handle = Handle(name, file)
        self.files.append(handle)
        return handle

    @rule(handle=consumes(handles))
    def close(self, handle):
        if handle.alive:
            handle.file.close()
            self.forget(handle)

    @rule(handle=consumes(handles))
    def remove(self, handle):
        if handle.alive and sum(other.name == handle.name for other in self.files) == 1:
            handle.file.remove()
            self.forget(handle)
            del self.contents[handle.name]
            self.synced.discard(handle.name)

    def forget(self, handle):
        handle.alive = False
        self.files.remove(handle)

    @rule(handle=handles, offset=offsets, parts=st.lists(data, max_size=4), vector=st.booleans())
    def write(self, handle, offset, parts, vector):
        if not handle.alive:
            return
        whole = b"".join(parts)
        if vector:
            assert handle.file.writev_at(parts, offset) == len(whole)
        else:
            handle.file.write_all_at(whole, offset)
        if whole:
            old = self.contents[handle.name].ljust(offset, b"\0")
            self.contents[handle.name] = old[:offset] + whole + old[offset + len(whole) :]
            self.synced.discard(handle.name)

    @rule(handle=handles, offset=offsets, sizes=st.lists(st.integers(0, 90), max_size=4), inline=st.booleans())
    def read(self, handle, offset, sizes, inline):
        if not handle.alive:
            return
        buffers = [bytearray(size) for size in sizes]
        read = handle.file.try_readv_at_nowait if inline else handle.file.readv_at
        count = read(buffers, offset)
        if count is None:
            return
        expected = self.contents[handle.name][offset : offset + sum(sizes)]
        assert (b"".join(buffers)[:count], count) == (expected, len(expected))

    @rule(handle=handles, length=offsets)
    def set_len(self, handle, length):
        if handle.alive:
            handle.file.set_len(length)
            self.contents[handle.name] = self.contents[handle.name][:length].ljust(length, b"\0")
            self.synced.discard(handle.name)

    @rule(handle=handles, offset=offsets, length=st.integers(1, 50))
    def allocate(self, handle, offset, length):
        if handle.alive:
            handle.file.allocate(offset, length)
            self.contents[handle.name] = self.contents[handle.name].ljust(offset + length, b"\0")
            self.synced.discard(handle.name)

    @rule(handle=handles, content=data, offset=st.integers(-50, 50), whence=st.sampled_from([os.SEEK_CUR, os.SEEK_END]))
    def sequential(self, handle, content, offset, whence):
        if not handle.alive:
            return
        base = handle.file.position if whence == os.SEEK_CUR else len(self.contents[handle.name])
        if base + offset < 0:
            return
        assert handle.file.seek(offset, whence) == base + offset
        handle.file.write_all(content)
        if content:
            old = self.contents[handle.name].ljust(base + offset, b"\0")
            self.contents[handle.name] = old[: base + offset] + content + old[base + offset + len(content) :]
            self.synced.discard(handle.name)
        assert handle.file.position == base + offset + len(content)
        assert handle.file.read_to_end() == self.contents[handle.name][base + offset + len(content) :]

    @rule(handle=handles, everything=st.booleans())
    def sync(self, handle, everything):
        if handle.alive:
            handle.file.sync_all() if everything else handle.file.sync_data()
            self.synced.add(handle.name)

    @rule()
    def sync_pending(self):
        self.pool.sync_pending()
        self.synced = set(self.contents)

    @rule(name=names, other=names)
    def rename(self, name, other):
        taken = {handle.name for handle in self.files}
        if name not in self.contents or other in taken or name == other:
            return
        self.pool.durable_rename(name, other)
        self.contents[other] = self.contents.pop(name)
        self.synced.discard(name)
        self.synced.add(other)
        for handle in self.files:
            if handle.name == name:
                handle.name = other

    @rule(name=names, content=data)
    def overwrite(self, name, content):
        if all(handle.name != name for handle in self.files):
            self.pool.crashsafe_overwrite(name, "overwriting", content)
            self.contents[name] = content
            self.synced.add(name)

    @rule(policy=st.sampled_from(["none", "all", "prefix", "subset", "torn"]), seed=st.integers(0, 999))
    def crash(self, policy, seed):
        image = self.fs.crash_image(policy, Random(seed))
        self.pool.close()
        for handle in self.files:
            handle.alive = False
        self.files.clear()
        self.fs = image
        self.open_pool()
        found = {}
        for name in self.pool.list(""):
            with self.pool.open(name) as file:
                found[name] = file.read_to_end()
        for name in self.synced:
            assert found[name] == self.contents[name], f"{name!r} was synced and is lost after a crash ({policy})"
        self.contents = found
        self.synced = set(found)

    @invariant()
    def no_more_descriptors_than_slots(self):
        assert len(self.fs.open_descriptors) <= SLOTS
        assert self.pool.stats()["slots_in_use"] == len(self.fs.open_descriptors)

    def teardown(self):
        self.pool.close()
        assert self.fs.open_descriptors == {}


class Handle:
    def __init__(self, name, file):
        self.name = name
        self.file = file
        self.alive = True

    def __repr__(self):
        return f"Handle({self.name!r})"


TestVirtualFilesAgainstAModel = Machine.TestCase
TestVirtualFilesAgainstAModel.settings = settings(max_examples=100, stateful_step_count=50)
