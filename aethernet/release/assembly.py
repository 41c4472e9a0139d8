"""Putting a release folder in place, in one step."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from aethernet.artifact import file_digest, fsync_folder, fsync_tree
from aethernet.errors import BundleError, StoreError
from aethernet.records import canonical_json
from aethernet.release.bundle import SIGNATURE, open_bundle
from aethernet.release.manifest import BUILD, MANIFEST, RENDERED, BuildRecord, Manifest, seal_of
from aethernet.release.verification import file_problems

__all__ = ["assemble_bundle", "foreign_files", "replace_folder", "sealed"]


def assemble_bundle(
    destination: Path,
    manifest: Manifest,
    build: BuildRecord,
    rendered: Mapping[str, bytes],
    files: Mapping[str, Path],
) -> bool:
    """Put a release folder in place in one step, replacing an older build of the same name.

    Args:
        destination: The release folder.
        manifest: Must list exactly ``files``.
        build: Without digests and seal; they are made here.
        rendered: The card, and what else of :data:`~aethernet.release.manifest.RENDERED` there is.
        files: Path in the release -> file to copy.

    Returns:
        Whether anything was written: an identical folder is left alone.

    Raises:
        BundleError: Manifest and files disagree, or ``destination`` holds something that is no release.
        StoreError: The disk is full or cannot be written.
    """
    if {entry.path for entry in manifest.files} != set(files):
        raise BundleError("the manifest and the files to assemble disagree")
    small = {MANIFEST: canonical_json(manifest), **rendered}
    small[BUILD] = canonical_json(sealed(build, small))
    if _holds(destination, manifest, small):
        return False
    if foreign := foreign_files(destination, manifest):
        raise BundleError(
            f"expected a release or nothing at {destination}, found other files: {', '.join(foreign[:5])}",
            hint="move them away, or choose another --output or --name; nothing was touched",
        )
    part = destination.with_name(f".{destination.name}.{secrets.token_hex(6)}.part")
    try:
        part.mkdir(parents=True)
        for path, source in files.items():
            target = part / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        for path, content in small.items():
            (part / path).write_bytes(content)
        for entry in manifest.files:
            if file_digest(part / entry.path) != entry.sha256:
                raise BundleError(f"{entry.path} changed while it was copied", hint="run the same command again")
        fsync_tree(part)
        replace_folder(part, destination)
    except OSError as error:
        raise StoreError(
            f"could not write {destination}: {error.strerror or error}", hint="free space or choose another --output"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return True


def sealed(build: BuildRecord, small: Mapping[str, bytes]) -> BuildRecord:
    """The build record with the digests of the other small files and its own seal."""
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(small.items())}
    complete = build.model_copy(update={"digests": digests})
    return complete.model_copy(update={"seal": seal_of(complete)})


def _holds(folder: Path, manifest: Manifest, small: Mapping[str, bytes]) -> bool:
    try:
        return all((folder / path).read_bytes() == content for path, content in small.items()) and not file_problems(
            folder, manifest, signature=True
        )
    except OSError:
        return False


def foreign_files(folder: Path, manifest: Manifest) -> list[str]:
    """What lies where a release is to be put and belongs neither to it nor to the release it replaces."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return [folder.name]
    known = {MANIFEST, BUILD, *RENDERED, SIGNATURE, *(entry.path for entry in manifest.files)}
    with suppress(BundleError):
        known.update(entry.path for entry in open_bundle(folder).manifest.files)
    found = ((Path(root) / name).relative_to(folder) for root, _, names in os.walk(folder) for name in names)
    return sorted({path.as_posix() for path in found} - known)


def replace_folder(part: Path, destination: Path) -> None:
    """Put a finished folder in the place of another one; whatever goes wrong, one of the two stands there."""
    retired = destination.with_name(f".{destination.name}.{secrets.token_hex(6)}.old")
    if destination.exists():
        os.rename(destination, retired)
    try:
        os.rename(part, destination)
    except OSError:
        if retired.exists():
            os.rename(retired, destination)
        raise
    fsync_folder(destination.parent)
    shutil.rmtree(retired, ignore_errors=True)
