"""Locks on object storage that outlive nobody: whoever holds one must keep saying so.

A lock is a folder of numbered files. The highest number counts. Taking the lock is creating the next number, which the
storage lets only one do (S3's ``If-None-Match: *``, Google's ``ifGenerationMatch=0``); giving it back is writing
"free" into that file. A holder rewrites its file every few seconds. Whoever waits and sees no change for the lease's
whole length, by its own monotonic clock, takes the next number: no clocks are compared between machines, so a clock
that jumps neither frees nor keeps a lock. A holder that was stopped for longer than that and goes on works beside its
successor, which does no harm to content-addressed results.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from typing import Any

__all__ = ["LEASE_VARIABLE", "Lease", "lease", "lease_seconds"]

LEASE_VARIABLE = "AETHERNET_LEASE_SECONDS"

logger = logging.getLogger(__name__)


def lease_seconds() -> float:
    """After how many seconds of silence a holder counts as dead: 60, or ``AETHERNET_LEASE_SECONDS``."""
    return float(os.environ.get(LEASE_VARIABLE, "60"))


class Lease:
    """One attempt to hold a lock."""

    def __init__(self, filesystem: Any, folder: str, seconds: float) -> None:
        self.filesystem = filesystem
        self.folder = folder
        self.seconds = seconds
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(6)}"
        self.number = 0
        self._beats = 0
        self._ended = threading.Event()
        self._beating: threading.Thread | None = None

    def take(self) -> None:
        """Wait until the lock is ours, and keep it from then on."""
        seen, since, pause = None, time.monotonic(), 0.1
        while True:
            newest = self._newest()
            content = self._read(newest)
            if (newest, content) != seen:
                seen, since = (newest, content), time.monotonic()
            silent = time.monotonic() - since
            if newest == 0 or _is_free(content) or silent > self.seconds:
                if newest and not _is_free(content):
                    logger.warning("silent for %.0f s, counts as dead: the holder of %s", silent, self.folder)
                if self._create(newest + 1):
                    break
                continue
            time.sleep(pause)
            pause = min(2 * pause, 1.0, self.seconds / 4)
        for number in range(max(1, self.number - 2), self.number):
            with suppress(Exception):  # a leftover; the next holder or housekeeping removes it
                self.filesystem.rm_file(self._file(number))
        self._beating = threading.Thread(target=self._beat, daemon=True, name="lease")
        self._beating.start()

    def give_back(self) -> None:
        """Let others in; a lock that cannot be given back is free after the lease."""
        self._ended.set()
        if self._beating is not None:
            self._beating.join()
        try:
            self.filesystem.pipe_file(self._file(self.number), self._content(free=True))
        except Exception as error:  # noqa: BLE001 (each storage client has errors of its own)
            logger.warning("a lock could not be given back and is free in %.0f s: %s", self.seconds, error)

    def _create(self, number: int) -> bool:
        try:
            self.filesystem.pipe_file(self._file(number), self._content(), mode="create")
        except FileExistsError:
            found = self._read(number)
            # A repeated request after an answer that was lost: it had been created, by us.
            if found is None or self.holder.encode() not in found:
                return False
        # Between our look and now others may have come, gone and cleaned up.
        if self._newest() != number:
            with suppress(Exception):
                self.filesystem.rm_file(self._file(number))
            return False
        self.number = number
        return True

    def _beat(self) -> None:
        while not self._ended.wait(self.seconds / 4):
            self._beats += 1
            try:
                self.filesystem.pipe_file(self._file(self.number), self._content())
            except Exception as error:  # noqa: BLE001
                logger.warning("a lock could not be renewed: %s", error)

    def _newest(self) -> int:
        try:
            names = self.filesystem.ls(self.folder, detail=False, refresh=True)
        except FileNotFoundError:
            return 0
        return max((int(name.rsplit("/", 1)[1]) for name in names if name.rsplit("/", 1)[1].isdigit()), default=0)

    def _read(self, number: int) -> bytes | None:
        try:
            return bytes(self.filesystem.cat_file(self._file(number), start=0)) if number else None
        except FileNotFoundError:
            return None

    def _file(self, number: int) -> str:
        return f"{self.folder}/{number:08d}"

    def _content(self, *, free: bool = False) -> bytes:
        return json.dumps({"holder": self.holder, "beat": self._beats, "free": free}).encode()


def lease(filesystem: Any, folder: str) -> Lease:
    """A lease of the usual length."""
    return Lease(filesystem, folder, lease_seconds())


def _is_free(content: bytes | None) -> bool:
    try:
        return content is not None and json.loads(content)["free"] is True
    except (ValueError, KeyError, TypeError):
        return False
