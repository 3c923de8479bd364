"""A whole `System` against a dictionary: a Hypothesis state machine that also lets it crash.

The system runs on a `SimulatedFileSystem` under a `SimulatedScheduler`, with sizes and limits as small as they go.
Rules call what plain threads call, one after the other, right and wrong; the `Model` says what must come of it.  After
each rule every page count is right, and the contents of the file concerned.  A crash, between two calls or in the
middle of one, perhaps again in the recovery, leaves what one of the crash policies lets survive.  Then:

* all files have the contents that they had after one and the same prefix of all commits: there is one log;
* that prefix has everything that was acknowledged as durable;
* the call that was under way happened wholly or not at all, and only behind all others.

After each stop in order `pfs.check` finds nothing that should not be so.

    python -m pfs.testing.state_machine --examples 500 --steps 50              # the same examples every time
    python -m pfs.testing.state_machine --examples 500 --steps 50 --seed 7     # others
"""

from __future__ import annotations

import argparse
import gc
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from random import Random
from typing import Any, NamedTuple, cast, get_args

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from pfs.actors.requests import ServerOptions
from pfs.check import check
from pfs.errors import (
    InvalidRequest,
    OutOfRange,
    PageFileExists,
    PageFileNotFound,
    PageSizeMismatch,
    PfsError,
    SnapshotTooOld,
    SystemStopped,
)
from pfs.page_file import PageFile
from pfs.protocol import Durability
from pfs.system import System, SystemOptions
from pfs.testing.crash_model import Pages
from pfs.testing.disk import CrashPolicy
from pfs.testing.file_system import SimulatedFileSystem
from pfs.testing.page_file_model import CREATED, Model
from pfs.testing.plain_recovery import forget, recover_and_crash
from pfs.testing.scheduler import SimulatedScheduler
from pfs.wal.shared_log import WalOptions

NAMES = ("a", "b", "c", "d")
PAGE_SIZES = (512, 1024)
MOST_PAGES = 9
"""The most pages of a request."""
MOST_OF_A_FILE = 60
"""A file that is longer is truncated before it grows."""
POLICIES: tuple[CrashPolicy, ...] = get_args(CrashPolicy)


def small_options(random: Random) -> SystemOptions:
    """Sizes and limits as small as they go."""
    choose = random.choice
    return SystemOptions(
        buffer_bytes=choose((0, 3, 20, 1000)) * 1000,
        descriptors=choose((1, 2, 20)),
        segment_bytes=choose((4, 8, 1024)) * 1024,
        read_workers=1,
        write_workers=choose((1, 2)),
        call_timeout=1e9,
        dirty_bytes=choose((1, 8, 10_000)) * 512,
        wal=WalOptions(
            segment_bytes=choose((16, 32)) << 10,
            most_bytes=choose((128, 1024)) << 10,
            checkpoint_bytes=choose((8, 32, 100)) << 10,
            checkpoint_seconds=choose((0.01, 1000.0)),
            batch_bytes=choose((1, 2000, 1 << 20)),
            compress=choose((False, True)),
            commit_delay=choose((0.0, 0.005)),
        ),
        server=ServerOptions(
            chunk=choose((1, 3, 8)),
            block=choose((1, 2, 4)),
            credits=choose((1, 3)),
            version_bytes=choose((8, 64)) * 1024,
            idle_seconds=1e9,
            read_idle_seconds=1e9,
        ),
    )


class Place(NamedTuple):
    """Where to read or write: at so many hundredths of the file, up to so many pages (above `MOST_PAGES`: too many)."""

    at: int
    most: int

    def within(self, count: int) -> tuple[int, int]:
        """The first page and the number of pages, in a file of so many."""
        pgid = max(count - 1, 0) * self.at // 100
        beyond = self.most > MOST_PAGES
        return pgid, max(min(self.most, count - pgid + beyond), 1)


names = st.sampled_from(NAMES)
counts = st.integers(1, MOST_PAGES)
durabilities: st.SearchStrategy[Durability] = st.sampled_from(("wal", "memory"))
contents = st.sampled_from(("unique", "zeros", "noise"))
forms = st.sampled_from(("list", "bytes", "bytearray"))
places = st.builds(Place, st.integers(0, 100), st.integers(0, MOST_PAGES + 2))
seeds = st.integers(0, (1 << 32) - 1)
policies = st.sampled_from(POLICIES)


class _Stream:
    """A long read that has begun."""

    def __init__(self, name: str, rest: Iterator[bytes], pages: Pages) -> None:
        self.name = name
        self.rest = rest
        self.pages = pages
        self.seen = [next(rest)]
        self.cut_off = False


class Machine(RuleBasedStateMachine):
    """The rules (see the module).  `events` counts what happened in all examples."""

    events: Counter[str] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.files: dict[str, PageFile] = {}
        self.streams: list[_Stream] = []
        self.writes = 0

    @initialize(seed=seeds)
    def begin(self, seed: int) -> None:
        self.random = Random(seed)
        self.options = small_options(self.random)
        self.fs = SimulatedFileSystem(
            page_cache=cast(Any, self.random.choice(("warm", "cold", "none"))), keep_journal=False
        )
        self.start()

    def start(self) -> None:
        scheduler = self.scheduler = SimulatedScheduler(self.random.getrandbits(32))
        self.fs.on_operation, self.fs.make_condition = scheduler.file_call, scheduler.condition
        self.system = System(self.fs, self.options, runtime=scheduler)

    # -- page files

    @rule(name=names, page_size=st.sampled_from((None, *PAGE_SIZES)), create=st.booleans())
    def open(self, name: str, page_size: int | None, create: bool) -> None:
        number = self.model.numbers.get(name)
        if number is None and not create:
            expected: type[PfsError] | None = PageFileNotFound
        elif number is not None and page_size not in (None, self.model.page_sizes[number]):
            expected = PageSizeMismatch
        elif number is None and self.options.segment_bytes % (page_size or 8192):
            expected = InvalidRequest
        else:
            expected = None
        with self.expect(expected):
            self.files[name] = self.system.open(name, create=create, page_size=page_size)
            if number is None:
                self.model.create(name, 8192 if page_size is None else page_size)
        self.check_counts()

    def file(self, name: str) -> PageFile:
        """The open page file, which is made if it is not there."""
        if name not in self.files:
            if name not in self.model.numbers:
                page_size = self.random.choice(PAGE_SIZES)
                self.model.create(name, page_size)
                self.files[name] = self.system.open(name, page_size=page_size)
                self.append_pages(name, MOST_PAGES, "memory")
            else:
                self.files[name] = self.system.open(name, create=False)
        return self.files[name]

    @rule(name=names, new_name=names)
    def rename(self, name: str, new_name: str) -> None:
        model = self.model
        if name not in model.numbers:
            expected: type[PfsError] | None = PageFileNotFound
        elif new_name in model.numbers:
            expected = PageFileExists
        else:
            expected = None
        with self.expect(expected):
            self.system.rename(name, new_name)
            model.numbers[new_name] = model.numbers.pop(name)
            self.events["rename"] += 1
            if name in self.files:
                self.files[new_name] = self.files.pop(name)
                assert self.files[new_name].name == new_name
            for stream in self.streams:
                if stream.name == name:
                    stream.name = new_name
            self.check(new_name)

    @rule(name=names)
    def drop(self, name: str) -> None:
        with self.expect(None if name in self.model.numbers else PageFileNotFound):
            self.system.drop(name)
            del self.model.numbers[name]
            self.events["drop"] += 1
            self.check_closed(name)

    def check_closed(self, name: str) -> None:
        """The handle of a file that was dropped is of no use any more, and of no other file's."""
        file = self.files.pop(name, None)
        if file is not None:
            with self.expect(SystemStopped):
                file.read(0)
        self.streams = [stream for stream in self.streams if stream.name != name]

    # -- pages

    def new_pages(self, name: str, n: int, content: str) -> Pages:
        self.writes += 1
        size = self.file(name).page_size
        if content == "zeros":
            return (bytes(size),) * n
        if content == "noise":
            return tuple(self.random.randbytes(size) for _ in range(n))
        return tuple(struct.pack("<2Q", self.writes, index) * (size // 16) for index in range(n))

    def given(self, pages: Pages, form: str) -> Any:
        """Pages as a caller may give them."""
        if form == "list":
            return list(pages)
        return (bytes if form == "bytes" else bytearray)(b"".join(pages))

    @rule(name=names, n=counts, content=contents, form=forms)
    def append(self, name: str, n: int, content: str, form: str) -> None:
        self.append_pages(name, n, "wal", content, form)

    @rule(name=names, n=counts, content=contents, form=forms)
    def append_in_memory(self, name: str, n: int, content: str, form: str) -> None:
        self.append_pages(name, n, "memory", content, form)

    def append_pages(
        self, name: str, n: int, durability: Durability, content: str = "unique", form: str = "list"
    ) -> None:
        file = self.file(name)
        if file.page_count > MOST_OF_A_FILE:
            self.truncate(name, 0)
        before = self.model.pages(name)
        pages = self.new_pages(name, n, content)
        assert file.append(self.given(pages, form), durability=durability) == len(before)
        self.model.commit(name, before + pages, durable=durability == "wal")
        self.events["append"] += 1
        self.check(name)

    @rule(name=names, place=places, content=contents, form=forms)
    def write(self, name: str, place: Place, content: str, form: str) -> None:
        self.write_pages(name, place, "wal", content, form)

    @rule(name=names, place=places, content=contents, form=forms)
    def write_in_memory(self, name: str, place: Place, content: str, form: str) -> None:
        self.write_pages(name, place, "memory", content, form)

    def write_pages(self, name: str, place: Place, durability: Durability, content: str, form: str) -> None:
        file = self.file(name)
        before = self.model.pages(name)
        pgid, n = place.within(len(before))
        pages = self.new_pages(name, n, content)
        with self.expect(OutOfRange if pgid + n > len(before) else None):
            file.write(pgid, self.given(pages, form), durability=durability)
            after = before[:pgid] + pages + before[pgid + n :]
            self.model.commit(name, after, durable=durability == "wal")
            self.events["write"] += 1
        self.check(name)

    @rule(name=names)
    def write_nothing(self, name: str) -> None:
        file = self.file(name)
        with self.expect(InvalidRequest):
            file.append([])
        with self.expect(InvalidRequest):
            file.write(0, b"")
        self.check(name)

    @rule(name=names, to=st.integers(30, 105))
    def truncate(self, name: str, to: int) -> None:
        file = self.file(name)
        before = self.model.pages(name)
        n = (len(before) * to + 50) // 100
        with self.expect(OutOfRange if n > len(before) else None):
            file.truncate(n)
            for stream in self.streams:
                stream.cut_off = stream.cut_off or (stream.name == name and n < len(stream.pages))
            self.model.commit(name, before[:n], durable=True)
            self.events["truncate"] += 1
        self.check(name)

    @rule(name=names, place=places)
    def read(self, name: str, place: Place) -> None:
        file = self.file(name)
        pages = self.model.pages(name)
        pgid, n = place.within(len(pages))
        with self.expect(OutOfRange if pgid + n > len(pages) else None):
            assert tuple(file.read(pgid, n)) == pages[pgid : pgid + n]
            self.events["read"] += 1

    @rule(name=names, chunk=st.sampled_from((None, 1, 2)), place=places)
    def begin_stream(self, name: str, chunk: int | None, place: Place) -> None:
        """Begin a long read, which must be one cut whatever is written before it is gone on with, and write."""
        file = self.file(name)
        pages = self.model.pages(name)
        if len(self.streams) < 3 and pages:
            self.streams.append(_Stream(name, file.stream(chunk=chunk), pages))
            self.write_pages(name, place, "memory", "unique", "list")

    @rule(n=counts)
    def go_on_with_stream(self, n: int) -> None:
        if not self.streams:
            return
        stream = self.streams.pop(0)
        error: type[PfsError] | None = None
        before = len(stream.seen)
        try:
            stream.seen += islice(stream.rest, n)
        except SnapshotTooOld:
            error = SnapshotTooOld
        except OutOfRange:
            assert stream.cut_off
            error = OutOfRange
        assert tuple(stream.seen) == stream.pages[: len(stream.seen)]
        if error is not None:
            self.events[f"stream {error.__name__}"] += 1
        elif len(stream.seen) < before + n:
            assert tuple(stream.seen) == stream.pages
            self.events["stream ended"] += 1
        else:
            self.streams.append(stream)

    # -- durability

    @rule(name=names)
    def sync(self, name: str) -> None:
        self.file(name).sync()
        self.model.sync(name)

    @rule()
    def checkpoint(self) -> None:
        self.system.checkpoint()
        self.model.settle(len(self.model.pending))

    @rule()
    def stop_and_reopen(self) -> None:
        self.stop()
        self.start()
        replayed = self.system.stats()["wal"]["replayed_transactions"]
        assert not replayed, f"{replayed} transactions were replayed after a clean stop"
        self.check_all()

    def stop(self) -> None:
        self.streams.clear()
        self.files.clear()
        self.system.stop()
        self.model.settle(len(self.model.pending))
        assert not self.scheduler.living
        assert not self.fs.open_descriptors
        self.fs.on_operation = None
        findings = check(self.fs, segment_bytes=self.options.segment_bytes).findings
        damage = [str(finding) for finding in findings if finding.damage]
        assert not damage, f"after a clean stop: {'; '.join(damage)}"

    # -- crashes

    @rule(policy=policies, again=st.lists(st.integers(0, 80), max_size=2))
    def crash(self, policy: CrashPolicy, again: list[int]) -> None:
        """Everything ends between two calls; `again`: and at such operations of the recovery."""
        self.recover(policy, again, [dict(self.model.numbers)])

    @rule(
        name=names,
        call=st.sampled_from(("append", "append", "write", "truncate", "create", "rename", "drop", "sync", "stop")),
        steps=st.integers(0, 120),
        policy=policies,
        again=st.lists(st.integers(0, 80), max_size=1),
        durability=durabilities,
    )
    def crash_during(
        self, name: str, call: str, steps: int, policy: CrashPolicy, again: list[int], durability: Durability
    ) -> None:
        """Everything ends so many steps after a call began."""
        model, system = self.model, self.system
        file, pages = self.file(name), self.model.pages(name)
        new = self.new_pages(name, MOST_PAGES, "unique")
        other = next((each for each in NAMES if each not in model.numbers), None)
        if (other is None and call in ("create", "rename")) or (len(pages) < MOST_PAGES and call == "write"):
            call = "sync"
        calls: dict[str, Callable[[], object]] = {
            "append": lambda: file.append(list(new), durability=durability),
            "write": lambda: file.write(0, list(new), durability=durability),
            "truncate": lambda: file.truncate(len(pages) // 2),
            "create": lambda: system.open(str(other), page_size=PAGE_SIZES[0]),
            "rename": lambda: system.rename(name, str(other)),
            "drop": lambda: system.drop(name),
            "sync": file.sync,
            "stop": system.stop,
        }
        after = {"append": pages + new, "write": new + pages[MOST_PAGES:], "truncate": pages[: len(pages) // 2]}.get(
            call
        )
        after_names = dict(model.numbers)
        if call == "create":
            after_names[str(other)] = CREATED
        elif call == "rename":
            after_names[str(other)] = after_names.pop(name)
        elif call == "drop":
            del after_names[name]
        durable = call == "truncate" or durability == "wal"
        ended = self.scheduler.spawn(lambda: void(calls[call]()), "caller")
        for _ in range(steps):
            if ended():
                break
            self.scheduler.step()
        possible = [after_names] if ended() else [dict(model.numbers), after_names]
        if after is not None:
            model.commit(name, after, durable=ended() and durable)
        elif ended() and call == "sync":
            model.sync(name)
        elif ended() and call == "stop":
            model.settle(len(model.pending))
        self.events[f"crash in {call}" if not ended() else f"crash after {call}"] += 1
        self.recover(policy, again, possible)

    def recover(self, policy: CrashPolicy, again: Sequence[int], possible: list[dict[str, int]]) -> None:
        """Crash, start a new system on what is left, and check it.  `possible`: which files there may be."""
        image = self.fs.crash_image(policy, self.random)
        self.end()
        self.streams.clear()
        self.files.clear()
        for left in again:
            image = self.crash_in_recovery(image, left)
        self.fs = image
        self.events[f"crash {policy}"] += 1
        self.start()
        found = {name: self.contents(name) for name in self.system.names()}
        for names in possible:
            for number, state in enumerate(self.model.after_crash(names)):
                if state == found:
                    self.events["commits lost"] += len(self.model.pending) - number
                    self.model.found(names, found)
                    for name in [name for name, each in names.items() if each == CREATED]:
                        self.model.create(name, PAGE_SIZES[0])
                    self.check_counts()
                    return
        raise AssertionError(
            f"after a crash ({policy}) the files are in no state that they may be in: found "
            f"{ {name: self.described(pages) for name, pages in found.items()} }, may be one of "
            + "; ".join(
                str({name: self.described(pages) for name, pages in state.items()})
                for names in possible
                for state in self.model.after_crash(names)
            )
        )

    def crash_in_recovery(self, image: SimulatedFileSystem, operations: int) -> SimulatedFileSystem:
        """Recover a disk that ends at some operation; returns what may be left then."""
        policy = self.random.choice(POLICIES)
        left = recover_and_crash(image, self.options, operations, policy, self.random)
        if left is None:  # it needed fewer operations
            return image
        self.events["crash in recovery"] += 1
        return left

    def end(self) -> None:
        """Everything ends where it stands."""
        self.scheduler.abandon()
        self.fs.on_operation = None
        forget(self.system._storage.store)

    # -- checks

    @contextmanager
    def expect(self, error: type[PfsError] | None) -> Iterator[None]:
        """What is done here must fail with just this error, or not at all."""
        if error is None:
            yield
            return
        try:
            yield
        except error:
            self.events[error.__name__] += 1
        else:
            raise AssertionError(f"no {error.__name__} was raised")

    def contents(self, name: str) -> Pages:
        """All pages of a file."""
        file = self.files.get(name)
        if file is None:
            file = self.files[name] = self.system.open(name, create=False)
        return tuple(file.read(0, file.page_count)) if file.page_count else ()

    def check(self, name: str) -> None:
        found, right = self.contents(name), self.model.pages(name)
        assert found == right, f"{name!r} has {self.described(found)}, and not {self.described(right)}"
        self.check_counts()

    def check_counts(self) -> None:
        assert self.system.names() == sorted(self.model.numbers)
        for name, file in self.files.items():
            assert file.page_count == len(self.model.pages(name))
            assert file.page_size == self.model.page_sizes[self.model.numbers[name]]

    def check_all(self) -> None:
        for name in self.model.numbers:
            self.check(name)

    def described(self, pages: Pages) -> str:
        return " ".join("{}.{}".format(*struct.unpack("<2Q", page[:16])) for page in pages) or "no pages"

    def teardown(self) -> None:
        if hasattr(self, "system"):
            try:
                if not sys.exc_info()[0]:
                    self.check_all()
                    self.stop()
            finally:
                self.end()


def void(_: object) -> None:
    """What a call returned is of no interest."""


def run(
    examples: int, steps: int, *, seed: int | None = None, machine: type[Machine] = Machine, shrink: bool = True
) -> None:
    """Run so many examples of up to so many rules; the same ones every time if `seed` is None.

    Raises what an example failed with; Hypothesis prints the rules that lead there, as a program.
    """
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=seed is None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
    )

    class Seeded(machine):  # type: ignore[misc,valid-type]
        """The machine with a seed, which Hypothesis keeps at the class."""

    if seed is not None:
        hypothesis.seed(seed)(Seeded)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a crash closes nothing
        try:
            run_state_machine_as_test(Seeded, settings=chosen)
        except BaseException:
            print(replay(examples, steps, seed))
            raise
        finally:
            gc.collect()


def replay(examples: int, steps: int, seed: int | None) -> str:
    """The command that runs the same examples."""
    which = "" if seed is None else f" --seed {seed}"
    return f"replay: python -m pfs.testing.state_machine --examples {examples} --steps {steps}{which}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pfs.testing.state_machine", description="Run the state machine.")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=50, help="the most rules in an example")
    parser.add_argument("--seed", type=int, help="another seed gives other examples")
    given = parser.parse_args(arguments)
    run(given.examples, given.steps, seed=given.seed)
    print(f"{given.examples} examples; events: {dict(Machine.events)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
