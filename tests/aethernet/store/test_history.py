"""What a store remembers about the runs that used it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from aethernet.errors import ComparisonError
from aethernet.store.history import noted, read_note, recent_runs
from aethernet.store.leases import LEASE_VARIABLE
from aethernet.store.store import Store


def test_runs_are_listed_with_how_they_ended_the_latest_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with noted(store, "first", "1.0.0") as note:
        assert [run.outcome for run in recent_runs(store)] == ["running"]
        note.identity = "abc"
    with pytest.raises(ComparisonError), noted(store, "second", "2.0.0", run="given"):
        raise ComparisonError("strays")
    with pytest.raises(KeyboardInterrupt), noted(store, "third", "3.0.0"):
        raise KeyboardInterrupt

    found = recent_runs(store)

    assert [(run.name, run.outcome) for run in found] == [
        ("third", "stopped"),
        ("second", "failed"),
        ("first", "released"),
    ]
    assert found[1].error == "strays"
    assert found[1].id == "given"
    assert found[2].identity == "abc"
    assert [run.name for run in recent_runs(store, 1)] == ["third"]


def test_a_store_on_object_storage_remembers_the_runs_of_all_machines(bucket: str) -> None:
    with noted(Store(bucket), "name", "1.0.0", run="given"):
        pass

    assert [run.outcome for run in recent_runs(Store(bucket))] == ["released"]
    note = read_note(Store(bucket), "given")
    assert note is not None
    assert note.name == "name"
    assert read_note(Store(bucket), "other") is None


def _run(folder: Path, started: Path) -> None:
    os.environ[LEASE_VARIABLE] = "0.8"
    with noted(Store(folder), "name", "1.0.0"):
        started.touch()
        time.sleep(60)


def test_a_run_that_was_killed_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEASE_VARIABLE, "0.8")
    store = Store(tmp_path / "store")
    process = multiprocessing.get_context("fork").Process(target=_run, args=(store.root, tmp_path / "started"))
    process.start()
    while not (tmp_path / "started").exists():
        assert process.is_alive()
        time.sleep(0.01)
    time.sleep(1.5)
    assert [run.outcome for run in recent_runs(store)] == ["running"]

    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    time.sleep(1)

    assert [run.outcome for run in recent_runs(store)] == ["silent"]


def test_a_run_does_not_fail_because_nothing_can_be_noted(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file in the way")

    with noted(Store(tmp_path / "store"), "name", "1.0.0"):
        pass

    assert recent_runs(Store(tmp_path / "store")) == []


def test_spoilt_notes_are_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with noted(store, "name", "1.0.0"):
        pass
    store.place.write("runs/spoilt.json", b"{")

    assert [run.name for run in recent_runs(store)] == ["name"]
