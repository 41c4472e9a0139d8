"""Where a store's content lies: a folder, or object storage that several machines share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aethernet.artifact import atomic_path
from aethernet.errors import MissingDependencyError, StoreError, UnreachableStoreError
from aethernet.store.leases import lease

__all__ = ["Folder", "Place", "Remote", "StoredFile", "held"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file of a store."""

    path: str
    """Below the store's root, with slashes."""
    size: int
    modified: float
    """Seconds since 1970: when it was written or last used."""


class Place(Protocol):
    """Small files by path. Paths are relative and use slashes; every file appears in one step."""

    def read(self, path: str) -> bytes | None:
        """A file's content, or None where there is none."""

    def write(self, path: str, content: bytes) -> None:
        """Write or replace a file."""

    def touch(self, path: str) -> None:
        """Note that a file is in use."""

    def entry(self, path: str) -> StoredFile | None:
        """What is known about a file, or None where there is none."""

    def entries(self, folder: str) -> list[StoredFile]:
        """Every file below a folder, hidden ones too."""

    def remove(self, path: str) -> None:
        """Remove a file; nothing happens where there is none."""


class Folder:
    """A folder of this machine, or of a network file system that all machines mount."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes | None:
        """See :class:`Place`."""
        try:
            return (self.root / path).read_bytes()
        except OSError:
            return None

    def write(self, path: str, content: bytes) -> None:
        """See :class:`Place`."""
        with atomic_path(self.root / path) as temporary:
            temporary.write_bytes(content)

    def touch(self, path: str) -> None:
        """See :class:`Place`."""
        with suppress(OSError):  # a store that can only be read has no use for it
            os.utime(self.root / path)

    def entry(self, path: str) -> StoredFile | None:
        """See :class:`Place`."""
        try:
            found = (self.root / path).lstat()
        except OSError:
            return None
        return StoredFile(path=path, size=found.st_size, modified=found.st_mtime)

    def entries(self, folder: str) -> list[StoredFile]:
        """See :class:`Place`."""
        found = (
            self.entry((Path(parent) / name).relative_to(self.root).as_posix())
            for parent, _, names in os.walk(self.root / folder)
            for name in names
        )
        return sorted((one for one in found if one is not None), key=lambda one: one.path)

    def remove(self, path: str) -> None:
        """See :class:`Place`."""
        try:
            (self.root / path).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove {self.root / path}: {error.strerror or error}") from error


@contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the kernel's lock on a file, which is made where it is missing.

    Raises:
        BlockingIOError: Another process or thread holds it, and ``wait`` is off.
        StoreError: The file cannot be made.
    """
    import fcntl

    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise StoreError(f"cannot write to the store {path.parent}: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Whoever removes a lock file holds it; a lock on a file without a name protects nothing.
            if _is_named(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


class Remote:
    """Object storage, through fsspec: ``s3://bucket/prefix``, ``gs://…`` and others.

    Credentials and endpoint are the storage client's own, such as ``AWS_ENDPOINT_URL`` and ``AWS_PROFILE``.
    """

    def __init__(self, address: str) -> None:
        import fsspec

        self.address = address
        scheme = address.partition("://")[0]
        try:
            # Listings that are remembered would hide what other machines do.
            self.filesystem, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        except ImportError as error:
            package = _PACKAGES.get(scheme, scheme)
            missing = MissingDependencyError(package, "cluster")
            if package != "s3fs":
                missing.hint = f"install it with: pip install {package}"
            raise missing from error
        except ValueError as error:
            raise StoreError(f"cannot use {address} as a store: {error}") from error
        self.root = str(root).rstrip("/")

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # each storage client has errors of its own
            told = str(error).strip() or type(error).__name__
            raise UnreachableStoreError(
                f"cannot use the store {self.address}: {told}",
                hint="check its address, its credentials and that it can be reached; "
                "then the same command goes on where this one stopped",
            ) from error

    def read(self, path: str) -> bytes | None:
        """See :class:`Place`."""
        with self._reaching():
            try:
                # From its first byte on: without saying so some clients ask for the size before, two requests more.
                return bytes(self.filesystem.cat_file(self._at(path), start=0))
            except FileNotFoundError:
                return None

    def write(self, path: str, content: bytes) -> None:
        """See :class:`Place`."""
        with self._reaching():
            self.filesystem.pipe_file(self._at(path), content)

    def touch(self, path: str) -> None:
        """See :class:`Place`: object storage knows writing only."""
        content = self.read(path)
        if content is not None:
            self.write(path, content)

    def upload(self, source: Path, path: str) -> None:
        """Put a file there."""
        with self._reaching():
            self.filesystem.put_file(str(source), self._at(path))

    def download(self, path: str, target: Path) -> bool:
        """Fetch a file to ``target``; False where there is none."""
        with self._reaching():
            try:
                self.filesystem.get_file(self._at(path), str(target))
            except FileNotFoundError:
                return False
            return True

    def entry(self, path: str) -> StoredFile | None:
        """See :class:`Place`."""
        with self._reaching():
            try:
                return _stored_file(path, self.filesystem.info(self._at(path)))
            except FileNotFoundError:
                return None

    def entries(self, folder: str) -> list[StoredFile]:
        """See :class:`Place`."""
        with self._reaching():
            try:
                found = self.filesystem.find(self._at(folder), detail=True)
            except FileNotFoundError:
                return []
            below = len(self.filesystem._strip_protocol(self.root)) + 1
            return [_stored_file(str(name)[below:], info) for name, info in sorted(found.items())]

    def remove(self, path: str) -> None:
        """See :class:`Place`."""
        with self._reaching(), suppress(FileNotFoundError):
            self.filesystem.rm_file(self._at(path))

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Only one holder at a time on all machines; free some time after its holder died, see :mod:`.leases`."""
        with self._reaching():
            taken = lease(self.filesystem, self._at(f"locks/{key}"))
            taken.take()
        try:
            yield
        finally:
            taken.give_back()


_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "abfs": "adlfs"}


def _stored_file(path: str, info: dict[str, Any]) -> StoredFile:
    modified: Any = next((info[name] for name in _TIMES if name in info), None) or time.time()
    seconds = modified.timestamp() if hasattr(modified, "timestamp") else float(modified)
    return StoredFile(path=path, size=int(info.get("size") or 0), modified=seconds)


_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
"""What storage clients call the time of the last change."""
