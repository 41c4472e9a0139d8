"""When to try again, and how long to wait before."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from aethernet.errors import UnreachableError

__all__ = ["RetryPolicy"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Tries again what may pass (:class:`UnreachableError`), and nothing else."""

    tries: int = 5
    """In all, without getting any further in between."""
    first: float = 1.0
    """Seconds before the second try; they double from try to try."""
    longest: float = 120.0
    """Seconds to wait at most; a hub that asks for more is given up."""

    def run(
        self,
        action: Callable[[], T],
        on_message: Callable[[str], None] | None = None,
        progress: Callable[[], int] = lambda: 0,
    ) -> T:
        """Do something, again and again where that makes sense.

        Args:
            action: What to do. It must be safe to do twice.
            on_message: Called with a sentence that says why it is tried again.
            progress: Something that grows when a failed try got further all the same; the count then starts anew.

        Raises:
            UnreachableError: It failed as often as we try.
        """
        tries = 0
        while True:
            before = progress()
            try:
                return action()
            except UnreachableError as error:
                tries = 1 if progress() > before else tries + 1
                wait = max(self.first * 2 ** (tries - 1), error.wait or 0)
                if error.final or tries >= self.tries or wait > self.longest:
                    error.final = True
                    raise
                if on_message is not None:
                    on_message(f"{error}; trying again in {wait:.0f} s")
                time.sleep(wait)
