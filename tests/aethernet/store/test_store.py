"""The content-addressed store."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from aethernet.artifact import Artifact
from aethernet.errors import StoreError
from aethernet.store.store import Store


def put(store: Store, folder: Path, content: bytes, name: str = "file.bin") -> Artifact:
    (folder / name).write_bytes(content)
    return store.put(folder / name)


def place_of(store: Store, artifact: Artifact) -> Path:
    return store.get(artifact)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    artifact = put(store, tmp_path, b"content", "network.onnx")

    assert store.get(artifact).read_bytes() == b"content"
    assert store.get(artifact).suffix == ".onnx"
    assert store.problem(artifact) is None


def test_equal_content_is_one_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    one, other = put(store, tmp_path, b"same", "a.bin"), put(store, tmp_path, b"same", "b.bin")

    assert store.get(one) == store.get(other)


@pytest.mark.parametrize("spoil", ["delete", "truncate", "flip", "folder"])
def test_a_spoilt_file_is_noticed_and_can_be_put_again(tmp_path: Path, spoil: str) -> None:
    store = Store(tmp_path / "store")
    artifact = put(store, tmp_path, b"content")
    place = place_of(store, artifact)
    if spoil == "truncate":
        place.write_bytes(b"cont")
    elif spoil == "flip":
        place.write_bytes(b"CONTENT")
    else:
        place.unlink()
    if spoil == "folder":
        place.mkdir()

    with pytest.raises(StoreError, match="missing" if spoil == "delete" else "changed"):
        store.get(artifact)
    assert store.problem(artifact) is not None
    if spoil == "folder":
        place.rmdir()

    assert store.get(put(store, tmp_path, b"content")).read_bytes() == b"content"


def test_a_store_shared_through_fsspec_serves_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aethernet.store.store.default_store", lambda: tmp_path / "one" / "store")
    artifact = put(Store("memory://shared/store"), tmp_path, b"content")

    monkeypatch.setattr("aethernet.store.store.default_store", lambda: tmp_path / "other" / "store")
    fetched = Store("memory://shared/store").get(artifact)

    assert fetched.read_bytes() == b"content"
    assert fetched.is_relative_to(tmp_path / "other")


def test_scratch_space_is_gone_afterwards(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    with store.scratch() as folder:
        (folder / "file").write_text("text")

    assert not folder.exists()


def test_a_store_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file in the way")

    with pytest.raises(StoreError, match="cannot write"), Store(tmp_path / "store").scratch():
        pass


def _hold_lock(root: Path, held: Path) -> None:
    with Store(root).lock("key"):
        held.touch()
        time.sleep(60)


def test_a_lock_is_free_again_when_its_holder_is_killed(tmp_path: Path) -> None:
    holder = multiprocessing.get_context("fork").Process(target=_hold_lock, args=(tmp_path, tmp_path / "held"))
    holder.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)

    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()

    with Store(tmp_path).lock("key"):
        pass


def test_deleting_the_store_deletes_everything(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifact = put(store, tmp_path, b"content")

    shutil.rmtree(tmp_path / "store")

    assert store.problem(artifact) is not None
