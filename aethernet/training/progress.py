"""How a training tells where it stands: a bar with rich on a terminal, log lines everywhere else."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

__all__ = ["Alarm", "ProgressReport", "Standing", "log_progress", "show_progress"]

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
    """Of recent steps, what the recipe says: mean absolute error, images in [0, 1], or a hundredth of the negative
    PSNR in dB; in fine-tuning what is stated there."""
    psnr: float | None
    """Latest mean PSNR on the held-out images in dB; None before the first measurement or without such images."""
    bicubic_psnr: float | None = None
    """The same for bicubic enlargement, where high resolution is what is aimed at."""

    def __str__(self) -> str:
        words = [f"{self.progress:4.0%}", f"step {self.step}", f"loss {self.loss:.5f}"]
        if self.psnr is not None:
            beside = f" (bicubic {self.bicubic_psnr:.2f})" if self.bicubic_psnr is not None else ""
            words.append(f"PSNR {self.psnr:.2f} dB{beside}")
        words.append(f"{_clock(self.seconds)} done, {_clock(self.remaining_seconds)} left")
        return ", ".join(words)


ProgressReport = Callable[[Standing], None]
"""Called about twice a minute, after every measurement, and at the end."""


class Alarm:
    """Rings every so many seconds, when asked."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def rings(self) -> bool:
        """Whether the time is over; if so, it begins again."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


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
