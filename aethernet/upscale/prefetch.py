"""Working ahead of whoever takes the results."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

__all__ = ["ahead"]

Item = TypeVar("Item")


class ahead(Iterator[Item]):  # noqa: N801 (used like the functions of itertools)
    """Runs an iterator in a thread of its own, at most ``depth`` items ahead of whoever takes them.

    An exception inside comes out where the items are taken. As a context manager it waits for the thread to end, so
    that nothing goes on behind the back of a caller who has given up.
    """

    _END = object()

    def __init__(self, items: Iterator[Item], depth: int = 2) -> None:
        self._items = items
        self._queue: queue.Queue[Any] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        ending: object = self._END
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:  # noqa: BLE001 (it is raised again by whoever waits)
            ending = error
        self._put(ending)

    def _put(self, item: Any) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> Item:
        if self._stopped.is_set():
            raise StopIteration
        item: Any = self._queue.get()
        if item is self._END:
            self._stopped.set()
            raise StopIteration
        if isinstance(item, BaseException):
            self._stopped.set()
            raise item
        taken: Item = item
        return taken

    def __enter__(self) -> ahead[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
