"""Release folders: assembled in one step, opened with suspicion, verified to the last byte."""

from __future__ import annotations

import os
import secrets
import shutil
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aethernet.artifact import file_digest, fsync_folder, fsync_tree
from aethernet.comparison.gate import judge
from aethernet.errors import BundleError, GateError, SignatureError, StoreError
from aethernet.manifest import (
    BUILD,
    CARD,
    MANIFEST,
    RENDERED,
    BuildRecord,
    FileEntry,
    Manifest,
    canonical_json,
    identity_of,
    is_safe_path,
    read_model,
    seal_of,
)
from aethernet.precision import Precision

if TYPE_CHECKING:
    from aethernet.signing import Trust

__all__ = [
    "CHECK_INPUT",
    "CHECK_OUTPUT",
    "LARGEST_RECORD",
    "SIGNATURE",
    "Bundle",
    "Verification",
    "assemble_bundle",
    "foreign_files",
    "open_bundle",
    "record_problems",
    "replace_folder",
    "require_accepted",
    "stated_digests",
    "verify_bundle",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a verification found."""

    root: Path
    files: int
    problems: tuple[str, ...]
    identity: str | None = None
    picture: str | None = None
    """How the run of the check picture went, or None when it was not run."""
    signature: str = ""
    """Who signed it, as far as that was checked."""
    missing: tuple[str, ...] = ()
    """Files left out of a part of a release."""

    @property
    def ok(self) -> bool:
        """Whether the release is exactly what was built."""
        return not self.problems


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
        rendered: The card, and what else of :data:`~aethernet.manifest.RENDERED` there is.
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
    import hashlib

    digests = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(small.items())}
    complete = build.model_copy(update={"digests": digests})
    return complete.model_copy(update={"seal": seal_of(complete)})


def _holds(folder: Path, manifest: Manifest, small: Mapping[str, bytes]) -> bool:
    try:
        return all((folder / path).read_bytes() == content for path, content in small.items()) and not _file_problems(
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


def open_bundle(path: Path | str) -> Bundle:
    """Read a release folder's records.

    Raises:
        BundleError: Not a release folder, or a record is invalid or unsafe.
    """
    root = Path(path)
    manifest = read_model(Manifest, _read_record(root, MANIFEST), MANIFEST)
    build = read_model(BuildRecord, _read_record(root, BUILD), BUILD)
    unsafe = [entry.path for entry in manifest.files if not is_safe_path(entry.path)]
    folded = [unicodedata.normalize("NFC", entry.path).casefold() for entry in manifest.files]
    if unsafe:
        raise BundleError(f"{MANIFEST} names unsafe paths: {', '.join(map(repr, unsafe[:5]))}")
    if len(set(folded)) != len(folded) or {name.casefold() for name in (MANIFEST, BUILD, *RENDERED, SIGNATURE)} & set(
        folded
    ):
        raise BundleError(f"{MANIFEST} names a path twice, or two that only case tells apart")
    return Bundle(root=root, manifest=manifest, build=build)


def _read_record(root: Path, name: str) -> bytes:
    path = root / name
    if not path.is_file() or path.is_symlink():
        inside = sorted(entry.parent.name for entry in root.glob(f"*/{name}")) if root.is_dir() else []
        found = f"the release folders {', '.join(inside)} inside it" if inside else "no such file"
        raise BundleError(f"expected a release folder with {name} at {root}, found {found}")
    if path.stat().st_size > LARGEST_RECORD:
        raise BundleError(f"{name} is larger than {LARGEST_RECORD >> 20} MiB")
    return path.read_bytes()


def verify_bundle(
    path: Path | str, *, run: bool = True, partial: bool = False, trust: Trust | None = None
) -> Verification:
    """Check every byte of a release folder, its signature, and try the network on its check picture.

    Every problem is collected; nothing outside the folder is read and no link is followed.

    Args:
        path: The release folder.
        run: Whether to run the fp32 ONNX file on the check picture.
        partial: Whether files may be missing, as after a download of some forms only.
        trust: Whose signature must be there; None says only whether there is one.
    """
    root = Path(path)
    try:
        bundle = open_bundle(root)
    except BundleError as error:
        return Verification(root=root, files=0, problems=(str(error),))
    manifest, build = bundle.manifest, bundle.build
    missing = (
        tuple(entry.path for entry in manifest.files if not os.path.lexists(bundle.path(entry))) if partial else ()
    )
    problems = _file_problems(root, manifest, signature=True, missing=missing)
    problems += record_problems(root, manifest, build)
    signature, unsigned = _signature(bundle, trust)
    problems += unsigned
    entry = manifest.file("onnx", Precision.FP32, ".onnx")
    picture = None
    if run and not problems and (entry is None or entry.path not in missing):
        picture, failure = _run_check_picture(bundle)
        problems += [failure] if failure else []
    return Verification(
        root=root,
        files=len(manifest.files) + len(build.digests) + 1 - len(missing),
        problems=tuple(problems),
        identity=manifest.identity,
        picture=picture,
        signature=signature,
        missing=missing,
    )


def stated_digests(bundle: Bundle) -> dict[str, str]:
    """Path -> sha256 of every file of the release but its signature: what a signature is over.

    The large files' are those the manifest states; they need not be there.
    """
    records = {
        name: file_digest(bundle.root / name) for name in (MANIFEST, BUILD, *RENDERED) if (bundle.root / name).is_file()
    }
    return {entry.path: entry.sha256 for entry in bundle.manifest.files} | records


def _signature(bundle: Bundle, trust: Trust | None) -> tuple[str, list[str]]:
    """Who signed, in words, and what is wrong with it."""
    place = bundle.root / SIGNATURE
    if trust is None and not place.is_file():
        return "not signed: this shows that the folder is whole, not who made it", []
    from aethernet.signing import check_signature, look_at_signature

    try:
        if trust is not None:
            return f"signed by {check_signature(bundle, trust)}", []
        told = look_at_signature(place, stated_digests(bundle))
        return f"signed by {told}, which was not checked: say whom you trust with --public-key or --identity", []
    except SignatureError as error:
        return "not signed as it must be", [str(error)]


def _file_problems(root: Path, manifest: Manifest, *, signature: bool, missing: tuple[str, ...] = ()) -> list[str]:
    expected = {entry.path: entry for entry in manifest.files}
    known = {MANIFEST, BUILD, *RENDERED} | ({SIGNATURE} if signature else set())
    problems, seen = [], set()
    for folder, folders, names in os.walk(root):
        for name in sorted(folders + names):
            place = Path(folder) / name
            path = place.relative_to(root).as_posix()
            if place.is_symlink() or not (place.is_file() or place.is_dir()):
                problems.append(f"{path}: is a link or special file, expected plain files only")
                folders[:] = [other for other in folders if other != name]
                seen.add(path)
            elif place.is_dir():
                if not any(entry.startswith(f"{path}/") for entry in expected):
                    problems.append(f"{path}/: is not part of the release")
                    folders.remove(name)
            elif path in expected:
                seen.add(path)
                entry = expected[path]
                if place.stat().st_size != entry.size:
                    problems.append(f"{path}: expected {entry.size} bytes, found {place.stat().st_size}")
                elif file_digest(place) != entry.sha256:
                    problems.append(f"{path}: content has changed (sha256 differs from {MANIFEST})")
            elif path not in known:
                problems.append(f"{path}: is not part of the release")
    problems += [f"{path}: is missing" for path in expected if path not in seen and path not in missing]
    return problems


def record_problems(root: Path, manifest: Manifest, build: BuildRecord) -> list[str]:
    """What does not fit between the records and what is rendered from them; the other files are not looked at."""
    problems = []
    if seal_of(build) != build.seal or _read_record(root, BUILD) != canonical_json(build):
        problems.append(f"{BUILD}: content has changed (its seal is broken)")
    problems += [f"{name}: is not part of the release" for name in sorted({*build.digests} - {MANIFEST, *RENDERED})]
    for name in (MANIFEST, *RENDERED):
        place = root / name
        if name not in build.digests and name not in (MANIFEST, CARD):
            problems += [f"{name}: is not part of the release"] if os.path.lexists(place) else []
            continue
        if place.is_symlink() or not place.is_file():
            problems.append(f"{name}: is missing")
        elif file_digest(place) != build.digests.get(name):
            problems.append(f"{name}: content has changed (sha256 differs from {BUILD})")
    if identity_of(manifest.files) != manifest.identity:
        problems.append(f"{MANIFEST}: its identity is not that of its files")
    if build.identity != manifest.identity:
        problems.append(
            f"{BUILD}: belongs to another release ({build.identity[:12]}, expected {manifest.identity[:12]})"
        )
    return problems


def _run_check_picture(bundle: Bundle) -> tuple[str | None, str | None]:
    from aethernet.comparison.metrics import level_shares
    from aethernet.pictures import load_picture
    from aethernet.runtimes import open_runtime

    entry = bundle.manifest.file("onnx", Precision.FP32, ".onnx")
    if entry is None:
        return None, "the release has no fp32 ONNX file"
    channels = bundle.manifest.network.config.get("in_channels")
    if channels not in (1, 3):
        return None, f"{MANIFEST}: expected a network of 1 or 3 channels, found {channels}"
    try:
        wanted = load_picture(bundle.root / CHECK_OUTPUT, channels)
        with open_runtime(bundle.path(entry)) as runtime:
            found = runtime.infer(load_picture(bundle.root / CHECK_INPUT, channels))
    except Exception as error:  # noqa: BLE001 (a stranger's file may make a runtime throw anything)
        return None, f"{entry.path}: could not be run on the check picture: {error}"
    if found.shape != wanted.shape:
        return None, f"{entry.path}: the check picture became {found.shape}, expected {wanted.shape}"
    shares = level_shares(found, wanted)
    told = f"largest difference {shares.largest} of 255 levels, {shares.equal:.2%} of values equal"
    return told, None if shares.largest <= 1 else f"{entry.path}: computes another picture ({told})"


def require_accepted(manifest: Manifest) -> None:
    """Judge the manifest's own measurements again: what failed its gate is not published, even by hand.

    Raises:
        GateError: A released form misses the limits the manifest states, or was never measured.
    """
    released = [form.precision for form in manifest.forms if form.status == "released"]
    kept = [item for item in manifest.measurements if item.form.precision in released]
    quality = [item for item in manifest.quality if item.precision is None or item.precision in released]
    unmeasured = [
        entry.path
        for entry in manifest.files
        if entry.precision in released
        and entry != manifest.reference
        and entry.role in ("onnx", "weights")
        and not any(item.form.file == entry.path for item in kept)
    ]
    if unmeasured:
        raise GateError(f"expected measurements of every released file, found none of {', '.join(unmeasured)}", "")
    loose = [entry.path for entry in manifest.files if entry.precision and entry.precision not in released]
    if loose:
        raise GateError(f"expected files of released forms only, found {', '.join(loose)}", "")
    unlimited = [precision.value for precision in released if precision not in manifest.limits]
    if unlimited:
        raise GateError(f"expected limits for every released form, found none for {', '.join(unlimited)}", "")
    judge(kept, quality, manifest.limits, required=[*manifest.required, *released])
