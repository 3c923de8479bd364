"""The whole system under random clients and a failing disk, seed after seed; and that breaking a rule is noticed.

`python -m pfs.testing.simulation --seeds 0..999` runs the same seeds by hand.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from pfs.actors import BlockingActor, file_worker, server_core
from pfs.actors.page_file_server import PageFileServer
from pfs.actors.read_service import ReadService
from pfs.actors.requests import WriteRequest
from pfs.actors.reservations import Reservations
from pfs.actors.round_robin import FirstComeFirstServed
from pfs.actors.server_core import ServerCore
from pfs.actors.write_service import Applied, WriteService
from pfs.cache.page_file_state import PageFileState
from pfs.cache.page_table import PageTable
from pfs.cache.versions import PageVersions
from pfs.errors import Cancelled, FatalError, SyncFailed, WriteFailed
from pfs.files.store import RelationFile
from pfs.protocol import RequestFailed
from pfs.streams.stream import Stream
from pfs.streams.transfers import Transfer
from pfs.testing import simulation
from pfs.testing.simulation import run_seed

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
    ),
)
"""What must happen in some run, or the simulation would show less than it seems to."""


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
    for seed in range(20):
        first, second = run_seed(seed), run_seed(seed)
        assert (first.trace_hash, first.steps, first.events) == (second.trace_hash, second.steps, second.events)
    assert len({run_seed(seed).trace_hash for seed in range(20)}) == 20


def test_a_seed_is_the_same_run_in_every_process() -> None:
    source = "from pfs.testing.simulation import run_seed; print([run_seed(seed).trace_hash for seed in range(6)])"
    hashes = {str([run_seed(seed).trace_hash for seed in range(6)])}
    for hash_seed in ("1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
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
    assert simulation.main(["--seeds", "0..40"]) == 1
    output = capsys.readouterr().out
    assert "not the file as of one moment" in output
    assert "replay: python -m pfs.testing.simulation --seed " in output


# ------------------------------------------------------------------------------------------------ rules switched off


def acknowledge_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    def applied(self: WriteService, request: WriteRequest) -> None:
        if request.error is not None:
            self._end_doomed(request)
        else:
            self._publish_in_order(request)

    patch.setattr(WriteService, "_applied_or_doomed", applied)


def without_shield(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PageFileState, "shield", lambda self, pgid, images: [])


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


def place_appends_at_arrival(patch: pytest.MonkeyPatch) -> None:
    admit, start = WriteService.admit, WriteService._start
    places: dict[WriteRequest, int] = {}

    def admit_and_place(self: WriteService, session: Any, message: Any) -> None:
        admit(self, session, message)
        request = session.requests[message.ref]
        if request.append:
            places[request] = self._tail
            self._tail += request.n

    def start_in_place(self: WriteService, request: WriteRequest) -> None:
        tail = self._tail
        if request.append:
            self._tail = places[request]
        start(self, request)
        self._tail = tail

    patch.setattr(WriteService, "admit", admit_and_place)
    patch.setattr(WriteService, "_start", start_in_place)


def drop_the_reply_on_cancel(patch: pytest.MonkeyPatch) -> None:
    refuse = ServerCore.refuse

    def refuse_unless_cancelled(self: ServerCore, client: Any, ref: int, error: Any) -> None:
        if not isinstance(error, Cancelled):
            refuse(self, client, ref, error)

    patch.setattr(ServerCore, "refuse", refuse_unless_cancelled)


def trust_the_count_of_stream_end(patch: pytest.MonkeyPatch) -> None:
    end = WriteService.end

    def end_with_what_came(self: WriteService, request: WriteRequest, message: Any) -> None:
        if request.state == "collecting" and request.pages:
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


def publish_chunk_by_chunk(patch: pytest.MonkeyPatch) -> None:
    ended = WriteService.file_call_ended

    def publish_first(self: WriteService, token: Any, error: Any) -> None:
        if isinstance(token, Applied) and error is None and not token.request.append:
            request, state = token.request, self._core.state
            chunk = request.pages[request.applied : request.applied + token.n]
            self._core.settle(state.publish(request.pgid + request.applied, chunk)[0])
        ended(self, token, error)

    patch.setattr(WriteService, "file_call_ended", publish_first)


def write_over_each_other(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WriteRequest, "overlaps", lambda self, other: False)


def install_stale_reads(patch: pytest.MonkeyPatch) -> None:
    def publish(self: Any, file_id: int, pgid: int, pages: Any) -> list[Any]:
        for key, page in enumerate(pages, file_id << 48 | pgid):
            self._cache.insert(key, page)
        return []

    patch.setattr(PageTable, "publish", publish)


def cut_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RelationFile, "truncate", lambda self, blocks: None)


def _ignore(patch: pytest.MonkeyPatch, ignored: type[FatalError]) -> None:
    attempt = file_worker._attempt

    def attempt_and_ignore(call: Callable[[], None]) -> Any:
        error = attempt(call)
        return None if isinstance(error, ignored) else error

    patch.setattr(file_worker, "_attempt", attempt_and_ignore)


def ignore_failed_writes(patch: pytest.MonkeyPatch) -> None:
    _ignore(patch, WriteFailed)


def ignore_failed_syncs(patch: pytest.MonkeyPatch) -> None:
    _ignore(patch, SyncFailed)


def go_on_with_the_batch_after_a_panic(patch: pytest.MonkeyPatch) -> None:
    def on_batch(self: BlockingActor, messages: list[Any]) -> None:
        for message in messages:
            self.on_receive(message)

    patch.setattr(BlockingActor, "on_batch", on_batch)


def acknowledge_until_the_panic_is_told(patch: pytest.MonkeyPatch) -> None:
    written = PageFileServer._blocks_written

    def without_looking(self: PageFileServer, message: Any) -> None:
        self._failure = None
        written(self, message)

    patch.setattr(PageFileServer, "_blocks_written", without_looking)


def answer_early_data_besides_its_request(patch: pytest.MonkeyPatch) -> None:
    unknown = Stream._unknown

    def unknown_told_to_the_client(self: Stream, ref: Any) -> None:
        if ref in self._ended:
            unknown(self, ref)
        else:
            self._client.tell(RequestFailed(ref, Cancelled("early")))

    patch.setattr(Stream, "_unknown", unknown_told_to_the_client)


def cut_beside_writes(patch: pytest.MonkeyPatch) -> None:
    quiet = WriteService._truncate_when_quiet

    def at_once(self: WriteService) -> None:
        applying, self._applying = self._applying, {}
        quiet(self)
        self._applying = applying

    patch.setattr(WriteService, "_truncate_when_quiet", at_once)


KNOCK_OUTS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    acknowledge_before_the_sync: "not durable",
    without_shield: "not the file as of one moment",
    without_version_store: "not the file as of one moment",
    without_cuts: "not the file as of one moment",
    without_bound_of_the_version_store: "bytes of old versions are kept",
    ignore_credit: "data messages are out with",
    place_appends_at_arrival: "where .* was expected",
    drop_the_reply_on_cancel: "nothing can happen; the run is not finished",
    trust_the_count_of_stream_end: "pages were meant to be written",
    keep_the_reservations_of_the_dead: "staged bytes .* are left",
    grant_every_reservation: "are reserved",
    serve_first_come_first: "waited .* chunks",
    publish_chunk_by_chunk: "not the file as of one moment",
    write_over_each_other: "not durable",
    install_stale_reads: "not the file as of one moment",
    cut_nothing: "does not hold the pages",
    ignore_failed_writes: "not durable",
    ignore_failed_syncs: "not durable",
    go_on_with_the_batch_after_a_panic: "was begun after the panic",
    acknowledge_until_the_panic_is_told: "was sent after the system had panicked",
    answer_early_data_besides_its_request: "a second answer",
    cut_beside_writes: "",
}
"""Rules switched off, and what the simulation must say of that."""


@pytest.mark.parametrize("knock_out", KNOCK_OUTS, ids=lambda knock_out: knock_out.__name__)
def test_a_rule_switched_off_is_noticed(
    knock_out: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    knock_out(monkeypatch)
    for seed in range(SEEDS):
        noticed = [each for each in run_seed(seed).violations if re.search(KNOCK_OUTS[knock_out], each)]
        if noticed:
            print(f"noticed at seed {seed}: {noticed[0]}")
            monkeypatch.undo()
            assert not run_seed(seed).violations
            return
    pytest.fail(f"{SEEDS} seeds did not notice it")
