"""Random operations on relations against a model: each fork a list of blocks.  Tiny segments, three descriptors."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pfs.errors import FileExists, FileMissing, OutOfRange
from pfs.files.relation import Fork, RelationAddress
from pfs.testing.file_system import SimulatedFileSystem
from tests.files.relations import SIZE, block, blocks, storage_on

ADDRESSES = [RelationAddress(1663, 5, 16384), RelationAddress(1664, 0, 1262)]
KEYS = st.tuples(st.sampled_from(ADDRESSES), st.sampled_from([Fork.MAIN, Fork.FSM]))
COUNTS = st.integers(1, 9)
NUMBERS = st.integers(0, 24)
FILLS = st.integers(1, 200)
ZEROS = bytes(SIZE)


class Relations(RuleBasedStateMachine):
    """Two relations with two forks each; a fork that does not exist is not in the model."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[tuple[RelationAddress, Fork], list[bytes]] = {}
        self.begin(SimulatedFileSystem(keep_journal=False))

    def begin(self, fs: SimulatedFileSystem) -> None:
        self.fs = fs
        self.running = storage_on(fs, slots=3)
        self.manager = self.running.__enter__().manager
        self.relations = {address: self.manager.open(address, SIZE) for address in ADDRESSES}

    def teardown(self) -> None:
        self.running.__exit__(None, None, None)

    def attempt(self, key, error, call) -> bool:
        """Make a call, which must raise `FileMissing` if the fork is, else `error` if that is given."""
        expected = FileMissing if key not in self.model else error
        if expected is None:
            call()
            return True
        with pytest.raises(expected):
            call()
        return False

    @rule(key=KEYS, exist_ok=st.booleans())
    def create(self, key, exist_ok):
        address, fork = key
        if key in self.model and not exist_ok:
            with pytest.raises(FileExists):
                self.manager.create(self.relations[address], fork)
        else:
            self.manager.create(self.relations[address], fork, exist_ok=exist_ok)
            self.model.setdefault(key, [])

    @rule(key=KEYS, gap=st.integers(-2, 9), count=COUNTS, fill=FILLS, skip_sync=st.booleans())
    def extend(self, key, gap, count, fill, skip_sync):
        model = self.model.get(key, [])
        first = max(0, len(model) + gap)
        call = lambda: self.manager.extend(  # noqa: E731
            self.relations[key[0]], key[1], first, blocks(fill, count), skip_sync=skip_sync
        )
        if self.attempt(key, OutOfRange if first < len(model) else None, call):
            model += [ZEROS] * (first - len(model)) + blocks(fill, count)

    @rule(key=KEYS, gap=st.integers(-2, 9), count=COUNTS)
    def zero_extend(self, key, gap, count):
        model = self.model.get(key, [])
        first = max(0, len(model) + gap)
        call = lambda: self.manager.zero_extend(self.relations[key[0]], key[1], first, count)  # noqa: E731
        if self.attempt(key, OutOfRange if first < len(model) else None, call):
            model += [ZEROS] * (first - len(model) + count)

    @rule(key=KEYS, first=NUMBERS, count=COUNTS, fill=FILLS)
    def write(self, key, first, count, fill):
        model = self.model.get(key, [])
        call = lambda: self.manager.writev(self.relations[key[0]], key[1], first, blocks(fill, count))  # noqa: E731
        if self.attempt(key, OutOfRange if first + count > len(model) else None, call):
            model[first : first + count] = blocks(fill, count)

    @rule(key=KEYS, first=NUMBERS, count=COUNTS, inline=st.booleans(), in_recovery=st.booleans())
    def read(self, key, first, count, inline, in_recovery):
        model = self.model.get(key, [])
        relation = self.relations[key[0]]
        buffers = [bytearray(block(255)) for _ in range(count)]

        def call():
            done = None
            if inline and not in_recovery:
                done = self.manager.try_readv_nowait(relation, key[1], first, buffers)
            if done is None:
                self.manager.readv(relation, key[1], first, buffers, in_recovery=in_recovery)

        if self.attempt(key, OutOfRange if first + count > len(model) and not in_recovery else None, call):
            there = model[first : first + count]
            assert buffers == there + [ZEROS] * (count - len(there))

    @rule(address=st.sampled_from(ADDRESSES), lengths=st.dictionaries(st.sampled_from([Fork.MAIN, Fork.FSM]), NUMBERS))
    def truncate(self, address, lengths):
        keys = {(address, fork): length for fork, length in lengths.items()}
        if any(key not in self.model for key in keys):
            expected = (FileMissing, OutOfRange)
        elif any(length > len(self.model[key]) for key, length in keys.items()):
            expected = (OutOfRange,)
        else:
            self.manager.truncate(self.relations[address], lengths)
            for key, length in keys.items():
                del self.model[key][length:]
            return
        with pytest.raises(expected):
            self.manager.truncate(self.relations[address], lengths)

    @rule(address=st.sampled_from(ADDRESSES), forks=st.sets(st.sampled_from(Fork), min_size=1))
    def unlink(self, address, forks):
        self.manager.unlink(address, list(forks))
        for fork in forks:
            self.model.pop((address, fork), None)

    @rule(address=st.sampled_from(ADDRESSES))
    def close_and_open(self, address):
        self.manager.close(self.relations[address])
        self.relations[address] = self.manager.open(address, SIZE)

    @rule(key=KEYS)
    def sync_one(self, key):
        self.attempt(key, None, lambda: self.manager.immedsync(self.relations[key[0]], key[1]))

    @rule(key=KEYS)
    def register(self, key):
        self.attempt(key, None, lambda: self.manager.registersync(self.relations[key[0]], key[1]))

    @rule()
    def checkpoint_and_crash(self):
        """After `sync`, and `immedsync` for what it was told to leave out, a crash takes nothing away."""
        for address, fork in self.model:
            self.manager.immedsync(self.relations[address], fork)
        self.manager.sync()
        image = self.fs.crash_image("none", Random(0))
        self.running.__exit__(None, None, None)
        self.begin(image)

    @invariant()
    def every_fork_has_the_blocks_of_the_model(self):
        for address, relation in self.relations.items():
            for fork in (Fork.MAIN, Fork.FSM):
                model = self.model.get((address, fork))
                assert self.manager.exists(address, fork) == (model is not None)
                if model is not None:
                    assert self.manager.nblocks(relation, fork) == len(model)

    @invariant()
    def never_more_than_three_descriptors_are_open(self):
        assert len(self.fs.open_descriptors) <= 3


Relations.TestCase.settings = settings(max_examples=120, stateful_step_count=40)
TestRelations = Relations.TestCase
