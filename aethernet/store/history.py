"""Which releases were made with a store, and how they ended: one small file per run, rewritten while it lives."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ValidationError

from aethernet.errors import StoreError
from aethernet.store.leases import lease_seconds
from aethernet.store.store import Store

__all__ = ["RunNote", "noted", "read_note", "recent_runs"]


class RunNote(BaseModel):
    """One run of the release flow."""

    id: str
    """Prefect's id of the flow run where a worker ran it, else one of our own."""
    name: str
    version: str
    host: str
    started: datetime
    seconds: float = 0.0
    outcome: Literal["running", "silent", "released", "failed", "stopped"] = "running"
    """``silent``: it has not been heard of for longer than a living run could be; it was most likely killed."""
    identity: str | None = None
    published: str | None = None
    error: str | None = None
    beat: int = 0


def _path(run: str) -> str:
    return f"runs/{run}.json"


@contextmanager
def noted(store: Store, name: str, version: str, run: str | None = None) -> Iterator[RunNote]:
    """Note a run in its store while the block runs, and how it ended; the block fills in what came of it.

    A store that cannot be written keeps nothing, and says so where it matters: in the stages.
    """
    started = time.monotonic()
    note = RunNote(
        id=run or str(uuid.uuid4()),
        name=name,
        version=version,
        host=_host(),
        started=datetime.now(UTC),
    )
    ended = threading.Event()

    def write() -> None:
        note.seconds = round(time.monotonic() - started, 1)
        with suppress(StoreError):
            store.place.write(_path(note.id), note.model_dump_json(indent=2).encode())

    def beat() -> None:
        while not ended.wait(lease_seconds() / 4):
            note.beat += 1
            write()

    write()
    beating = threading.Thread(target=beat, daemon=True, name="run-note")
    beating.start()
    try:
        yield note
        note.outcome = "released"
    except Exception as error:
        note.outcome, note.error = "failed", str(error)
        raise
    except BaseException:
        note.outcome = "stopped"
        raise
    finally:
        ended.set()
        beating.join()
        write()


def read_note(store: Store, run: str) -> RunNote | None:
    """The note of one run, or None where there is none."""
    try:
        return RunNote.model_validate_json(store.place.read(_path(run)) or b"")
    except ValidationError:
        return None


def recent_runs(store: Store, limit: int = 20) -> list[RunNote]:
    """The last runs, newest first."""
    found = []
    entries = sorted(store.place.entries("runs"), key=lambda entry: entry.modified, reverse=True)
    for entry in entries[: 2 * limit]:
        note = read_note(store, entry.path.removeprefix("runs/").removesuffix(".json"))
        if note is None:
            continue
        if note.outcome == "running" and time.time() - entry.modified > lease_seconds():
            note.outcome = "silent"
        found.append(note)
    return sorted(found, key=lambda note: note.started, reverse=True)[:limit]


def _host() -> str:
    return f"{socket.gethostname()} ({os.getpid()})"
