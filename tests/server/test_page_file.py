"""`System` and `PageFile`: the same server, called by plain threads."""

from __future__ import annotations

import errno
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pfs.actors import Actor, Scheduler
from pfs.actors.requests import ServerOptions
from pfs.errors import (
    CallInHandler,
    DirectoryLocked,
    FileDamaged,
    InvalidRequest,
    NoSpace,
    OutOfRange,
    PageFileExists,
    PageFileNotFound,
    PageSizeMismatch,
    PfsError,
    ReadOnly,
    RequestTooLarge,
    SnapshotTooOld,
    SystemFailed,
    SystemStopped,
    Timeout,
    WrongPageLength,
)
from pfs.page_file import PageFile
from pfs.protocol import DataPages, DataRead, DataReadEnd, Empty, Start, Stop
from pfs.system import System, SystemOptions
from pfs.testing.faults import Fault
from pfs.testing.file_system import SimulatedFileSystem
from pfs.testing.scheduler import SimulatedScheduler
from pfs.wal.shared_log import WalOptions
from tests.server.harness import PAGE_SIZE, page, tag, tags
from tests.support import run_together, take, wait_for

SMALL = ServerOptions(chunk=4, block=2, credits=3)


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with System(tmp_path / "data", SystemOptions(server=SMALL, call_timeout=20.0)) as made:
        yield made


@pytest.fixture
def file(system: System) -> PageFile:
    made = system.open("triples", page_size=PAGE_SIZE)
    made.append([page(number) for number in range(20)])
    return made


# -- calls


def test_pages_come_back_as_they_were_appended_and_written(file: PageFile) -> None:
    assert file.page_count == 20
    assert tags(file.read(3, 4)) == ["3", "4", "5", "6"]
    file.write(4, [page("x"), bytearray(page("y"))])
    assert tags(file.read(3, 4)) == ["3", "x", "y", "6"]
    assert file.append(memoryview(page("z") * 2)) == 20
    assert tags(file.read(19, 3)) == ["19", "z", "z"]
    assert all(type(each) is bytes for each in file.read(0, 22))


def test_a_stream_gives_all_pages_in_bounded_memory(file: PageFile) -> None:
    assert tags(list(file.stream())) == list(map(str, range(20)))
    assert tags(list(file.stream(5, 3, chunk=1))) == ["5", "6", "7"]
    assert list(file.stream(20)) == []


def test_a_stream_is_one_consistent_cut(file: PageFile) -> None:
    stream = file.stream()
    assert tag(next(stream)) == "0"
    file.write(0, [page("new")] * 20)
    file.append([page("more")])
    assert tags(list(stream)) == list(map(str, range(1, 20)))
    assert tags(list(file.stream())) == ["new"] * 20 + ["more"]


def test_a_stream_that_is_dropped_half_way_is_cancelled(file: PageFile) -> None:
    stream = file.stream()
    next(stream)
    before = file.stat().counters
    stream.close()
    gc.collect()
    counters = file.stat().counters
    assert counters["failed"] == before["failed"] + 1
    file.write(0, [page("new")] * 20)
    assert file.stat().counters["old_version_bytes"] == 0


def test_a_stream_whose_old_pages_cannot_be_kept_says_so(tmp_path: Path) -> None:
    options = SystemOptions(server=ServerOptions(chunk=4, block=2, credits=3, version_bytes=0))
    with System(tmp_path, options) as system:
        file = system.open("triples", page_size=PAGE_SIZE)
        file.append([page(number) for number in range(20)])
        stream = file.stream()
        next(stream)
        file.write(0, [page("new")] * 20)
        with pytest.raises(SnapshotTooOld):
            list(stream)


def test_truncate_sync_and_stat(file: PageFile) -> None:
    file.write(0, [page("memory")], durability="memory")
    file.sync()
    file.truncate(7)
    assert file.page_count == 7
    stat = file.stat()
    assert (stat.name, stat.page_count, stat.page_size) == ("triples", 7, PAGE_SIZE)
    assert tags(file.read(0, 1)) == ["memory"]
    assert "7 pages of 512 bytes" in repr(file)


WRONG_CALLS: list[tuple[type[Exception], Callable[[PageFile], object]]] = [
    (OutOfRange, lambda file: file.read(20)),
    (OutOfRange, lambda file: file.read(0, 21)),
    (InvalidRequest, lambda file: file.read(-1)),
    (InvalidRequest, lambda file: file.read(0, 0)),
    (InvalidRequest, lambda file: file.read(True)),
    (InvalidRequest, lambda file: file.read("0")),  # type: ignore[arg-type]
    (InvalidRequest, lambda file: list(file.stream("0"))),  # type: ignore[arg-type]
    (InvalidRequest, lambda file: list(file.stream(21))),
    (OutOfRange, lambda file: list(file.stream(10, 11))),
    (InvalidRequest, lambda file: list(file.stream(chunk=0))),
    (OutOfRange, lambda file: file.write(19, [page("x")] * 2)),
    (InvalidRequest, lambda file: file.write(None, [page("x")])),  # type: ignore[arg-type]
    (InvalidRequest, lambda file: file.write(0, [])),
    (InvalidRequest, lambda file: file.append([])),
    (InvalidRequest, lambda file: file.append(b"")),
    (InvalidRequest, lambda file: file.append(5)),  # type: ignore[arg-type]
    (InvalidRequest, lambda file: file.append("x" * PAGE_SIZE)),  # type: ignore[arg-type]
    (InvalidRequest, lambda file: file.append([None])),  # type: ignore[list-item]
    (WrongPageLength, lambda file: file.append(b"x" * (PAGE_SIZE + 1))),
    (WrongPageLength, lambda file: file.append([page("x"), b"short"])),
    (WrongPageLength, lambda file: file.write(0, [b"x" * (PAGE_SIZE + 1)])),
    (InvalidRequest, lambda file: file.append([page("x")], durability="never")),  # type: ignore[arg-type]
    (OutOfRange, lambda file: file.truncate(21)),
    (InvalidRequest, lambda file: file.truncate(-1)),
]


@pytest.mark.parametrize(("error", "call"), WRONG_CALLS)
def test_a_wrong_call_raises_a_clear_error_and_changes_nothing(
    file: PageFile, error: type[PfsError], call: Callable[[PageFile], object]
) -> None:
    with pytest.raises(error):
        call(file)
    assert tags(list(file.stream())) == list(map(str, range(20)))
    assert file.append([page("good")]) == 20


def test_a_write_larger_than_its_limit_is_refused_naming_the_limit(tmp_path: Path) -> None:
    with System(tmp_path, SystemOptions(server=ServerOptions(staging_bytes=PAGE_SIZE * 3))) as system:
        file = system.open("triples", page_size=PAGE_SIZE)
        with pytest.raises(RequestTooLarge, match=str(PAGE_SIZE * 3)):
            file.append([page("x")] * 4)
        file.append([page("x")] * 3)


def test_a_read_only_handle_reads_and_refuses_to_change_anything(system: System, file: PageFile) -> None:
    handle = system.open("triples", read_only=True)
    assert tags(handle.read(0, 1)) == ["0"]
    for change in (
        lambda: handle.append([page("x")]),
        lambda: handle.write(0, [page("x")]),
        lambda: handle.truncate(0),
    ):
        with pytest.raises(ReadOnly, match="triples"):
            change()
    with pytest.raises(PageFileNotFound):
        system.open("other", read_only=True)


def test_many_threads_append_and_each_finds_its_own_pages(file: PageFile) -> None:
    def work(which: int) -> None:
        for turn in range(10):
            first = file.append([page(f"{which}.{turn}.{k}") for k in range(3)])
            assert tags(file.read(first, 3)) == [f"{which}.{turn}.{k}" for k in range(3)]
            file.write(first + 1, [page(f"{which} again")])
            assert tag(file.read(first + 1)[0]) == f"{which} again"

    run_together([lambda which=which: work(which) for which in range(6)])
    assert file.page_count == 20 + 6 * 10 * 3


def test_readers_never_see_half_of_a_write(file: PageFile) -> None:
    file.write(0, [page("v0")] * 20)
    stop = threading.Event()

    def write() -> None:
        for version in range(1, 30):
            file.write(0, [page(f"v{version}")] * 20, durability="memory")
        stop.set()

    def read() -> None:
        while not stop.is_set():
            assert len(set(file.read(0, 20))) == 1
            assert len(set(file.stream())) == 1

    run_together([write, read, read])


def test_the_session_of_a_thread_ends_with_the_thread(file: PageFile) -> None:
    run_together([lambda: file.read(0)] * 5)
    gc.collect()
    file.read(0)
    assert file.stat().counters["sessions"] == 1


# -- time-outs and handlers


def test_a_call_that_takes_too_long_times_out_and_is_cancelled(file: PageFile) -> None:
    file.server.ask(Stop())
    file.server.tell(Start())
    blocker = file.stream()
    next(blocker)
    with pytest.raises(Timeout, match="cancelled") as timeout:
        file.read(0, 20, timeout=0.0)
    assert "within 0 seconds" in str(timeout.value)
    assert tags(file.read(0, 1)) == ["0"]
    blocker.close()


def test_a_write_that_times_out_says_that_it_may_have_been_carried_out() -> None:
    runtime = SimulatedScheduler(5)
    disk = SimulatedFileSystem(on_operation=runtime.file_call, condition=runtime.condition)
    system = System(disk, SystemOptions(server=SMALL), runtime=runtime)
    file = system.open("triples", page_size=PAGE_SIZE)
    let_go = False

    def slow(operation: Any) -> None:
        if operation.name in ("fdatasync", "fsync") and runtime.who_runs() != "the test":
            runtime.wait_until(lambda: let_go, lambda: "the end of a very slow sync")
        runtime.file_call(operation)

    disk.on_operation = slow
    with pytest.raises(Timeout, match="may have been carried out"):
        file.append([page("x")], timeout=5.0)
    let_go = True
    assert tags(file.read(0, 1) if file.page_count else []) in (["x"], [])
    runtime.run(until=lambda: file.page_count == 1)
    assert tags(file.read(0)) == ["x"]
    system.stop()


class Asker(Actor):
    """Makes waiting calls in its handler, where no answer could come."""

    def __init__(self, call: Callable[[], object], errors: Any) -> None:
        super().__init__()
        self._call = call
        self._errors = errors

    def on_receive(self, message: Any) -> None:
        try:
            self._call()
        except BaseException as error:
            self._errors.put(error)
        else:
            self._errors.put(None)


@pytest.mark.parametrize(
    "call",
    [
        lambda system, file: file.read(0),
        lambda system, file: file.append([page("x")]),
        lambda system, file: next(file.stream()),
        lambda system, file: file.stat(),
        lambda system, file: system.open("another"),
        lambda system, file: system.drop("triples"),
        lambda system, file: system.rename("triples", "another"),
        lambda system, file: system.names(),
        lambda system, file: system.stop(),
    ],
)
def test_a_waiting_call_inside_a_handler_is_a_clear_error_at_once(
    system: System, file: PageFile, call: Callable[[System, PageFile], object]
) -> None:
    import queue

    errors: queue.SimpleQueue[Any] = queue.SimpleQueue()
    asker = system.start(Asker, lambda: call(system, file), errors)
    asker.tell("now")
    assert isinstance(take(errors), CallInHandler)
    assert tags(file.read(0)) == ["0"]


class Reader(Actor):
    """An actor client on the system's own scheduler."""

    def __init__(self, server: Any, done: threading.Event) -> None:
        super().__init__()
        self.pages: list[bytes] = []
        self._server = server
        self._done = done

    def on_receive(self, message: Any) -> None:
        match message:
            case "begin":
                self._server.tell(DataRead(1, self.actor_ref, 0, 20))
            case DataPages(stream=stream, pages=pages):
                self.pages += pages
                stream.tell(Empty(1))
            case DataReadEnd():
                self._server.tell(DataRead(2, self.actor_ref, 0, 1))
            case _:
                pass
        if len(self.pages) == 21:
            self._done.set()


def test_an_actor_client_reads_beside_plain_threads(system: System, file: PageFile) -> None:
    done = threading.Event()
    reader = system.start(Reader, system.whereis("pfs.server.triples"), done)
    reader.tell("begin")
    for _ in range(10):
        file.read(0, 20)
    wait_for(done)


# -- page files of a system


def test_a_page_file_is_made_found_and_checked(system: System, file: PageFile) -> None:
    again = system.open("triples")
    assert again.server is file.server
    assert again.page_size == PAGE_SIZE
    with pytest.raises(PageSizeMismatch, match="512"):
        system.open("triples", page_size=1024)
    with pytest.raises(PageFileNotFound):
        system.open("missing", create=False)
    assert system.open("default").page_size == 8192
    assert system.names() == ["default", "triples"]
    assert "2 files open" in repr(system)


def test_what_was_written_is_there_for_the_next_system(tmp_path: Path) -> None:
    for turn in range(3):
        with System(tmp_path) as system:
            file = system.open("triples", page_size=PAGE_SIZE)
            assert file.page_count == turn
            file.append([page(turn)])
            assert tags(list(file.stream())) == list(map(str, range(turn + 1)))
    with System(tmp_path) as system, pytest.raises(PageSizeMismatch):
        system.open("triples", page_size=1024)


def test_memory_writes_are_durable_when_the_system_has_stopped(tmp_path: Path) -> None:
    with System(tmp_path) as system:
        system.open("triples", page_size=PAGE_SIZE).append([page("x")], durability="memory")
    with System(tmp_path) as system:
        assert tags(system.open("triples").read(0)) == ["x"]


def test_two_systems_in_one_process_do_not_touch_each_other(tmp_path: Path) -> None:
    with System(tmp_path / "a") as first, System(tmp_path / "b") as second:
        one, two = (each.open("triples", page_size=PAGE_SIZE) for each in (first, second))
        one.append([page("one")])
        two.append([page("two")] * 2)
        first.stop()
        assert tags(two.read(0, 2)) == ["two", "two"]
        with pytest.raises(SystemStopped):
            one.read(0)


def test_a_directory_in_use_is_refused_and_free_when_its_system_has_stopped(tmp_path: Path) -> None:
    with System(tmp_path), pytest.raises(DirectoryLocked, match=str(tmp_path)):
        System(tmp_path)
    System(tmp_path).stop()


def test_a_dropped_page_file_is_gone_and_its_calls_fail(system: System, file: PageFile) -> None:
    stream = file.stream()
    next(stream)
    system.drop("triples")
    with pytest.raises(PfsError):
        list(stream)
    with pytest.raises(SystemStopped, match="open"):
        file.read(0)
    assert system.names() == []
    assert not [label for label in system.runtime.stats() if label.startswith("Stream")]
    with pytest.raises(PageFileNotFound):
        system.drop("triples")
    new = system.open("triples", page_size=PAGE_SIZE)
    assert new.page_count == 0
    assert new.append([page("new")]) == 0
    assert tags(new.read(0)) == ["new"]


def test_a_renamed_page_file_keeps_its_pages(system: System, file: PageFile) -> None:
    system.open("other", page_size=PAGE_SIZE)
    with pytest.raises(PageFileExists):
        system.rename("triples", "other")
    assert tags(file.read(0)) == ["0"]
    system.rename("triples", "renamed")
    assert system.names() == ["other", "renamed"]
    assert tags(system.open("renamed").read(0, 20)) == list(map(str, range(20)))


def test_a_torn_tail_is_an_error_unless_repair_is_asked_for(tmp_path: Path) -> None:
    with System(tmp_path) as system:
        system.open("triples", page_size=PAGE_SIZE).append([page("a"), page("b")])
    [path, _] = sorted((tmp_path / "base/5").iterdir())
    path.write_bytes(path.read_bytes() + b"torn")
    with System(tmp_path) as system:
        with pytest.raises(FileDamaged, match=f"{2 * PAGE_SIZE + 4} bytes.*{PAGE_SIZE}"):
            system.open("triples")
        file = system.open("triples", repair=True)
        assert tags(list(file.stream())) == ["a", "b"]
        assert file.append([page("c")]) == 2


def test_stats_tell_of_everything(system: System, file: PageFile) -> None:
    file.read(0, 20)
    stats = system.stats()
    assert stats["files"]["triples"]["page_count"] == 20
    assert stats["files"]["triples"]["pages_read"] == 20
    assert stats["buffer_pool"]["pages"] == 20
    assert set(stats) == {"files", "buffer_pool", "wal", "virtual_files", "actors"}


# -- the end


def test_a_stopped_system_says_so(tmp_path: Path) -> None:
    system = System(tmp_path)
    file = system.open("triples", page_size=PAGE_SIZE)
    run_together([system.stop] * 3)
    for call in (lambda: file.read(0), lambda: system.open("x"), system.names, lambda: file.append([page("x")])):
        with pytest.raises(SystemStopped):
            call()
    assert "stopped" in repr(system)
    system.stop()


def test_calls_under_way_when_the_system_stops_end(tmp_path: Path) -> None:
    system = System(tmp_path, SystemOptions(server=SMALL))
    file = system.open("triples", page_size=PAGE_SIZE)
    file.append([page("x")] * 20)
    begun = threading.Barrier(4)

    def work() -> None:
        begun.wait(10)
        try:
            while True:
                file.read(0, 20)
                file.append([page("y")], durability="memory")
        except PfsError:
            pass

    def stop() -> None:
        begun.wait(10)
        system.stop()

    run_together([work, work, work, stop], seconds=20)
    with System(tmp_path) as again:
        pages = tags(list(again.open("triples").stream()))
        assert pages[:20] == ["x"] * 20
        assert set(pages[20:]) <= {"y"}


def make_simulated(seed: int, **disk_options: Any) -> tuple[System, SimulatedFileSystem, SimulatedScheduler]:
    runtime = SimulatedScheduler(seed)
    disk = SimulatedFileSystem(on_operation=runtime.file_call, condition=runtime.condition, **disk_options)
    return System(disk, SystemOptions(server=SMALL, buffer_bytes=2_000), runtime=runtime), disk, runtime


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("operation", ["pwritev", "fdatasync"])
def test_after_a_failed_write_or_sync_every_call_says_so_and_nothing_more_is_written(
    operation: str, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    system, disk, runtime = make_simulated(seed, page_cache="cold")
    files = [system.open(name, page_size=PAGE_SIZE) for name in ("a", "b")]
    for file in files:
        file.append([page(number) for number in range(12)])
    disk.faults.append(Fault(error=errno.EIO, operation=operation))
    ends: list[PfsError | None] = []

    def call(file: PageFile, change: bool) -> None:
        try:
            for _ in range(20):
                file.write(0, [page("x")] * 12) if change else file.read(0, 12)
        except PfsError as error:
            ends.append(error)
        else:
            ends.append(None)

    ended = [
        runtime.spawn(lambda file=file, change=change: call(file, change), f"{file.name} {change}")
        for file in files
        for change in (True, False, True)
    ]
    runtime.run(until=lambda: all(each() for each in ended))
    assert len(ends) == 6
    assert all(error is None or isinstance(error, SystemFailed) for error in ends)
    assert any(isinstance(error, SystemFailed) for error in ends)
    assert system.failed is not None
    assert "failed" in repr(system)
    written = sum(entry.operation.name == "pwritev" for entry in disk.journal)
    for again in (lambda: files[0].read(0), lambda: files[1].append([page("x")]), lambda: system.open("c")):
        with pytest.raises(SystemFailed, match="new System"):
            again()
    system.stop()
    assert sum(entry.operation.name == "pwritev" for entry in disk.journal) == written
    assert disk.open_descriptors == {}
    disk.faults.clear()
    assert "Unhandled exception" not in caplog.text
    with System(disk, runtime=SimulatedScheduler(seed)) as again_system:
        for name in ("a", "b"):
            assert len(again_system.open(name).read(0, 12)) == 12


def test_no_space_is_an_error_of_one_call_and_the_system_goes_on() -> None:
    runtime = SimulatedScheduler(1)
    disk = SimulatedFileSystem(on_operation=runtime.file_call, condition=runtime.condition)
    system = System(disk, SystemOptions(wal=WalOptions(segment_bytes=1 << 20)), runtime=runtime)
    file = system.open("triples", page_size=PAGE_SIZE)
    file.append([page("a")] * 4)
    disk.faults.append(Fault(error=errno.ENOSPC, operation="pwritev", path="pfs_wal/xlogtemp.*", forever=True))
    while file.stat().counters["failed"] == 0:
        with suppress(NoSpace):
            assert file.append([page("b")] * 1000) == file.page_count - 1000
    for _ in range(5):
        count = file.page_count
        try:
            file.append([page("b")] * 1000)
        except NoSpace:
            assert file.page_count == count
        else:  # a checkpoint has made room in the segments that there are
            assert file.page_count == count + 1000
    count = file.page_count
    assert tags(file.read(0, 4)) == ["a"] * 4
    disk.faults.clear()
    assert file.append([page("c")] * 10) == count
    system.stop()


def test_a_server_whose_own_code_fails_ends_the_system_and_leaves_nobody_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = SimulatedScheduler(1)
    system = System(SimulatedFileSystem(on_operation=runtime.file_call), runtime=runtime)
    file = system.open("triples", page_size=PAGE_SIZE)
    server: Any = file.server
    server._actor._handlers[DataRead] = lambda message: 1 / 0
    with pytest.raises(SystemFailed, match="division by zero"):
        file.read(0)
    with pytest.raises(SystemFailed):
        file.append([page("x")])
    system.stop()


def test_a_pool_whose_own_code_fails_ends_the_system_and_leaves_nobody_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runtime = SimulatedScheduler(1)
    options = SystemOptions(buffer_bytes=0)
    system = System(SimulatedFileSystem(on_operation=runtime.file_call), options, runtime=runtime)
    file = system.open("triples", page_size=PAGE_SIZE)
    file.append([page("x")])
    system.checkpoint()
    system._storage.pool.tell("nonsense")
    assert tags(file.read(0)) == ["x"]
    pool: Any = system._storage.pool
    pool._actor._load = lambda file, fetch: 1 / 0
    with pytest.raises(SystemFailed, match="division by zero"):
        file.read(0)
    system.stop()


def test_a_system_that_could_not_lock_its_directory_leaves_nothing_behind(tmp_path: Path) -> None:
    with System(tmp_path), pytest.raises(DirectoryLocked):
        System(tmp_path, runtime=Scheduler("another"))


@pytest.mark.parametrize(
    "options", [{"buffer_bytes": -1}, {"read_workers": 0}, {"write_workers": True}, {"call_timeout": 0}], ids=repr
)
def test_options_of_a_system_that_can_never_be_right_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        SystemOptions(**options)


def test_pages_too_large_for_the_segments_of_the_log_are_refused_when_the_file_is_made(tmp_path: Path) -> None:
    options = SystemOptions(wal=WalOptions(segment_bytes=16 << 10, batch_bytes=4096))
    with System(tmp_path, options) as system:
        with pytest.raises(InvalidRequest, match="does not fit into a WAL segment"):
            system.open("large", page_size=32 << 10)
        assert system.names() == []
        assert system.open("small", page_size=512).append(bytes(512)) == 0
