"""Whether a release folder is exactly what was built, to the last byte, and computes what it should."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aethernet.artifact import file_digest
from aethernet.comparison.gate import NCNN_LIMITS, failures_of, judge, limits_for
from aethernet.comparison.metrics import level_shares
from aethernet.errors import BundleError, GateError, SignatureError
from aethernet.images.files import load_image
from aethernet.precision import Precision
from aethernet.records import canonical_json
from aethernet.release.bundle import (
    CHECK_INPUT,
    CHECK_OUTPUT,
    SIGNATURE,
    Bundle,
    open_bundle,
    read_record,
    stated_digests,
)
from aethernet.release.manifest import (
    BUILD,
    CARD,
    MANIFEST,
    RENDERED,
    BuildRecord,
    Manifest,
    checksum_of,
    identity_of,
)
from aethernet.release.signing import Trust, check_signature, look_at_signature
from aethernet.runtimes.opening import open_runtime

__all__ = ["Verification", "file_problems", "record_problems", "require_accepted", "verify_bundle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a verification found."""

    root: Path
    files: int
    problems: tuple[str, ...]
    identity: str | None = None
    image: str | None = None
    """How the run of the check image went, or None when it was not run."""
    signature: str = ""
    """Who signed it, as far as that was checked."""
    missing: tuple[str, ...] = ()
    """Files left out of a part of a release."""

    @property
    def ok(self) -> bool:
        """Whether the release is exactly what was built."""
        return not self.problems


def verify_bundle(
    path: Path | str, *, run: bool = True, partial: bool = False, trust: Trust | None = None
) -> Verification:
    """Check every byte of a release folder, its signature, and try the network on its check image.

    Every problem is collected; nothing outside the folder is read and no link is followed.

    Args:
        path: The release folder.
        run: Whether to run the fp32 ONNX file on the check image.
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
    problems = file_problems(root, manifest, signature=True, missing=missing)
    problems += record_problems(root, manifest, build)
    signature, unsigned = _signature(bundle, trust)
    problems += unsigned
    entry = manifest.file("onnx", Precision.FP32, ".onnx")
    image = None
    if run and not problems and (entry is None or entry.path not in missing):
        image, failure = _run_check_image(bundle)
        problems += [failure] if failure else []
    return Verification(
        root=root,
        files=len(manifest.files) + len(build.digests) + 1 - len(missing),
        problems=tuple(problems),
        identity=manifest.identity,
        image=image,
        signature=signature,
        missing=missing,
    )


def _signature(bundle: Bundle, trust: Trust | None) -> tuple[str, list[str]]:
    """Who signed, in words, and what is wrong with it."""
    place = bundle.root / SIGNATURE
    if trust is None and not place.is_file():
        return "not signed: this shows that the folder is whole, not who made it", []
    try:
        if trust is not None:
            return f"signed by {check_signature(bundle, trust)}", []
        told = look_at_signature(place, stated_digests(bundle))
        return f"signed by {told}, which was not checked: say whom you trust with --public-key or --identity", []
    except SignatureError as error:
        return "not signed as it must be", [str(error)]


def file_problems(root: Path, manifest: Manifest, *, signature: bool, missing: tuple[str, ...] = ()) -> list[str]:
    """What is wrong with a release's files: changed, missing, extra, or no plain files.

    Args:
        root: The release folder.
        manifest: What it must hold.
        signature: Whether a signature may lie there.
        missing: Files that may be left out.
    """
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
    if checksum_of(build) != build.checksum or read_record(root, BUILD) != canonical_json(build):
        problems.append(f"{BUILD}: content has changed (its checksum does not fit)")
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


def _run_check_image(bundle: Bundle) -> tuple[str | None, str | None]:
    entry = bundle.manifest.file("onnx", Precision.FP32, ".onnx")
    if entry is None:
        return None, "the release has no fp32 ONNX file"
    channels = bundle.manifest.network.config.get("in_channels")
    if channels not in (1, 3):
        return None, f"{MANIFEST}: expected a network of 1 or 3 channels, found {channels}"
    try:
        wanted = load_image(bundle.root / CHECK_OUTPUT, channels)
        with open_runtime(bundle.path(entry)) as runtime:
            found = runtime.infer(load_image(bundle.root / CHECK_INPUT, channels))
    except Exception as error:  # noqa: BLE001 (a stranger's file may make a runtime throw anything)
        return None, f"{entry.path}: could not be run on the check image: {error}"
    if found.shape != wanted.shape:
        return None, f"{entry.path}: the check image became {found.shape}, expected {wanted.shape}"
    shares = level_shares(found, wanted)
    told = f"largest difference {shares.largest} of 255 levels, {shares.equal:.2%} of values equal"
    return told, None if shares.largest <= 1 else f"{entry.path}: computes another image ({told})"


def require_accepted(manifest: Manifest) -> None:
    """Judge the manifest's own measurements again: what failed its gate is not published, even by hand.

    Raises:
        GateError: A released form misses the limits the manifest states, or was never measured.
    """
    released = [form.precision for form in manifest.forms if form.status == "released"]
    files = {entry.path for entry in manifest.files} | {PurePosixPath(entry.path).name for entry in manifest.files}
    measured = [item for item in manifest.measurements if item.form.file in files]
    ncnn = [item for item in measured if item.form.runtime in NCNN_LIMITS]
    kept = [item for item in measured if item.form.precision in released and item not in ncnn]
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
    loose = [
        entry.path
        for entry in manifest.files
        if entry.precision and entry.precision not in released and entry.role != "ncnn"
    ]
    if loose:
        raise GateError(f"expected files of released forms only, found {', '.join(loose)}", "")
    unlimited = [precision.value for precision in released if precision not in manifest.limits]
    if unlimited:
        raise GateError(f"expected limits for every released form, found none for {', '.join(unlimited)}", "")
    # ncnn files are made beside the precisions, and have limits of their own.
    missed = [f"{one.form} on {one.case}: {text}" for one in ncnn for text in failures_of(one, limits_for(one, {}))]
    if missed:
        raise GateError(f"expected ncnn files within their limits, found {'; '.join(missed[:3])}", "")
    judge(kept, quality, manifest.limits, required=[*manifest.required, *released])
