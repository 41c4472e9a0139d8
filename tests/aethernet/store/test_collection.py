"""Housekeeping: what nobody needs goes, what somebody needs stays."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from aethernet.artifact import Artifact
from aethernet.errors import UsageError
from aethernet.store.collection import DAY, collect_garbage
from aethernet.store.store import Store


def put(store: Store, folder: Path, content: bytes) -> Artifact:
    (folder / "file.bin").write_bytes(content)
    return store.put(folder / "file.bin")


def record(store: Store, key: str, *artifacts: Artifact) -> None:
    """A record as Prefect writes it: JSON inside JSON."""
    named = [{"name": one.name, "sha256": one.sha256, "size": one.size} for one in artifacts]
    store.place.write(f"records/{key}", json.dumps({"result": json.dumps({"output": named})}).encode())


def age(path: Path, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then), follow_symlinks=False)


def age_all(store: Store, days: float) -> None:
    for path in store.root.rglob("*"):
        age(path, days)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_was_not_used_for_long_goes_and_the_rest_stays(store: Store, tmp_path: Path) -> None:
    old, shared, fresh = (put(store, tmp_path, content) for content in (b"old", b"shared", b"fresh"))
    record(store, "a" * 64, old, shared)
    age_all(store, 40)
    record(store, "b" * 64, shared)

    found = collect_garbage(store, 30)

    assert store.problem(old) is not None
    assert store.problem(shared) is None
    assert not (store.records / ("a" * 64)).exists()
    assert (store.records / ("b" * 64)).exists()
    assert store.problem(fresh) is not None  # no record names it, and it is old
    assert (found.removed["objects"], found.removed["records"]) == (2, 1)
    assert found.freed > len(b"old" + b"fresh")
    assert found.kept["objects"] == 1


def test_a_dry_run_says_the_same_and_removes_nothing(store: Store, tmp_path: Path) -> None:
    artifact = put(store, tmp_path, b"old")
    record(store, "a" * 64, artifact)
    age_all(store, 40)

    told = collect_garbage(store, 30, dry_run=True)
    assert (store.records / ("a" * 64)).exists()

    assert collect_garbage(store, 30) == told
    assert store.problem(artifact) is not None


def test_files_that_no_record_names_yet_stay_while_they_are_young(store: Store, tmp_path: Path) -> None:
    artifact = put(store, tmp_path, b"made by a stage that still runs")

    collect_garbage(store, 1)

    assert store.problem(artifact) is None


def test_use_makes_young(store: Store, tmp_path: Path) -> None:
    got, again = put(store, tmp_path, b"got"), put(store, tmp_path, b"again")
    age_all(store, 40)
    store.get(got)
    put(store, tmp_path, b"again")

    collect_garbage(store, 30)

    assert store.problem(got) is None
    assert store.problem(again) is None


def test_leftovers_of_killed_runs_go(store: Store, tmp_path: Path) -> None:
    artifact = put(store, tmp_path, b"content")
    sibling = store.get(artifact).with_name(f".{artifact.sha256}.bin.abc.part")
    sibling.write_bytes(b"half")
    for name in ("killed", "running"):
        (store.root / "scratch" / name / "deep").mkdir(parents=True)
        (store.root / "scratch" / name / "deep" / "file").write_bytes(b"work")
    with store.lock("old"), store.lock("young"):
        pass
    age_all(store, 2)
    age(store.root / "scratch" / "running" / "deep" / "file", 0.1)
    age(store.root / "locks" / "young", 0.1)
    store.get(artifact)

    found = collect_garbage(store, 30)

    assert not sibling.exists()
    assert [path.name for path in (store.root / "scratch").iterdir()] == ["running"]
    assert [path.name for path in (store.root / "locks").iterdir()] == ["young"]
    assert (found.removed["leftovers"], found.removed["locks"]) == (2, 1)
    assert store.problem(artifact) is None


def test_a_lock_that_is_held_stays(store: Store) -> None:
    with store.lock("key"):
        age_all(store, 9)
        collect_garbage(store, 1)
        assert (store.root / "locks" / "key").exists()

    collect_garbage(store, 1)
    assert not (store.root / "locks" / "key").exists()
    with store.lock("key"):
        assert (store.root / "locks" / "key").exists()


def test_keeping_less_than_a_day_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="at least 1 day"):
        collect_garbage(store, 0.5)


def test_a_store_that_does_not_exist_yet_has_no_garbage(store: Store) -> None:
    assert not collect_garbage(store, 1).removed


def test_both_sides_of_a_shared_store_are_looked_through(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aethernet.store.store.default_store", lambda: tmp_path / "here" / "store")
    store = Store(bucket)
    needed, garbage = put(store, tmp_path, b"needed"), put(store, tmp_path, b"garbage")
    record(store, "a" * 64, needed)
    with store.lock("key"):
        pass
    later = time.time() + 3 * DAY

    assert not collect_garbage(store, 2, dry_run=True).removed
    found = collect_garbage(store, 4, now=later)
    assert (found.removed["objects"], found.removed["records"], found.removed["locks"]) == (0, 0, 2)

    collect_garbage(store, 2, now=later)

    assert store.place.entries("objects") == []
    assert not store._place(garbage).exists()
    assert store.problem(needed) is not None


def test_what_a_running_flow_uses_stays_whenever_housekeeping_comes_by(store: Store, tmp_path: Path) -> None:
    """Everything is old and may go at any moment; from its first use on it may not."""
    contents = [str(number).encode() for number in range(40)]
    for content in contents:
        put(store, tmp_path, content)
    ended, swept, failures = threading.Event(), [0], []

    def sweep() -> None:
        try:
            while not ended.is_set():
                swept[0] += collect_garbage(store, 30).removed["objects"]
        except BaseException as error:
            failures.append(error)

    age_all(store, 60)
    sweeping = threading.Thread(target=sweep)
    sweeping.start()
    try:
        for content in contents:
            artifact = put(store, tmp_path, content)
            with store.scratch(), store.lock("key"):
                time.sleep(0.002)
            assert store.get(artifact).read_bytes() == content
    finally:
        ended.set()
        sweeping.join()

    assert failures == []
    assert swept[0] > 0
