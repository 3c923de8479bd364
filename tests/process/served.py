"""`ServedProcess`: the handle of a `python -m pfs.testing.server` for threads that send commands and wait for replies.

The children are not measured for coverage unless asked for: it would make each start half as long again, and one that
is killed has nothing to tell.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support import untraced_environment


class ServerEnded(AssertionError):
    """The process ended before it answered; the message has its standard error."""


class ServedProcess:
    """A server on a directory, started when made.

    options: of the system.  kill_at: it kills itself in its call with this number that changes files.  before: what the
    command line begins with, such as strace.  `ready` is its first line: `{"ready": ...}`, `{"error": ...}`, or `{}` if
    the process ended without one.
    """

    def __init__(
        self,
        directory: Path,
        options: dict[str, Any] | None = None,
        *,
        kill_at: int | None = None,
        before: Sequence[str] = (),
    ) -> None:
        command = [*before, sys.executable, "-m", "pfs.testing.server", str(directory), json.dumps(options or {})]
        if kill_at is not None:
            command.append(str(kill_at))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=untraced_environment(),
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._stdin, self._stdout, self._stderr = self.process.stdin, self.process.stdout, self.process.stderr
        self._changed = threading.Condition()
        self._next_id = 0
        self._replies: dict[int, dict[str, Any]] = {}
        self._over = False
        self.errors = ""
        self.ready = self._first_line()
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _first_line(self) -> dict[str, Any]:
        try:
            ready: dict[str, Any] = json.loads(self._stdout.readline())
        except json.JSONDecodeError:
            return {}
        return ready

    def _read(self) -> None:
        for line in self._stdout:
            try:
                reply = json.loads(line)
            except json.JSONDecodeError:
                break  # the kill has torn it
            with self._changed:
                self._replies[reply["id"]] = reply
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _read_errors(self) -> None:
        self.errors = self._stderr.read()

    def ask(self, **command: Any) -> dict[str, Any] | None:
        """Send a command; its reply, or None if the process ended before it came."""
        with self._changed:
            self._next_id += 1
            command["id"] = self._next_id
            try:
                self._stdin.write(json.dumps(command) + "\n")
                self._stdin.flush()
            except (BrokenPipeError, ValueError):  # it has ended; its pipe may be closed by now
                return None
            self._changed.wait_for(lambda: command["id"] in self._replies or self._over)
            return self._replies.pop(command["id"], None)

    def do(self, **command: Any) -> dict[str, Any]:
        """Send a command that must be answered, and not with an error.  Raises `ServerEnded`."""
        reply = self.ask(**command)
        if reply is None:
            raise ServerEnded(f"the server ended during {command}: {self.end_of_errors()}")
        assert "error" not in reply, f"{command} was answered with {reply}"
        return reply

    def end_of_errors(self) -> str:
        """Its standard error, once it has ended."""
        self.end()
        return self.errors[-4000:]

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.end()

    def stop(self) -> None:
        """Let it stop in order."""
        self.do(client="end", do="stop")
        assert self.end() == 0, self.errors

    def end(self) -> int:
        """Wait for the end of the process; its exit status."""
        status = self.process.wait(60)
        for reader in self._readers:
            reader.join()
        for pipe in (self._stdin, self._stdout, self._stderr):
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        return status
