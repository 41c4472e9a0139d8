"""The content-addressed store: what stages make is kept by digest, so equal content is one file and nothing is
overwritten.

A folder by default; any fsspec address (``s3://bucket/prefix``) when several workers share one. Files of a remote
store are fetched into a local folder and verified like local ones.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from aethernet.artifact import Artifact, atomic_path, file_digest
from aethernet.errors import StoreError

__all__ = ["Store", "default_store"]


def default_store() -> Path:
    """The store in the user's cache folder."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("aethernet")) / "store"


class Store:
    """Artifacts by digest under one root."""

    def __init__(self, address: str | Path | None = None) -> None:
        """Open a store; folders are made when first needed.

        Args:
            address: Folder or fsspec address; default the user's cache folder.
        """
        text = str(address if address is not None else default_store())
        self._remote: Any = None
        self._remote_root = ""
        if "://" in text and not text.startswith("file://"):
            import fsspec

            self._remote, self._remote_root = fsspec.core.url_to_fs(text)
            self.address = text
            self.root = default_store().parent / "fetched"
        else:
            self.root = Path(text.removeprefix("file://")).expanduser().absolute()
            self.address = str(self.root)

    @property
    def records(self) -> Path:
        """Folder of the workflow engine's cache records."""
        return self.root / "records"

    def put(self, path: Path, name: str | None = None) -> Artifact:
        """Take a copy of a file into the store.

        Raises:
            StoreError: The store is full or cannot be written.
        """
        artifact = Artifact.of(path, name)
        target = self._place(artifact)
        if not self._intact(artifact):
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target, ignore_errors=True)  # no file of ours; it would be in the way
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
        if self._remote is not None:
            self._remote.put_file(str(target), self._remote_place(artifact))
        return artifact

    def get(self, artifact: Artifact) -> Path:
        """The artifact's file, its content verified.

        Raises:
            StoreError: It is missing or its content has changed.
        """
        if (
            not self._intact(artifact)
            and self._remote is not None
            and self._remote.exists(self._remote_place(artifact))
        ):
            with atomic_path(self._place(artifact)) as temporary:
                self._remote.get_file(self._remote_place(artifact), str(temporary))
        if not self._intact(artifact):
            state = "changed" if self._place(artifact).exists() else "missing"
            raise StoreError(
                f"{artifact.name} ({artifact.sha256[:12]}) is {state} in the store {self.address}",
                hint="run the same command again: the step that made it runs anew",
            )
        return self._place(artifact)

    def problem(self, artifact: Artifact) -> str | None:
        """Why :meth:`get` would fail, or None."""
        try:
            self.get(artifact)
        except StoreError as error:
            return str(error)
        return None

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder on the store's own disk that is removed afterwards.

        Raises:
            StoreError: The store cannot be written.
        """
        try:
            (self.root / "scratch").mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=self.root / "scratch"))
        except OSError as error:
            raise StoreError(
                f"cannot write to the store {self.root}: {error.strerror or error}",
                hint="free space, or choose another folder with --store",
            ) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Only one process or thread at a time inside for one key; the kernel frees it when its holder dies."""
        import fcntl

        folder = self.root / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / key, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise StoreError(f"cannot write to the store {self.root}: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _place(self, artifact: Artifact) -> Path:
        # The ending stays: readers choose a format by it.
        return self.root / "objects" / artifact.sha256[:2] / f"{artifact.sha256}{PurePosixPath(artifact.name).suffix}"

    def _remote_place(self, artifact: Artifact) -> str:
        return f"{self._remote_root}/objects/{artifact.sha256[:2]}/{self._place(artifact).name}"

    def _intact(self, artifact: Artifact) -> bool:
        place = self._place(artifact)
        try:
            return place.stat().st_size == artifact.size and file_digest(place) == artifact.sha256
        except OSError:
            return False
