"""A store on object storage, seen from several machines; the storage is a real S3 server on loopback."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from aethernet.artifact import Artifact
from aethernet.errors import MissingDependencyError, StoreError, UnreachableStoreError
from aethernet.store.leases import LEASE_VARIABLE, Lease
from aethernet.store.places import Remote, held
from aethernet.store.store import Store


class Machine:
    """A store's address as seen by one of several machines."""

    def __init__(self, folder: Path, address: str, patch: pytest.MonkeyPatch) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        patch.setattr("aethernet.store.store.default_store", lambda: folder / "store")
        self.store = Store(address)

    def put(self, content: bytes, name: str = "file.bin") -> Artifact:
        (self.folder / name).write_bytes(content)
        return self.store.put(self.folder / name)

    def remote_file(self, artifact: Artifact) -> tuple[Remote, str]:
        assert isinstance(self.store.place, Remote)
        return self.store.place, self.store._path(artifact)


@pytest.fixture
def machines(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    return [Machine(tmp_path / name, bucket, monkeypatch) for name in ("one", "other", "third")]


def test_what_one_machine_puts_another_gets(machines: list[Machine]) -> None:
    one, other, _ = machines

    found = other.store.get(one.put(b"content", "network.onnx"))

    assert found.read_bytes() == b"content"
    assert found.is_relative_to(other.folder)
    assert found.suffix == ".onnx"
    assert list((other.store.root / "scratch").iterdir()) == []


def test_a_small_file_is_asked_for_once_whether_it_is_there_or_not(
    machines: list[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release asks for dozens of records."""
    import s3fs

    place, asked, call = machines[0].store.place, [], s3fs.S3FileSystem._call_s3

    async def counted(self: object, method: str, *arguments: object, **options: object) -> object:
        asked.append(method)
        return await call(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    place.write("records/there", b"{}")
    found = place.read("records/there"), place.read("records/not")

    assert found == (b"{}", None)
    assert asked == ["put_object", "get_object", "get_object"]


def test_a_lock_for_this_machine_alone_asks_the_storage_nothing(machines: list[Machine]) -> None:
    one, other, _ = machines

    with one.store.lock("key", everywhere=False), other.store.lock("key"):
        assert other.store.place.entries("locks") != []
        with pytest.raises(BlockingIOError), held(one.store.root / "locks" / "key", wait=False):
            pass


def test_stores_do_not_mix_what_they_fetched(machines: list[Machine], bucket: str) -> None:
    one, *_ = machines

    assert Store(f"{bucket}-too").root != one.store.root
    assert Store(f"{bucket}/").root == Store(bucket).root


def test_a_file_spoilt_on_the_storage_is_noticed_and_put_right_by_whoever_makes_it_again(
    machines: list[Machine],
) -> None:
    one, other, third = machines
    artifact = one.put(b"content")
    remote, path = one.remote_file(artifact)
    remote.write(path, b"CONTENT")

    with pytest.raises(StoreError, match="changed"):
        other.store.get(artifact)
    assert not other.store._place(artifact).exists()  # spoilt files never arrive
    other.put(b"content")

    assert third.store.get(artifact).read_bytes() == b"content"


def test_a_missing_file_is_a_clear_error(machines: list[Machine]) -> None:
    one, other, _ = machines
    artifact = one.put(b"content")
    remote, path = one.remote_file(artifact)
    remote.remove(path)

    with pytest.raises(StoreError, match="missing in the store s3://"):
        other.store.get(artifact)
    assert one.store.get(artifact).read_bytes() == b"content"  # it has its own copy


def test_what_is_there_is_not_sent_again(machines: list[Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    one, *_ = machines
    one.put(b"content")
    sent = []
    monkeypatch.setattr(Remote, "upload", lambda self, source, path: sent.append(path))

    one.put(b"content")
    assert sent == []
    one.put(b"other")
    assert len(sent) == 1


def test_storage_that_does_not_answer_is_a_clear_error(
    tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aethernet.store.store.default_store", lambda: tmp_path / "store")
    (tmp_path / "file").write_bytes(b"content")

    with pytest.raises(UnreachableStoreError, match="cannot use the store s3://no-such-bucket") as refused:
        Store("s3://no-such-bucket/prefix").put(tmp_path / "file")

    assert "credentials" in refused.value.hint


def test_unknown_storage_is_a_clear_error() -> None:
    with pytest.raises(StoreError, match="cannot use nonsense://bucket as a store"):
        Store("nonsense://bucket")
    with pytest.raises(MissingDependencyError, match="adlfs") as missing:
        Store("abfs://bucket/prefix")
    assert missing.value.hint == "install it with: pip install adlfs"


# --- the lock --------------------------------------------------------------------------------------------------------


def test_only_one_holds_a_lock_at_a_time(machines: list[Machine]) -> None:
    inside, seen, failures = [], [], []

    def work(machine: Machine) -> None:
        for _ in range(3):
            with machine.store.lock("key"):
                inside.append(machine)
                seen.append(len(inside))
                time.sleep(0.02)
                inside.remove(machine)

    def run(machine: Machine) -> None:
        try:
            work(machine)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(machine,)) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert seen == [1] * 9


def test_other_keys_are_not_waited_for(machines: list[Machine]) -> None:
    one, other, _ = machines

    with one.store.lock("key"), other.store.lock("another"):
        pass


def _hold(address: str, home: str, held: Path, lease: str) -> None:
    os.environ.update({LEASE_VARIABLE: lease, "XDG_CACHE_HOME": home})
    with Store(address).lock("key"):
        held.touch()
        time.sleep(60)


def _start_holder(address: str, folder: Path, lease: float) -> multiprocessing.process.BaseProcess:
    holder = multiprocessing.get_context("spawn").Process(
        target=_hold, args=(address, str(folder / "home"), folder / "held", str(lease))
    )
    holder.start()
    while not (folder / "held").exists():
        assert holder.is_alive()
        time.sleep(0.02)
    return holder


def test_a_lock_whose_holder_was_killed_is_free_after_the_lease(
    machines: list[Machine], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEASE_VARIABLE, "1.5")
    holder = _start_holder(bucket, tmp_path, 1.5)
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()
    start = time.monotonic()

    with machines[0].store.lock("key"):
        waited = time.monotonic() - start

    assert 1.0 < waited < 15


def test_a_living_holder_keeps_its_lock_however_long_it_works(bucket: str, tmp_path: Path) -> None:
    holder = _start_holder(bucket, tmp_path, 0.8)
    storage = Remote(bucket)
    got = threading.Event()
    waiting = Lease(storage.filesystem, storage._at("locks/key"), 0.8)
    thread = threading.Thread(target=lambda: (waiting.take(), got.set()), daemon=True)
    thread.start()

    assert not got.wait(3)
    holder.kill()
    assert got.wait(15)
    thread.join()
    waiting.give_back()


def test_a_clock_that_jumps_neither_frees_nor_keeps_a_lock(
    machines: list[Machine], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder's clock is years ahead or behind, the waiter's as well: only its own steady clock counts."""
    monkeypatch.setenv(LEASE_VARIABLE, "1")
    for jump in (-(10**8), 10**8):
        real = time.time()
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda jumped=real + jump: jumped)
            with machines[0].store.lock(f"key{jump}"):
                storage = Remote(bucket)
                waiting = Lease(storage.filesystem, storage._at(f"locks/key{jump}"), 1)
                thread = threading.Thread(target=waiting.take, daemon=True)
                thread.start()
                thread.join(2)
                assert thread.is_alive(), "it got a lock that was held"
            thread.join(10)
            assert not thread.is_alive()
            waiting.give_back()


def test_of_two_who_think_a_holder_dead_one_follows(bucket: str) -> None:
    storage = Remote(bucket)
    folder = storage._at("locks/key")
    storage.write("locks/key/00000007", b'{"holder": "gone", "beat": 3, "free": false}')
    one, other = Lease(storage.filesystem, folder, 9), Lease(storage.filesystem, folder, 9)

    assert one._create(8)
    assert not other._create(8)
    # It slept for so long that numbers it counted on are gone.
    storage.remove("locks/key/00000007")
    storage.write("locks/key/00000009", b'{"holder": "another", "beat": 0, "free": false}')
    storage.remove("locks/key/00000008")
    assert not other._create(8)
    assert [entry.path for entry in storage.entries("locks/key")] == ["locks/key/00000009"]
