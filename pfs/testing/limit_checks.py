"""What a running system may keep, and what it may keep when nobody asks for anything: a look at its insides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pfs.actors.page_file_server import PageFileServer
from pfs.actors.requests import ReadRequest, WriteRequest
from pfs.system import System
from pfs.testing.plans import PAGE_SIZE, Plan

OTHER_DESCRIPTORS = 3
"""The lock, the control file, and a segment of the log that is being made."""

Violate = Callable[[str], None]
"""Is told which promise is broken."""


def check_limits(
    system: System, servers: Sequence[PageFileServer], plan: Plan, open_descriptors: int, violate: Violate
) -> None:
    """Memory, mailboxes and descriptors stay within what the options allow."""
    options = plan.options
    for server in servers:
        requests = server._requests()
        writes = [each for each in requests if isinstance(each, WriteRequest)]
        counters = server.stat().counters
        staged = sum(len(each.pages) for each in writes) * PAGE_SIZE
        if not staged <= counters["staged_bytes"] <= options.server.staging_bytes:
            violate(f"{staged} bytes of writers are kept, {counters['staged_bytes']} are reserved")
        for session in server._sessions.values():
            mine = [each for each in writes if each.session is session and each.state != "waiting"]
            bulk = 30 + options.server.credits * options.server.block
            room = [each.n if type(each) is WriteRequest else min(each.n, bulk) for each in mine]
            if sum(room) * PAGE_SIZE > options.server.session_staging_bytes:
                violate(f"the session of {session.client} has more than its share of the staging budget")
        if counters["old_version_bytes"] > options.server.version_bytes:
            violate(f"{counters['old_version_bytes']} bytes of old versions are kept")
        loaded = sum(len(each.loaded or ()) for each in requests if isinstance(each, ReadRequest))
        if loaded > len(requests) * max(options.server.chunk, options.server.credits * options.server.block):
            violate(f"{loaded} loaded pages wait for their turn")
        most = plan.clients * 4 * (2 * options.server.credits + 12) + 50
        if server.actor_ref.mailbox_length() > most:
            violate(f"the mailbox of a server holds {server.actor_ref.mailbox_length()} messages")
    table = system._storage.table.stats()
    if table["bytes"] > options.buffer_bytes:
        violate(f"the buffer pool keeps {table['bytes']} bytes")
    storage = system._storage
    largest = max(options.dirty_bytes, options.server.session_staging_bytes)
    if storage.dirty.bytes > largest or storage.write_room.promised > largest:
        violate(f"{storage.dirty.bytes} bytes of pages are dirty, {storage.write_room.promised} are promised")
    assert options.descriptors is not None
    of_a_batch = 2 + min(options.wal.batch_bytes, options.wal.most_bytes) // options.wal.segment_bytes
    if open_descriptors > options.descriptors + OTHER_DESCRIPTORS + of_a_batch:
        violate(f"{open_descriptors} descriptors are open")


def check_quiet(system: System, servers: Sequence[PageFileServer], violate: Violate) -> None:
    """Nobody asks for anything: nothing is kept for anybody."""
    for server in servers:
        core, counters = server._core, server.stat().counters
        kept = {
            "requests": len(server._requests()),
            "ready": counters["ready"],
            "staged bytes": counters["staged_bytes"],
            "waiting writes": counters["writes_waiting"],
            "old versions": counters["old_version_bytes"],
            "cuts": len(core.state._cuts),
            "applying": server._writes.applying,
            "sessions of the dead": sum(not client.is_alive() for client in server._sessions),
        }
        for what, number in kept.items():
            if number:
                violate(f"{number} {what} of {core.state.name!r} are left when nothing is asked for")
    if system._storage.write_room.promised or system._storage.write_room.waiting:
        violate("writers that are not there have, or wait for, a share of the dirty bytes")
    if system._storage.table.stats()["in_flight"]:
        violate("pages are on their way for nobody")
    pins = sum(len(slot.pins) for slot in system._store._pool._descriptors._table._slots)
    if pins:
        violate(f"{pins} pins are left")
