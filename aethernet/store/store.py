"""The content-addressed store: what stages make is kept by digest, so equal content is one file and nothing is
overwritten.

A folder by default; any fsspec address (``s3://bucket/prefix``) when several workers share one. Then every worker has a
folder of its own beside it, in the user's cache: files are fetched into it once and verified like local ones.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from aethernet.artifact import Artifact, atomic_path, file_digest
from aethernet.errors import StoreError, UnreachableStoreError
from aethernet.store.places import Folder, Place, Remote, held

__all__ = ["Store", "default_store"]

_UPLOAD_AGAIN_S = 12 * 3600
"""A shared file older than this is written anew when it is used, so that housekeeping sees it is."""


def default_store() -> Path:
    """The store in the user's cache folder."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("aethernet")) / "store"


class Store:
    """Artifacts by digest under one root, the records of stages, and locks."""

    def __init__(self, address: str | Path | None = None) -> None:
        """Open a store; folders are made when first needed.

        Args:
            address: Folder or fsspec address; default the user's cache folder.

        Raises:
            MissingDependencyError: The address needs a storage client that is not installed.
        """
        text = str(address if address is not None else default_store())
        self._remote: Remote | None = None
        if "://" in text and not text.startswith("file://"):
            self.address = text.rstrip("/")
            self._remote = Remote(self.address)
            # Not one folder for all: records of one store name files that another lacks.
            own = hashlib.sha256(self.address.encode()).hexdigest()[:16]
            self.root = default_store().parent / "fetched" / own
        else:
            self.root = Path(text.removeprefix("file://")).expanduser().absolute()
            self.address = str(self.root)
        self.local = Folder(self.root)
        self.place: Place = self._remote or self.local
        """What all who use the store see."""

    @property
    def is_shared(self) -> bool:
        """Whether the store lies elsewhere and its folder here only holds what was fetched or made here."""
        return self._remote is not None

    @property
    def records(self) -> Path:
        """Folder of the workflow engine's cache records; of a shared store, this machine's."""
        return self.root / "records"

    def put(self, path: Path, name: str | None = None) -> Artifact:
        """Take a copy of a file into the store.

        Raises:
            StoreError: The store is full or cannot be written.
        """
        artifact = Artifact.of(path, name)
        target = self._place(artifact)
        had = self._intact(artifact)
        if had:
            self.local.touch(self._path(artifact))
        else:
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target, ignore_errors=True)  # no file of ours; it would be in the way
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
        if self._remote is not None:
            shared = self._remote.entry(self._path(artifact)) if had else None
            fresh = shared and shared.size == artifact.size and time.time() - shared.modified < _UPLOAD_AGAIN_S
            # What was not intact here may be missing or spoilt there as well.
            if not fresh:
                self._remote.upload(target, self._path(artifact))
        return artifact

    def get(self, artifact: Artifact) -> Path:
        """The artifact's file, its content verified.

        Raises:
            StoreError: It is missing or its content has changed.
        """
        place, state = self._place(artifact), "missing"
        if self._intact(artifact):
            self.local.touch(self._path(artifact))
            return place
        if self._remote is not None:
            with self.scratch() as folder:
                fetched = folder / "fetched"
                if self._remote.download(self._path(artifact), fetched):
                    state = "changed"
                    if fetched.stat().st_size == artifact.size and file_digest(fetched) == artifact.sha256:
                        with atomic_path(place) as temporary:
                            fetched.replace(temporary)
                        return place
        elif place.exists():
            state = "changed"
        raise StoreError(
            f"{artifact.name} ({artifact.sha256[:12]}) is {state} in the store {self.address}",
            hint="run the same command again: the step that made it runs anew",
        )

    def problem(self, artifact: Artifact) -> str | None:
        """Why :meth:`get` would fail, or None.

        Raises:
            UnreachableStoreError: Nobody can say.
        """
        try:
            self.get(artifact)
        except UnreachableStoreError:
            raise
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
    def lock(self, key: str, *, everywhere: bool = True) -> Iterator[None]:
        """Only one process or thread at a time inside for one key.

        When its holder dies the kernel frees the lock of a folder at once; that of a shared store is free after
        ``AETHERNET_LEASE_SECONDS``.

        Args:
            key: What is locked.
            everywhere: On all machines that use the store, not on this one alone.
        """
        with held(self.root / "locks" / key):  # of those on one machine, one at a time asks the others
            if self._remote is None or not everywhere:
                yield
            else:
                with self._remote.lock(key):
                    yield

    def _path(self, artifact: Artifact) -> str:
        # The ending stays: readers choose a format by it.
        return f"objects/{artifact.sha256[:2]}/{artifact.sha256}{PurePosixPath(artifact.name).suffix}"

    def _place(self, artifact: Artifact) -> Path:
        return self.root / self._path(artifact)

    def _intact(self, artifact: Artifact) -> bool:
        place = self._place(artifact)
        try:
            return place.stat().st_size == artifact.size and file_digest(place) == artifact.sha256
        except OSError:
            return False
