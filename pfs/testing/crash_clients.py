"""The clients of a crash campaign: they carry actions out on a `System`, and tell the model what they are told.

An acknowledgement counts from the moment at which the system sends it, not when the client's code goes on: `ToldClient`
stands between.  It also sees that a request gets one answer at most, and none but an error after a panic.  That each
gets one at all shows in that its call comes back.

Everything goes through the public face, so what is found holds for whatever is inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from pfs.calls import ThreadClient
from pfs.errors import FatalError, RequestError
from pfs.files.filesystem import FileSystem
from pfs.page_file import PageFile
from pfs.protocol import DataReadEnd, DataWriteEnd, Done, RequestFailed, StatReply
from pfs.system import System, SystemOptions
from pfs.testing.crash_model import CrashModel, Step
from pfs.testing.scheduler import SimulatedScheduler
from pfs.testing.workloads import PAGE_SIZE, Action

_ENDS = (DataReadEnd, DataWriteEnd, Done, RequestFailed, StatReply)


class Watcher(Protocol):
    """Who is told what happens."""

    def acknowledged(self) -> None:
        """The model has changed: less is right from now on."""
        ...

    def violate(self, what: str) -> None:
        """A promise is broken."""
        ...


class ToldClient(ThreadClient):
    """The address of a client; `on_done` is called when its present request is said to be done."""

    __slots__ = ("_answers", "_system", "_watcher", "on_done")

    def __init__(self, name: str, system: WatchedSystem, watcher: Watcher) -> None:
        super().__init__(name)
        self.on_done: Callable[[], None] | None = None
        self._system = system
        self._watcher = watcher
        self._answers: Counter[int] = Counter()

    def tell(self, message: Any) -> None:
        if isinstance(message, _ENDS):
            self._answers[message.ref] += 1
            if self._answers[message.ref] > 1:
                self._watcher.violate(f"{self} was told {message} when its request had ended")
            if isinstance(message, (DataWriteEnd, Done)) and message.ref in self.calls:
                if self._system.failed is not None:
                    self._watcher.violate(f"{self} was told {message} after the panic: {self._system.failed}")
                if self.on_done is not None:
                    on_done, self.on_done = self.on_done, None
                    on_done()
        super().tell(message)


class WatchedSystem(System):
    """A system whose clients, one for each process of the simulation, are `ToldClient`s."""

    def __init__(self, fs: FileSystem, options: SystemOptions, scheduler: SimulatedScheduler, watcher: Watcher) -> None:
        self._watcher = watcher
        self._scheduler = scheduler
        self._clients: dict[str, ToldClient] = {}
        super().__init__(fs, options, runtime=scheduler)

    def thread_client(self) -> ToldClient:
        name = str(self._scheduler.who_runs())
        if name not in self._clients:
            self._clients[name] = ToldClient(name, self, self._watcher)
        return self._clients[name]


class Work:
    """The files and clients of one workload.

    `start` makes a system; `serial`: above it, pages and names are new.  `perform` carries out one client's action.  A
    `RequestError` means that the action was not done; anything else that is raised leaves that open, and comes out.
    """

    def __init__(
        self, model: CrashModel, watcher: Watcher, start: Callable[[], WatchedSystem], serial: int = 0
    ) -> None:
        self.model = model
        self.system = start()
        self.errors: Counter[str] = Counter()
        self._start = start
        self._watcher = watcher
        self._owners: dict[int, int] = dict.fromkeys(model.files(), 0)
        """Which client made a page file; the first file of all is for all, and keeps its name."""
        self._serial = serial

    def perform(self, client: int, action: Action) -> None:
        """Carry out an action, if there is a page file for it."""
        try:
            match action.kind:
                case "create":
                    self._create(client, action)
                case "checkpoint":
                    committed = self.model.committed
                    self.system.checkpoint()
                    self.model.synced(None, committed)
                case "reopen":
                    self.stop()
                    self.system = self._start()
                case "rename" | "drop":
                    self._change_name(client, action)
                case _:
                    self._change_pages(client, action)
        except RequestError as error:
            self.errors[type(error).__name__] += 1
        except FatalError as error:
            if self.system.failed is None:
                self._watcher.violate(f"{action}: the system goes on after {type(error).__name__}: {error}")
            raise
        self._watcher.acknowledged()

    def stop(self) -> None:
        """Stop in order; if that goes well, all is durable."""
        self.system.stop()
        if self.system.failed is None:
            self.model.synced(None, self.model.committed)

    def read_all(self) -> dict[str, tuple[bytes, ...]]:
        """What the system says is there."""
        contents = {}
        for name in self.system.names():
            file = self.system.open(name, create=False)
            contents[name] = tuple(file.read(0, file.page_count)) if file.page_count else ()
        return contents

    def check_reads(self) -> None:
        """With nothing under way, what can be read is what was acknowledged."""
        found = self.read_all()
        if found != self.model.contents():
            self._watcher.violate(f"reads find other pages than were acknowledged: {sorted(found)}")

    # -- actions

    def _create(self, client: int, action: Action) -> None:
        number = self.model.new_file()
        self._serial += 1
        name = f"file-{self._serial}"
        self._of_names(Step("create", number, name=name), lambda: self.system.open(name, page_size=PAGE_SIZE))
        self._owners[number] = client
        file = self.system.open(name, create=False)
        self._append(number, file, action)

    def _change_name(self, client: int, action: Action) -> None:
        files = self._files(client, names=True)
        if not files:
            return
        number = files[int(action.file * len(files))]
        name = self.model.files()[number]
        if action.kind == "drop":
            self._of_names(Step("drop", number), lambda: self.system.drop(name))
        else:
            self._serial += 1
            new_name = f"file-{self._serial}"
            step = Step("rename", number, name=new_name)
            self._of_names(step, lambda: self.system.rename(name, new_name))

    def _change_pages(self, client: int, action: Action) -> None:
        files = self._files(client)
        if not files:
            return
        number = files[int(action.file * len(files))]
        file = self.system.open(self.model.files()[number], create=False)
        count = len(self.model.pages(number))
        pgid = int(action.at * count)
        match action.kind:
            case "append":
                self._append(number, file, action)
            case "write" if count:
                pages = self._new_pages(min(action.n, count - pgid))
                step = Step("write", number, pgid, tuple(pages))
                durable = action.durability == "wal"
                self._ask(step, durable, lambda: file.write(pgid, pages, durability=action.durability))
            case "truncate":
                self._ask(Step("truncate", number, n=pgid), True, lambda: file.truncate(pgid))
            case "sync":
                committed = self.model.committed
                self._expect(lambda: self.model.synced(number, committed), file.sync)

    def _append(self, number: int, file: PageFile, action: Action) -> None:
        pages = self._new_pages(action.n)
        step = Step("write", number, None, tuple(pages))
        durability = action.durability
        self._ask(step, durability == "wal", lambda: file.append(pages, durability=durability))

    def _files(self, client: int, names: bool = False) -> list[int]:
        """The page files that a client may change; with `names`, those that it may rename or drop."""
        files = self.model.files()
        if self.model.ordered:
            return list(files)
        mine = [number for number in files if self._owners.get(number) == client and number != 1]
        return mine if names else mine + [1] * (1 in files)

    def _new_pages(self, n: int) -> list[bytes]:
        pages = []
        for _ in range(n):
            self._serial += 1
            word = self._serial if self._serial % 8 else 0  # the log has no bytes for a page of zeros
            pages.append(word.to_bytes(4, "big") * (PAGE_SIZE // 4))
        return pages

    # -- asking

    def _of_names(self, step: Step, call: Callable[[], object]) -> None:
        """A change of names is acknowledged by its return."""
        token = object()
        self.model.begin(token, step)
        try:
            call()
        except RequestError:
            if step.kind == "create" and step.name in self.system.names():
                self.model.acknowledged(token, durable=True)  # it was made, and could not be opened
            else:
                self.model.refused(token)
            raise
        self.model.acknowledged(token, durable=True)
        self._watcher.acknowledged()

    def _ask(self, step: Step, durable: bool, call: Callable[[], object]) -> None:
        token = object()
        self.model.begin(token, step)
        try:
            self._expect(lambda: self.model.acknowledged(token, durable=durable), call)
        except RequestError:
            self.model.refused(token)
            raise

    def _expect(self, on_done: Callable[[], None], call: Callable[[], object]) -> None:
        client = self.system.thread_client()

        def done() -> None:
            on_done()
            self._watcher.acknowledged()

        client.on_done = done
        try:
            call()
        finally:
            client.on_done = None
