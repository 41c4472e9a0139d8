"""Progress on stderr: a bar that fits any width on a terminal, a line per finished file everywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from aethernet.cli.output import say, visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Bar"]


class Bar:
    """One line for the whole job; what does not fit is cut off with an ellipsis, the count last."""

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit = total, unit
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        console = Console(stderr=True)
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}", table_column=Column(ratio=3, no_wrap=True, overflow="ellipsis")),
                BarColumn(bar_width=None, table_column=Column(ratio=1)),
                TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
                console=console,
                transient=True,
                expand=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("", total=self.total, count=self._count(0))
        return self

    def show(self, done: int, words: str, *, total: int | None = None) -> None:
        """Move the bar; on anything but a terminal nothing is shown."""
        self.total = total if total is not None else self.total
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task,
                completed=done,
                total=self.total or None,
                description=visible(words),
                count=self._count(done),
            )

    def message(self, words: str) -> None:
        """Words that stay, above the bar."""
        if self._progress is not None:
            self._progress.console.print(visible(words), markup=False, highlight=False, soft_wrap=True)
        else:
            say(words)

    def _count(self, done: int) -> str:
        return f"{done}/{self.total or '?'} {self.unit}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
