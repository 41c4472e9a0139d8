"""Housekeeping: what no release needs any more leaves the store.

A release that is made, or found unchanged, notes the use of every record and file it needs. A record is kept for some
days after its last use; a file as long as a kept record names it, or as it is itself that young. So what running flows
use is always kept, on whatever machine they run, and no list of them is needed.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aethernet.errors import UsageError
from aethernet.store.places import Place, Remote, StoredFile, held
from aethernet.store.store import Store

__all__ = ["Collected", "collect_garbage"]

DAY = 24 * 3600.0

_DIGEST = re.compile(rb'\\*"sha256\\*": ?\\*"([0-9a-f]{64})\\*"')


@dataclass(slots=True, kw_only=True)
class Collected:
    """What was, or would be, removed and what stays."""

    removed: Counter[str] = field(default_factory=Counter)
    """Kind -> number of files: objects, records, leftovers, locks, runs."""
    freed: int = 0
    """Bytes."""
    kept: Counter[str] = field(default_factory=Counter)
    kept_bytes: int = 0


def collect_garbage(store: Store, keep_days: float, *, dry_run: bool = False, now: float | None = None) -> Collected:
    """Remove what no release of the last ``keep_days`` days needs.

    Of a shared store both sides are looked through: what all see, and what this machine fetched from it.

    Args:
        store: The store.
        keep_days: At least 1; nothing younger than a day is ever removed, so that running flows keep what they use.
        dry_run: Only say what would be removed.
        now: Seconds since 1970, for tests.

    Raises:
        UsageError: ``keep_days`` is less than 1.
        StoreError: Something cannot be removed.
    """
    if not keep_days >= 1:
        raise UsageError(f"expected to keep at least 1 day, found {keep_days}: a running flow needs what it has made")
    now = time.time() if now is None else now
    collected = Collected()
    _collect(store.local, now - keep_days * DAY, now - DAY, dry_run, collected)
    if store.is_shared:
        _collect(store.place, now - keep_days * DAY, now - DAY, dry_run, collected)
    _clear_scratch(store.root / "scratch", now - DAY, dry_run, collected)
    _clear_kernel_locks(store.root / "locks", now - DAY, dry_run, collected)
    return collected


def _collect(place: Place, oldest: float, yesterday: float, dry_run: bool, collected: Collected) -> None:
    def sweep(
        kind: str, entries: list[StoredFile], limit: float, needed: frozenset[str] = frozenset()
    ) -> list[StoredFile]:
        stay = []
        for entry in entries:
            if entry.modified >= limit or Path(entry.path).stem in needed:
                stay.append(entry)
                continue
            if not dry_run:
                # It may have been used since it was listed.
                again = place.entry(entry.path)
                if again is not None and again.modified >= limit:
                    stay.append(again)
                    continue
                place.remove(entry.path)
            collected.removed[kind] += 1
            collected.freed += entry.size
        collected.kept[kind] += len(stay)
        collected.kept_bytes += sum(entry.size for entry in stay)
        return stay

    files = place.entries("objects") + place.entries("records")
    leftovers = [entry for entry in files if Path(entry.path).name.startswith(".")]
    objects, records = (
        [entry for entry in files if entry.path.startswith(f"{folder}/") and entry not in leftovers]
        for folder in ("objects", "records")
    )
    sweep("leftovers", leftovers, yesterday)
    sweep("runs", place.entries("runs"), oldest)
    records = sweep("records", records, oldest)
    needed = frozenset(digest for record in records for digest in _digests(place.read(record.path) or b""))
    sweep("objects", objects, oldest, needed)
    if isinstance(place, Remote):
        sweep("locks", place.entries("locks"), yesterday)  # those that are held are renewed all the time


def _digests(record: bytes) -> set[str]:
    """Digests of the files a record names; its JSON may stand inside other JSON as text."""
    return {found.decode() for found in _DIGEST.findall(record)}


def _clear_scratch(folder: Path, yesterday: float, dry_run: bool, collected: Collected) -> None:
    """Folders of runs that were killed: nothing in them has changed for a day."""
    for left in sorted(folder.iterdir()) if folder.is_dir() else []:
        with suppress(FileNotFoundError):  # its run has just ended
            files = [left, *left.rglob("*")]
            if max(path.lstat().st_mtime for path in files) >= yesterday:
                continue
            collected.freed += sum(path.lstat().st_size for path in files if path.is_file())
            collected.removed["leftovers"] += 1
            if not dry_run:
                shutil.rmtree(left, ignore_errors=True)


def _clear_kernel_locks(folder: Path, yesterday: float, dry_run: bool, collected: Collected) -> None:
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        with suppress(FileNotFoundError, BlockingIOError):
            if path.stat().st_mtime >= yesterday:
                collected.kept["locks"] += 1
                continue
            if not dry_run:
                with held(path, wait=False):
                    path.unlink()
            collected.removed["locks"] += 1
