"""Artifacts and files written in one step."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from aethernet.artifact import Artifact, atomic_path, file_digest
from aethernet.errors import StoreError


def test_an_artifact_is_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")

    one, other = Artifact.of(tmp_path / "a", "name"), Artifact.of(tmp_path / "b", "name")

    assert one == other
    assert one.sha256 == hashlib.sha256(b"same").hexdigest() == file_digest(tmp_path / "a")
    assert one.size == 4


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"

    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()

    assert target.read_text() == "half"
    assert list(target.parent.iterdir()) == [target]


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreError, match="could not write"), atomic_path(tmp_path / "file" / "inside"):
        pass
