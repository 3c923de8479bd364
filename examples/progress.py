"""How the examples show how far they are: bars on a terminal, and nothing that would clutter a file or a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


def console_for(stream: TextIO) -> Console:
    """A console on this stream: as wide as the terminal, or 120 columns where there is none."""
    console = Console(file=stream, highlight=False)
    return console if console.is_terminal else Console(file=stream, width=120, highlight=False)


class Bars:
    """A bar for each of several jobs while the `with` block lasts; without a terminal only one line at its begin."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._console.print(self._title if self._console.is_terminal else f"{self._title} ...")
        self._console.file.flush()
        self._progress.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, name: str, total: int) -> None:
        """A bar for a job of so many steps."""
        self._tasks[name] = self._progress.add_task(name, total=total)

    def show(self, done: Mapping[str, int]) -> None:
        """How many steps of each job are done."""
        for name, task in self._tasks.items():
            self._progress.update(task, completed=done.get(name, 0))
