"""The whole system under random clients and a failing disk, seed after seed; and that breaking a rule is noticed.

`python -m pfs.testing.simulation --seeds 0..999` runs the same seeds by hand.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count, islice
from typing import Any

import pytest

from pfs.actors import BlockingActor, page_writer, server_core, wal_server
from pfs.actors.file_worker import Carry
from pfs.actors.page_file_server import PageFileServer
from pfs.actors.page_writer import PageWriter, Written
from pfs.actors.read_service import ReadService
from pfs.actors.requests import WriteRequest
from pfs.actors.reservations import Reservations
from pfs.actors.round_robin import FirstComeFirstServed
from pfs.actors.server_core import ServerCore
from pfs.actors.write_room import Share, WriteRoom
from pfs.actors.write_service import WriteService
from pfs.cache.dirty_pages import DirtyPages
from pfs.cache.page_file_state import PageFileState
from pfs.cache.page_table import PageTable
from pfs.cache.versions import PageVersions
from pfs.errors import Cancelled, FatalError
from pfs.files.store import PageFileStore
from pfs.protocol import RequestFailed
from pfs.streams.stream import Stream
from pfs.streams.transfers import Transfer
from pfs.testing import simulation
from pfs.testing.plans import PAGE_SIZE, Plan, plan
from pfs.testing.simulation import run_seed
from pfs.wal import redo
from pfs.wal.log_buffer import LogBuffer
from pfs.wal.log_files import LogFiles
from pfs.wal.shared_log import SharedLog
from tests.support import untraced_environment

pytestmark = pytest.mark.timeout(600)

SEEDS = 1000
"""How many seeds this file runs."""
RANGE = 100

EVENTS = (
    *(
        "DataReadEnd",
        "DataWriteEnd",
        "Done",
        "StatReply",
        "Truncate",
        "Sync",
    ),
    *(
        "Stop",
        "Start",
        "OutOfRange",
        "Cancelled",
        "IdleTooLong",
        "Busy",
    ),
    *(
        "ProtocolError",
        "RequestTooLarge",
        "SessionEnded",
        "ServerInactive",
        "SystemFailed",
    ),
    *(
        "PageIOError",
        "NoSpace",
        "SnapshotTooOld",
        "panic",
        "operations judged",
    ),
)
"""What must happen in some run, or the simulation would show less than it seems to."""


@pytest.mark.untraced
@pytest.mark.parametrize("first", range(0, SEEDS, RANGE))
def test_no_seed_breaks_a_promise(first: int) -> None:
    events: Counter[str] = Counter()
    steps = 0
    for seed in range(first, first + RANGE):
        report = run_seed(seed)
        assert not report.violations, str(report)
        events += report.events
        steps += report.steps
    assert [event for event in EVENTS if not events[event]] == []
    assert steps > 500 * RANGE


def test_a_seed_is_the_same_run_every_time() -> None:
    hashes = set()
    for seed in range(20):
        first, second = run_seed(seed), run_seed(seed)
        assert (first.trace_hash, first.steps, first.events) == (second.trace_hash, second.steps, second.events)
        hashes.add(first.trace_hash)
    assert len(hashes) == 20


def test_a_seed_is_the_same_run_in_every_process() -> None:
    source = "from pfs.testing.simulation import run_seed; print([run_seed(seed).trace_hash for seed in range(6)])"
    hashes = {str([run_seed(seed).trace_hash for seed in range(6)])}
    for hash_seed in ("1", "77"):
        environment = untraced_environment() | {"PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-W", "error", "-c", source]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        hashes.add(run.stdout.strip())
    assert len(hashes) == 1


def test_the_command_replays_a_seed_and_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulation.main(["--seed", "3", "--verbose"]) == 0
    trace = capsys.readouterr().out
    assert "PageFileServer-" in trace
    assert "pwritev" in trace
    assert simulation.main(["--seeds", "3..4", "--steps", "100"]) == 0
    assert capsys.readouterr().out.startswith("2 seeds, ")


def test_a_broken_promise_is_printed_with_the_command_that_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_version_store(monkeypatch)
    assert simulation.main(["--seeds", "0..7"]) == 1
    output = capsys.readouterr().out
    assert "not the file as of one moment" in output
    assert "replay: python -m pfs.testing.simulation --seed " in output


# ------------------------------------------------------------------------------------------------ rules switched off


def acknowledge_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    commit = WriteService._commit

    def commit_and_publish(self: WriteService, request: WriteRequest) -> None:
        really, request.durability = request.durability, "memory"
        commit(self, request)
        request.durability = really

    patch.setattr(WriteService, "_commit", commit_and_publish)


def write_pages_before_their_log(patch: pytest.MonkeyPatch) -> None:
    take = DirtyPages.take
    patch.setattr(DirtyPages, "take", lambda self, most, flushed, below=None: take(self, most, 1 << 63, below))
    patch.setattr(PageWriter, "_send", _send_without_looking)


def _send_without_looking(self: Any, group: Any) -> None:
    file_id = group[0].file_id
    call = partial(page_writer._write_group, self._files[file_id], group, lambda: True)
    self._writer_of(file_id).tell(Carry(call, self._owner, Written(group)))


def begin_recovery_behind_writes_under_way(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogBuffer, "redo_point", lambda self: self.next_lsn)


def record_checkpoints_without_syncing_data(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PageFileStore, "make_durable", lambda self, table: self.catalog.save(table))


def forget_truncations(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(redo.Redo, "_change", lambda self, record: None)


def never_sync_the_log(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogFiles, "sync", lambda self: None)


def ignore_a_log_that_is_not_written(patch: pytest.MonkeyPatch) -> None:
    def on_receive(self: Any, message: Any) -> None:
        try:
            self._files.write(message.batch)
            self._files.sync()
        except FatalError:
            pass
        message.reply_to.tell(wal_server.LogWritten(message.batch, None))

    patch.setattr(wal_server.LogDevice, "on_receive", on_receive)


def without_version_store(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PageVersions, "save", lambda self, pgid, superseded_at, image: None)


def without_cuts(patch: pytest.MonkeyPatch) -> None:
    resolve = PageFileState.resolve
    patch.setattr(PageFileState, "resolve", lambda self, snapshot, pgid, n: resolve(self, self.version, pgid, n))


def without_bound_of_the_version_store(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PageFileState, "_fail_oldest", lambda self: [])


def ignore_credit(patch: pytest.MonkeyPatch) -> None:
    admit = ReadService.admit

    def admit_with_much_credit(self: ReadService, session: Any, message: Any) -> None:
        admit(self, session, message)
        session.requests[message.ref].credit = 1_000_000

    patch.setattr(ReadService, "admit", admit_with_much_credit)
    patch.setattr(Transfer, "spend", lambda self: None)
    patch.setattr(Transfer, "give_back", lambda self, n: None)


def drop_the_reply_on_cancel(patch: pytest.MonkeyPatch) -> None:
    refuse = ServerCore.refuse

    def refuse_unless_cancelled(self: ServerCore, client: Any, ref: int, error: Any) -> None:
        if not isinstance(error, Cancelled):
            refuse(self, client, ref, error)

    patch.setattr(ServerCore, "refuse", refuse_unless_cancelled)


def trust_the_count_of_stream_end(patch: pytest.MonkeyPatch) -> None:
    end = WriteService.end

    def end_with_what_came(self: WriteService, request: WriteRequest, message: Any) -> None:
        if request.state == "collecting" and request.pages and type(request) is WriteRequest:
            request.n = len(request.pages)
            message = type(message)(message.ref, request.n)
        end(self, request, message)

    patch.setattr(WriteService, "end", end_with_what_came)


def keep_the_reservations_of_the_dead(patch: pytest.MonkeyPatch) -> None:
    release = Reservations.release

    def release_of_the_living(self: Any, request: Any) -> Any:
        return release(self, request) if request.session.client.is_alive() else []

    patch.setattr(Reservations, "release", release_of_the_living)


def grant_every_reservation(patch: pytest.MonkeyPatch) -> None:
    def grant(self: Any) -> list[Any]:
        granted = list(self._waiting)
        for request, (session, size) in self._waiting.items():
            self.reserved += size
            self._by_session[session] = self._by_session.get(session, 0) + size
            self._granted[request] = (session, size)
        self._waiting.clear()
        return granted

    patch.setattr(Reservations, "_grant", grant)


def serve_first_come_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server_core, "RoundRobin", FirstComeFirstServed)


def install_stale_reads(patch: pytest.MonkeyPatch) -> None:
    def publish(self: Any, file_id: int, pgid: int, pages: Any) -> list[Any]:
        for key, page in enumerate(pages, file_id << 48 | pgid):
            self._cache.insert(key, page)
        return []

    patch.setattr(PageTable, "publish", publish)


def go_on_with_the_batch_after_a_panic(patch: pytest.MonkeyPatch) -> None:
    def on_batch(self: BlockingActor, messages: list[Any]) -> None:
        for message in messages:
            self.on_receive(message)

    write_group = page_writer._write_group
    patch.setattr(BlockingActor, "on_batch", on_batch)
    patch.setattr(page_writer, "_write_group", lambda file, group, _: write_group(file, group, lambda: True))


def acknowledge_until_the_panic_is_told(patch: pytest.MonkeyPatch) -> None:
    written = PageFileServer._wal_answered

    def without_looking(self: PageFileServer, message: Any) -> None:
        self._failure = None
        written(self, message)

    patch.setattr(PageFileServer, "_wal_answered", without_looking)


def let_every_write_have_its_share_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WriteRoom, "_fits", lambda self, share: True)


def keep_the_shares_of_large_writes_that_ended(patch: pytest.MonkeyPatch) -> None:
    give_back = WriteRoom.give_back

    def of_small_ones(self: WriteRoom, share: Share) -> None:
        if share.data <= 8 * PAGE_SIZE:
            give_back(self, share)

    patch.setattr(WriteRoom, "give_back", of_small_ones)


def begin_writes_that_the_log_has_no_room_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SharedLog, "free", 1 << 40)


def answer_early_data_besides_its_request(patch: pytest.MonkeyPatch) -> None:
    unknown = Stream._unknown

    def unknown_told_to_the_client(self: Stream, ref: Any) -> None:
        if ref in self._ended:
            unknown(self, ref)
        else:
            self._client.tell(RequestFailed(ref, Cancelled("early")))

    patch.setattr(Stream, "_unknown", unknown_told_to_the_client)


KNOCK_OUTS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    acknowledge_before_the_sync: "not durable",
    write_pages_before_their_log: "not durable|cannot be trusted",
    begin_recovery_behind_writes_under_way: "",
    record_checkpoints_without_syncing_data: "",
    forget_truncations: "not durable",
    never_sync_the_log: "not durable",
    ignore_a_log_that_is_not_written: "",
    without_version_store: "not the file as of one moment",
    without_cuts: "not the file as of one moment",
    without_bound_of_the_version_store: "bytes of old versions are kept",
    ignore_credit: "data messages are out with",
    drop_the_reply_on_cancel: "nothing can happen; the run is not finished",
    trust_the_count_of_stream_end: "pages were meant to be written",
    keep_the_reservations_of_the_dead: "staged bytes .* are left",
    grant_every_reservation: "are reserved",
    serve_first_come_first: "waited .* chunks",
    install_stale_reads: "not the file as of one moment",
    go_on_with_the_batch_after_a_panic: "was begun after the panic",
    acknowledge_until_the_panic_is_told: "was sent after the system had panicked",
    answer_early_data_besides_its_request: "a second answer",
    let_every_write_have_its_share_at_once: "bytes of pages are dirty",
    keep_the_shares_of_large_writes_that_ended: "not finished|a share of the dirty bytes",
    begin_writes_that_the_log_has_no_room_for: "NoSpace",
}
"""Rules switched off, and what the simulation must say of that."""

MATTERS: dict[Callable[[pytest.MonkeyPatch], None], Callable[[Plan], bool]] = {
    go_on_with_the_batch_after_a_panic: lambda plan: plan.trouble in ("sync", "write"),
    acknowledge_until_the_panic_is_told: lambda plan: plan.trouble in ("sync", "write"),
    begin_writes_that_the_log_has_no_room_for: lambda plan: plan.options.wal.most_bytes == 32 << 10,
}
"""Where a rule can make a difference: other seeds need not be tried."""

BEGIN_AT: dict[Callable[[pytest.MonkeyPatch], None], int] = {
    trust_the_count_of_stream_end: 300,
    write_pages_before_their_log: 190,
    forget_truncations: 490,
    go_on_with_the_batch_after_a_panic: 980,
    acknowledge_until_the_panic_is_told: 770,
    answer_early_data_besides_its_request: 110,
    begin_writes_that_the_log_has_no_room_for: 770,
}
"""The seed with which to begin, where few notice: a little before one that once did.  If it does not any more, another
does, later, and that should be written here."""


@pytest.mark.untraced
@pytest.mark.parametrize("knock_out", KNOCK_OUTS, ids=lambda knock_out: knock_out.__name__)
def test_a_rule_switched_off_is_noticed(
    knock_out: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    knock_out(monkeypatch)
    matters = MATTERS.get(knock_out, lambda plan: True)
    begin = BEGIN_AT.get(knock_out, 0)
    for seed in islice((seed for seed in count(begin) if matters(plan(seed))), SEEDS):
        noticed = [each for each in run_seed(seed).violations if re.search(KNOCK_OUTS[knock_out], each)]
        if noticed:
            print(f"noticed at seed {seed}: {noticed[0]}")
            monkeypatch.undo()
            assert not run_seed(seed).violations
            return
    pytest.fail(f"{SEEDS} seeds did not notice it")
