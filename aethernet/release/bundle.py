"""An opened release folder: its records, read with care, and where its files lie."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from aethernet.artifact import file_digest
from aethernet.errors import BundleError
from aethernet.records import read_model
from aethernet.release.manifest import BUILD, MANIFEST, RENDERED, BuildRecord, FileEntry, Manifest, is_safe_path

__all__ = [
    "CHECK_INPUT",
    "CHECK_OUTPUT",
    "LARGEST_RECORD",
    "SIGNATURE",
    "Bundle",
    "open_bundle",
    "read_record",
    "stated_digests",
]

SIGNATURE = "model.sig"
CHECK_INPUT, CHECK_OUTPUT = "images/check_input.png", "images/check_output.png"
"""A small picture and what the trained network makes of it, 8-bit: what a downloaded release is tried on."""

LARGEST_RECORD = 64 * 2**20
"""Bytes a record may have; whatever is larger is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An opened release folder. Opening reads and validates the manifest; it does not hash the files."""

    root: Path
    manifest: Manifest
    build: BuildRecord

    def path(self, entry: FileEntry) -> Path:
        """Where an entry's file lies; always inside :attr:`root`."""
        return self.root / entry.path


def open_bundle(path: Path | str) -> Bundle:
    """Read a release folder's records.

    Raises:
        BundleError: Not a release folder, or a record is invalid or unsafe.
    """
    root = Path(path)
    manifest = read_model(Manifest, read_record(root, MANIFEST), MANIFEST)
    build = read_model(BuildRecord, read_record(root, BUILD), BUILD)
    unsafe = [entry.path for entry in manifest.files if not is_safe_path(entry.path)]
    folded = [unicodedata.normalize("NFC", entry.path).casefold() for entry in manifest.files]
    if unsafe:
        raise BundleError(f"{MANIFEST} names unsafe paths: {', '.join(map(repr, unsafe[:5]))}")
    if len(set(folded)) != len(folded) or {name.casefold() for name in (MANIFEST, BUILD, *RENDERED, SIGNATURE)} & set(
        folded
    ):
        raise BundleError(f"{MANIFEST} names a path twice, or two that only case tells apart")
    return Bundle(root=root, manifest=manifest, build=build)


def read_record(root: Path, name: str) -> bytes:
    """The bytes of one of a release's records.

    Raises:
        BundleError: There is no such plain file, or it is larger than any record.
    """
    path = root / name
    if not path.is_file() or path.is_symlink():
        inside = sorted(entry.parent.name for entry in root.glob(f"*/{name}")) if root.is_dir() else []
        found = f"the release folders {', '.join(inside)} inside it" if inside else "no such file"
        raise BundleError(f"expected a release folder with {name} at {root}, found {found}")
    if path.stat().st_size > LARGEST_RECORD:
        raise BundleError(f"{name} is larger than {LARGEST_RECORD >> 20} MiB")
    return path.read_bytes()


def stated_digests(bundle: Bundle) -> dict[str, str]:
    """Path -> sha256 of every file of the release but its signature: what a signature is over.

    The large files' are those the manifest states; they need not be there.
    """
    records = {
        name: file_digest(bundle.root / name) for name in (MANIFEST, BUILD, *RENDERED) if (bundle.root / name).is_file()
    }
    return {entry.path: entry.sha256 for entry in bundle.manifest.files} | records
