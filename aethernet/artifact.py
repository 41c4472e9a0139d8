"""Files as values: what travels between stages is an :class:`Artifact`, and every file is written in one step."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aethernet.errors import StoreError

__all__ = [
    "Artifact",
    "atomic_path",
    "existing_folder",
    "file_digest",
    "fsync_folder",
    "fsync_tree",
    "require_writable",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file's content: two artifacts with one digest are the same whatever they are called."""

    name: str
    """File name it is released under; no folders."""
    sha256: str
    """Lower-case hexadecimal digest of the content."""
    size: int
    """Bytes."""

    @classmethod
    def of(cls, path: Path | str, name: str | None = None) -> Artifact:
        """Describe a file by reading it once."""
        path = Path(path)
        return cls(name=name or path.name, sha256=file_digest(path), size=path.stat().st_size)


def file_digest(path: Path | str) -> str:
    """sha256 of a file, lower-case hexadecimal, in constant memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_SHOWN_BYTES = 200
"""Of a file's name in that of its temporary sibling."""


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary sibling to write to; it replaces ``path`` when the block ends well and vanishes when it does not.

    Raises:
        StoreError: The disk is full or the folder cannot be written.
    """
    path = Path(path)
    # Names end at 255 bytes, and that of a finished file may have as many.
    shown = os.fsdecode(os.fsencode(path.name)[:_SHOWN_BYTES])
    temporary = path.with_name(f".{shown}.{secrets.token_hex(6)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"could not write {path}: {error.strerror or error}", hint="free space or choose another folder"
        ) from error
    finally:
        # Whatever keeps the leftover from being removed must not hide why it is one.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def existing_folder(path: Path) -> Path:
    """The nearest of a path and the folders above it that is there (it may be a file)."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.exists())


def require_writable(folder: Path) -> None:
    """Hold that files can be made in a folder, or in the one it would be made in; leaves nothing behind.

    Raises:
        StoreError: They cannot.
    """
    try:
        # The only proof: permissions say nothing of read-only disks, quotas and network file systems.
        with tempfile.TemporaryFile(dir=existing_folder(folder)):
            pass
    except OSError as error:
        raise StoreError(
            f"could not write to {folder}: {error.strerror or error}", hint="choose another folder or change its rights"
        ) from error


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """Make every file under ``root``, and its name, survive a power cut."""
    for folder, _, names in os.walk(root):
        for name in names:
            with open(Path(folder) / name, "rb+") as file:
                os.fsync(file.fileno())
        fsync_folder(Path(folder))
