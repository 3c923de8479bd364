"""A process that serves page files is killed at random moments, started again, and has all that it acknowledged.

`PFS_KILLS=300 pytest tests/server/test_kill.py` kills it more often; `PFS_SEED` chooses another run.  (The cache of the
operating system survives a kill: what survives a power cut is shown elsewhere.)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from random import Random
from typing import Any

KILLS = int(os.environ.get("PFS_KILLS", "20"))
SEED = int(os.environ.get("PFS_SEED", "1"))
CLIENTS = 4
PAGE_SIZE = 512
BLOCK = 8
"""An overwrite is of so many pages, at a multiple of this."""


class ServedProcess:
    """`python -m pfs.testing.server` with threads that send commands and wait for their replies."""

    def __init__(self, directory: Path, options: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "pfs.testing.server", str(directory), json.dumps(options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = threading.Condition()
        self._next_id = 0
        self._replies: dict[int, dict[str, Any]] = {}
        self._over = False
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                reply = json.loads(line)
            except json.JSONDecodeError:
                break  # the kill has torn it
            with self._lock:
                self._replies[reply["id"]] = reply
                self._lock.notify_all()
        with self._lock:
            self._over = True
            self._lock.notify_all()

    def ask(self, **command: Any) -> dict[str, Any] | None:
        """Send a command; its reply, or None if the process was killed before it came."""
        assert self.process.stdin is not None
        with self._lock:
            if self._over:
                return None
            self._next_id += 1
            command["id"] = self._next_id
            try:
                self.process.stdin.write(json.dumps(command) + "\n")
                self.process.stdin.flush()
            except BrokenPipeError:
                return None
            self._lock.wait_for(lambda: command["id"] in self._replies or self._over)
            return self._replies.pop(command["id"], None)

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> None:
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass


class Known:
    """What clients know of the file: what was acknowledged, and what was asked for when the process was killed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.pages: dict[int, str] = {}
        self.unsure_writes: list[tuple[int, list[str]]] = []
        self.unsure_appends: list[list[str]] = []
        self.acknowledged = 0


def client(served: ServedProcess, known: Known, name: str, random: Random) -> None:
    """Append, and overwrite a part of the file that no other client overwrites, until the process is killed."""
    number = 0
    mine = CLIENTS * BLOCK, int(name) * BLOCK
    while True:
        number += 1
        texts = [f"{name}.{random.getrandbits(32):x}.{number}"]
        if random.random() < 0.5:
            texts = [f"{texts[0]}.{index}" for index in range(random.choice((1, 3, 20)))]
            reply = served.ask(client=name, do="append", file="f", pages=texts)
            with known.lock:
                if reply is None:
                    known.unsure_appends.append(texts)
                    return
                assert "error" not in reply, reply
                known.pages.update(enumerate(texts, reply["pgid"]))
                known.acknowledged += len(texts)
        else:
            pgid = mine[1] + random.randrange(2) * mine[0]
            texts = [f"{texts[0]}.w{index}" for index in range(BLOCK)]
            reply = served.ask(client=name, do="write", file="f", pgid=pgid, pages=texts)
            with known.lock:
                if reply is None:
                    known.unsure_writes.append((pgid, texts))
                    return
                assert "error" not in reply, reply
                known.pages.update(enumerate(texts, pgid))
                known.acknowledged += len(texts)


def check(found: list[str], known: Known) -> None:
    """Every acknowledged page is there; every other request is there whole, or not at all."""
    for pgid, texts in known.unsure_writes:
        if found[pgid : pgid + BLOCK] == texts:
            known.pages.update(enumerate(texts, pgid))
    left = [list(texts) for texts in known.unsure_appends]
    at = 0
    while at < len(found):
        if at in known.pages:
            assert found[at] == known.pages[at], f"page {at} is {found[at]}; acknowledged was {known.pages[at]}"
            at += 1
            continue
        whole = next((texts for texts in left if found[at : at + len(texts)] == texts), None)
        assert whole is not None, f"page {at} is {found[at]}: a part of a request, or nobody's"
        left.remove(whole)
        known.pages.update(enumerate(whole, at))
        at += len(whole)
    assert len(known.pages) == len(found), "acknowledged pages are gone"
    known.unsure_writes.clear()
    known.unsure_appends.clear()


def test_a_killed_process_keeps_what_it_acknowledged_and_no_half_of_a_request(tmp_path: Path) -> None:
    random = Random(SEED)
    print(f"replay: PFS_SEED={SEED} PFS_KILLS={KILLS}")
    known = Known()
    replayed = 0
    for number in range(KILLS + 1):
        options = {
            "buffer_bytes": random.choice((0, 64 << 10, 64 << 20)),
            "dirty_bytes": random.choice((4 << 10, 256 << 10, 32 << 20)),
            "descriptors": random.choice((2, 100)),
            "segment_bytes": 16 << 10,
            "wal": {
                "segment_bytes": 64 << 10,
                "most_bytes": random.choice((512 << 10, 4 << 20)),
                "checkpoint_bytes": random.choice((100 << 10, 2 << 20)),
                "checkpoint_seconds": random.choice((0.05, 300.0)),
                "batch_requests": random.choice((1, 256)),
                "sync_method": random.choice(("fdatasync", "fsync", "O_DSYNC")),
            },
        }
        served = ServedProcess(tmp_path, options)
        try:
            replayed += served.ready["wal"]["replayed_transactions"]
            opened = served.ask(client="check", do="open", file="f", page_size=PAGE_SIZE)
            assert opened is not None
            n = opened["page_count"]
            if n:
                reply = served.ask(client="check", do="read", file="f", pgid=0, n=n)
                assert reply is not None
                check(reply["pages"], known)
            else:
                assert not known.pages
                texts = [f"begin.{index}" for index in range(2 * CLIENTS * BLOCK)]
                assert served.ask(client="check", do="append", file="f", pages=texts) is not None
                known.pages.update(enumerate(texts))
            if number == KILLS:
                assert served.ask(client="check", do="stop") is not None
                served.end()
                break
            threads = [
                threading.Thread(target=client, args=(served, known, str(which), Random(random.random())))
                for which in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            killed_at = known.acknowledged + random.randrange(1, 400)
            while known.acknowledged < killed_at and served.process.poll() is None:
                threading.Event().wait(0.001)
            threading.Event().wait(random.random() * 0.005)
            served.kill()
            for thread in threads:
                thread.join()
        finally:
            if served.process.poll() is None:
                served.kill()
    print(f"{known.acknowledged} pages acknowledged, {replayed} transactions replayed")
    assert replayed > 0
    with_clean_stop = ServedProcess(tmp_path, {})
    assert with_clean_stop.ready["wal"]["replayed_transactions"] == 0
    assert with_clean_stop.ask(client="check", do="stop") is not None
    with_clean_stop.end()
