"""How a training tells where it stands: a bar with rich on a terminal, log lines everywhere else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

__all__ = ["ProgressReport", "Standing", "log_progress", "show_progress"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a training stands."""

    step: int
    """Optimiser steps done."""
    progress: float
    """Share of the training done, 0 to 1."""
    seconds: float
    """Time spent, over all runs."""
    remaining_seconds: float
    """Time left at the present speed."""
    loss: float
    """Mean absolute error of recent steps, pictures in [0, 1]."""
    psnr: float | None
    """Latest mean PSNR on the held-out pictures in dB; None before the first measurement or without such pictures."""
    bicubic_psnr: float | None
    """The same for bicubic enlargement."""

    def __str__(self) -> str:
        words = [f"{self.progress:4.0%}", f"step {self.step}", f"loss {self.loss:.5f}"]
        if self.psnr is not None and self.bicubic_psnr is not None:
            words.append(f"PSNR {self.psnr:.2f} dB (bicubic {self.bicubic_psnr:.2f})")
        words.append(f"{_clock(self.seconds)} done, {_clock(self.remaining_seconds)} left")
        return ", ".join(words)


ProgressReport = Callable[[Standing], None]
"""Called about twice a minute, after every measurement, and at the end."""


def log_progress(standing: Standing) -> None:
    """One log line, level INFO."""
    logger.info("%s", standing)


@contextmanager
def show_progress() -> Iterator[ProgressReport]:
    """A bar on standard error where that is a terminal and rich is installed, else log lines."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:
        yield log_progress
        return
    if not sys.stderr.isatty():
        yield log_progress
        return
    columns = BarColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda standing: bar.update(task, completed=standing.progress, description=str(standing))


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
