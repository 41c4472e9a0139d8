"""Downloads: records first, judged; then the files wanted, verified as they arrive; then one rename.

Nothing a hub says is believed. The records must fit each other and the version asked for, a signature (where one is
asked for) must be over them, the hub's list of files must be the manifest's, and every file must have the manifest's
digest. What is refused leaves nothing behind; what is interrupted leaves a hidden folder beside the destination, from
which the next try goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import unicodedata
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import quote

from aethernet.artifact import file_digest, fsync_tree
from aethernet.errors import AethernetError, BundleError, HubError, StoreError, UnreachableError, UsageError
from aethernet.hub.address import Address, is_address, printable
from aethernet.hub.connecting import connect
from aethernet.hub.patience import Patience
from aethernet.hub.protocol import Hub, Snapshot, newest_version
from aethernet.precision import Precision
from aethernet.release.assembly import foreign_files, replace_folder
from aethernet.release.bundle import LARGEST_RECORD, SIGNATURE, Bundle, open_bundle, stated_digests
from aethernet.release.manifest import BUILD, CARD, MANIFEST, RENDERED, FileEntry, Manifest, is_safe_path
from aethernet.release.signing import Trust, check_signature, look_at_signature, read_trust
from aethernet.release.verification import record_problems, verify_bundle

__all__ = ["RUNTIMES", "Download", "download", "fetch_bundle", "select_files"]

Tell = Callable[[str], None]
Progress = Callable[[int, int], None]

RUNTIMES = {
    "onnxruntime": (".onnx",),
    "openvino": (".onnx",),
    "directml": (".onnx",),
    "pytorch": (".safetensors", ".pth"),
    "tensorrt": (".onnx", "_tensorrt_sm*.engine*"),
    "tensorrt_rtx": (".onnx", "_tensorrt_rtx_sm*.engine*"),
}
"""Runtime -> how names of files end that it can use; engines come with the record of their identity."""

_MOST_FILES = 10_000
_RECORDS = (MANIFEST, BUILD, CARD)
_SMALL = (MANIFEST, BUILD, *RENDERED, SIGNATURE)
"""Fetched and judged first; those that are no records need not be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """What a download did."""

    path: Path
    address: str
    identity: str
    version: str
    signature: str
    """Who signed it, as far as that was checked."""
    files: int
    """Files of the release that are there now, records included."""
    left_out: tuple[str, ...]
    """Files of the release that were not asked for."""
    received: int
    """Bytes that came from the hub this time."""
    already_there: bool


def fetch_bundle(
    place: str,
    *,
    only: Collection[str] = (),
    runtime: str | None = None,
    trust: Trust | None = None,
    cache: Path | None = None,
    tell: Tell = lambda _: None,
    progress: Progress | None = None,
) -> Path:
    """A release folder for whatever people name a release by.

    A folder comes back as it is. An address is fetched into the user's cache, verified; a version that is there already
    is verified again and used without asking the hub.

    Args:
        place: Folder, or an address such as ``hf://org/net@1.0.0``; without a version, the newest.
        only: Forms wanted, such as ``fp16``; all without.
        runtime: Fetch only what this runtime can use, one of :data:`RUNTIMES`.
        trust: Whose signature must be there; by default the user's settings say.
        cache: Folder to keep releases in.
        tell: Told, in words, what is worth knowing.
        progress: Told bytes done and bytes in all.

    Returns:
        A folder that :func:`aethernet.release.bundle.open_bundle` takes. With ``only`` or ``runtime`` it may be a part.

    Raises:
        HubError: The hub cannot be reached or has no such release.
        BundleError: What the hub has is no release, or not a whole one; also if it is not signed as it must be.
    """
    if not is_address(place):
        return Path(place)
    address = Address.parse(place)
    hub = connect(address.place, tell=tell)
    if cache is None:
        import platformdirs

        cache = Path(platformdirs.user_cache_dir("aethernet")) / "releases"
    versions = cache / quote(hub.place, safe="") / address.name
    try:
        version = address.version or _newest(hub, address.name, tell)
    except UnreachableError as error:
        if there := ", ".join(sorted(entry.name for entry in versions.glob("[!.]*"))):
            error.hint = f"which version is the newest only the hub knows; here already, to be named, are: {there}"
        raise
    folder = versions / version
    exact = Address(place=address.place, name=address.name, version=version)
    trust = trust or read_trust(f"{address.place}/{address.name}")
    if folder.is_dir() and _holds(folder, only, runtime, trust):
        return folder
    return download(exact, folder, only=only, runtime=runtime, trust=trust, tell=tell, progress=progress).path


def _holds(folder: Path, only: Collection[str], runtime: str | None, trust: Trust | None) -> bool:
    """Whether a folder has everything wanted, unchanged."""
    found = verify_bundle(folder, run=False, partial=True, trust=trust)
    if not found.ok:
        return False
    return not {entry.path for entry in select_files(open_bundle(folder).manifest, only, runtime)} & {*found.missing}


def download(
    address: Address,
    destination: Path,
    *,
    only: Collection[str] = (),
    runtime: str | None = None,
    trust: Trust | None = None,
    tell: Tell = lambda _: None,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Download:
    """Make ``destination`` a release from a hub: whole, verified, in one step, or not at all.

    What of the same release is in ``destination`` already is kept and not fetched again.

    Args:
        address: Which release; without a version, the newest.
        destination: Becomes the release folder. A release there is replaced, anything else is refused.
        only: As in :func:`fetch_bundle`.
        runtime: As in :func:`fetch_bundle`.
        trust: Whose signature must be there; None accepts releases that are not signed.
        tell: Told, in words, what is worth knowing.
        progress: Told bytes done and bytes in all.
        patience: How often to try again.

    Raises:
        HubError: The hub cannot be reached or has no such release. Finished files are kept for the next try.
        BundleError: What the hub has is no release, or not a whole one, or not signed as it must be. Nothing is left.
        StoreError: The disk is full or cannot be written.
        UsageError: No such form or runtime.
    """
    _require_known(only, runtime)
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise UsageError(f"expected a folder, or nothing, at {destination}, found a file or a link")
    hub = connect(address.place, tell=tell)
    patience = patience or Patience()
    try:
        version = address.version or _newest(hub, address.name, tell)
        snapshot = hub.snapshot(address.name, version)
        if address.version is not None:
            _warn_of_yank(hub, address.name, version, tell)
    except UnreachableError as error:
        there = _offline(address, destination, only, runtime, trust)
        if there is None:
            raise
        tell(f"{error}; {destination} has this version already, unchanged")
        return there
    _require_sane(snapshot)
    key = hashlib.sha256(f"{hub.place}/{address.name} {snapshot.revision}".encode()).hexdigest()[:16]
    staging = destination.with_name(f".{destination.name}.{key}.download")
    try:
        with _alone(staging):
            try:
                run = _Run(hub, snapshot, staging, destination, patience, tell, progress)
                done = run.fetch(str(address), only, runtime, trust)
            except UnreachableError:
                raise
            except (AethernetError, OSError):
                shutil.rmtree(staging, ignore_errors=True)
                raise
            shutil.rmtree(staging, ignore_errors=True)
            return done
    except OSError as error:
        raise StoreError(
            f"could not write {destination}: {error.strerror or error}", hint="free space or choose another folder"
        ) from error


def _newest(hub: Hub, name: str, tell: Tell) -> str:
    version = newest_version(hub, name)
    tell(f"newest version of {name}: {version}")
    return version


def _warn_of_yank(hub: Hub, name: str, version: str, tell: Tell) -> None:
    try:
        reason = hub.yanked(name).get(version)
    except UnreachableError as error:
        tell(f"whether {name} {version} was yanked is not known: {error}")
        return
    if reason is not None:
        tell(f"warning: {name} {version} was yanked: {printable(reason)}")


def _offline(
    address: Address, destination: Path, only: Collection[str], runtime: str | None, trust: Trust | None
) -> Download | None:
    """What is at the destination already, where it is the very version asked for."""
    if address.version is None or not destination.is_dir() or not _holds(destination, only, runtime, trust):
        return None
    bundle = open_bundle(destination)
    if (bundle.manifest.name, bundle.manifest.version) != (address.name, address.version):
        return None
    return _summary(bundle, str(address), trust, received=0, already_there=True)


def _summary(bundle: Bundle, address: str, trust: Trust | None, *, received: int, already_there: bool) -> Download:
    there = [entry for entry in bundle.manifest.files if bundle.path(entry).is_file()]
    return Download(
        path=bundle.root,
        address=address,
        identity=bundle.manifest.identity,
        version=bundle.manifest.version,
        signature=_judge_signature(bundle, trust),
        files=len(there) + len(bundle.build.digests) + 1,
        left_out=tuple(entry.path for entry in bundle.manifest.files if entry not in there),
        received=received,
        already_there=already_there,
    )


def _judge_signature(bundle: Bundle, trust: Trust | None) -> str:
    if trust is not None:
        return f"signed by {check_signature(bundle, trust)}"
    place = bundle.root / SIGNATURE
    if not place.is_file():
        return "not signed"
    return f"signed by {look_at_signature(place, stated_digests(bundle))}, not checked"


def select_files(manifest: Manifest, only: Collection[str], runtime: str | None) -> list[FileEntry]:
    """The files of a release that somebody needs.

    Args:
        manifest: Of the release.
        only: Forms, such as ``fp16``, and ``reference`` for the trained weights before folding; all without.
        runtime: One of :data:`RUNTIMES`, or None for any.

    Raises:
        UsageError: The release has no such form.
    """
    _require_known(only, runtime)
    released = {entry.precision.value for entry in manifest.files if entry.precision} | {"reference"}
    if unknown := sorted(set(only) - released):
        raise UsageError(
            f"expected forms that this release has ({', '.join(sorted(released))}), found {', '.join(unknown)}"
        )
    return [entry for entry in manifest.files if _wanted(entry, manifest, only, runtime)]


def _wanted(entry: FileEntry, manifest: Manifest, only: Collection[str], runtime: str | None) -> bool:
    if entry == manifest.reference:
        return "reference" in only or not (only or runtime)
    if entry.precision is None and not entry.path.endswith(".engine"):
        return True  # what every part needs: configuration, pictures, papers
    if only and entry.precision is not None and entry.precision.value not in only:
        return False
    if runtime is None:
        return True
    if entry.path.endswith("_trt.onnx"):
        return runtime.startswith("tensorrt")
    return any(fnmatchcase(entry.path, f"*{ending}") for ending in RUNTIMES[runtime])


def _require_known(only: Collection[str], runtime: str | None) -> None:
    known = [precision.value for precision in Precision] + ["reference"]
    if unknown := sorted(set(only) - set(known)):
        raise UsageError(f"expected forms among {', '.join(known)}, found {', '.join(unknown)}")
    if runtime is not None and runtime not in RUNTIMES:
        raise UsageError(f"expected a runtime among {', '.join(RUNTIMES)}, found {printable(runtime)}")


def _require_sane(snapshot: Snapshot) -> None:
    """Refuse a list of files that no release has, before anything is fetched.

    Raises:
        BundleError: Unsafe or ambiguous paths, links, too many files, or no records.
    """
    paths = snapshot.files.keys()
    where = f"{snapshot.name} {snapshot.version}"
    if len(paths) > _MOST_FILES:
        raise BundleError(f"expected at most {_MOST_FILES} files in {where}, found {len(paths)}")
    if unsafe := [path for path in paths if not is_safe_path(path)]:
        raise BundleError(f"{where} holds unsafe paths: {_listed(unsafe)}")
    if links := [path for path, size in snapshot.files.items() if size < 0]:
        raise BundleError(f"{where} holds links or special files: {_listed(links)}")
    folded = [unicodedata.normalize("NFC", path).casefold() for path in paths]
    if len(set(folded)) != len(folded):
        twins = [path for path, key in zip(paths, folded, strict=True) if folded.count(key) > 1]
        raise BundleError(f"{where} holds paths that only case tells apart: {_listed(twins)}")
    if missing := [name for name in _RECORDS if name not in paths]:
        raise BundleError(f"{where} is no release: {', '.join(missing)} is missing")
    for name in _SMALL:
        if snapshot.files.get(name, 0) > LARGEST_RECORD:
            raise BundleError(f"{where}: {name} is larger than {LARGEST_RECORD >> 20} MiB")


def _listed(paths: list[str]) -> str:
    return ", ".join(repr(printable(path)) for path in sorted(paths)[:5])


class _Run:
    """One download, from the first record to the rename."""

    def __init__(
        self,
        hub: Hub,
        snapshot: Snapshot,
        staging: Path,
        destination: Path,
        patience: Patience,
        tell: Tell,
        progress: Progress | None,
    ) -> None:
        self.hub, self.snapshot, self.patience, self.tell = hub, snapshot, patience, tell
        self.root, self.partial, self.destination = staging / "release", staging / "partial", destination
        self.progress = progress or (lambda _done, _total: None)
        self.received = self.done = self.total = 0

    def fetch(self, address: str, only: Collection[str], runtime: str | None, trust: Trust | None) -> Download:
        bundle = self._records(trust)
        manifest = bundle.manifest
        if foreign := foreign_files(self.destination, manifest):
            raise BundleError(
                f"expected a release or nothing at {self.destination}, found other files: {_listed(foreign)}",
                hint="move them away, or choose another folder; nothing was touched",
            )
        if manifest.name != self.snapshot.name:
            self.tell(f"note: the release published as {self.snapshot.name} calls itself {printable(manifest.name)}")
        wanted = {entry.path: entry for entry in select_files(manifest, only, runtime)}
        kept = self._kept(bundle)
        if wanted.keys() <= kept.keys():
            there = open_bundle(self.destination)
            return _summary(there, address, trust, received=self.received, already_there=True)
        entries = list({**wanted, **kept}.values())
        self.total = sum(entry.size for entry in entries)
        for entry in entries:
            self._place(entry, self.destination / entry.path if entry.path in kept else None)
        self._sweep(bundle, entries)
        fsync_tree(self.root)
        self.destination.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(self.root, self.destination)
        done = open_bundle(self.destination)
        return _summary(done, address, trust, received=self.received, already_there=False)

    def _records(self, trust: Trust | None) -> Bundle:
        """Fetch and judge everything but the large files; once more, from the source, should it not fit together."""
        names = [name for name in _SMALL if name in self.snapshot.files]
        for fresh in (False, True):
            self.root.mkdir(parents=True, exist_ok=True)
            for name in names:
                place = self.root / name
                place.unlink(missing_ok=True)
                self._stream(name, place, self.snapshot.files[name], fresh=fresh)
            try:
                bundle = open_bundle(self.root)
                if problems := record_problems(self.root, bundle.manifest, bundle.build):
                    raise BundleError(f"{self._where} is not what was released: {printable('; '.join(problems))}")
                _judge_signature(bundle, trust)
                break
            except BundleError:
                if fresh:
                    raise
        self._require_same(bundle.manifest)
        return bundle

    def _require_same(self, manifest: Manifest) -> None:
        """The manifest must be of the version asked for, and name what the hub has, no more, no less."""
        if manifest.version != self.snapshot.version:
            raise BundleError(f"expected version {self.snapshot.version}, found {printable(manifest.version)}")
        listed = {path: size for path, size in self.snapshot.files.items() if path not in _SMALL}
        stated = {entry.path: entry.size for entry in manifest.files}
        if extra := [path for path in listed if path not in stated]:
            raise BundleError(f"{self._where} holds files that are not part of the release: {_listed(extra)}")
        if missing := [path for path in stated if path not in listed]:
            raise BundleError(f"{self._where} lacks files of the release: {_listed(missing)}")
        if other := [path for path, size in stated.items() if listed[path] != size]:
            raise BundleError(f"{self._where} holds files of another size than the release's: {_listed(other)}")

    @property
    def _where(self) -> str:
        return f"{self.hub.place}/{self.snapshot.name}@{self.snapshot.version}"

    def _kept(self, bundle: Bundle) -> dict[str, FileEntry]:
        """Files of this very release that lie unchanged at the destination."""
        if any(_content(self.destination / name) != _content(self.root / name) for name in _SMALL):
            return {}
        return {entry.path: entry for entry in bundle.manifest.files if _intact(self.destination / entry.path, entry)}

    def _place(self, entry: FileEntry, source: Path | None) -> None:
        """Get one file, with the digest the manifest states."""
        target = self.root / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source is not None and not target.exists():
            shutil.copyfile(source, target)
        if _intact(target, entry):
            self._advance(entry.size, from_hub=False)
            return
        target.unlink(missing_ok=True)
        part = self.partial / entry.sha256
        self.partial.mkdir(exist_ok=True)
        for fresh in (False, True):
            before = self.done
            if self._stream(entry.path, part, entry.size, fresh=fresh) == entry.sha256:
                os.replace(part, target)
                return
            part.unlink()
            self.done = before
        raise BundleError(
            f"{self._where}: {printable(entry.path)} is not what was released (sha256 differs from {MANIFEST})",
            hint="the hub or something on the way changed it; nothing was kept",
        )

    def _stream(self, path: str, part: Path, size: int, *, fresh: bool) -> str:
        """Bring a partial file to its full size and return its digest; whatever was there of it counts."""
        digest = hashlib.sha256()
        with open(part, "ab+") as file:
            have = min(file.tell(), size)
            file.seek(0)
            left = have
            while left and (chunk := file.read(min(left, 2**20))):
                digest.update(chunk)
                left -= len(chunk)
            file.truncate(have)
            self._advance(have, from_hub=False)

            def attempt() -> None:
                nonlocal digest, have
                if have == size:
                    return  # nothing, or nothing more, to fetch
                with self.hub.read(self.snapshot, path, have, fresh=fresh) as (begins, chunks):
                    if begins != have:
                        if begins != 0:
                            raise HubError(f"asked for {path} from byte {have} on, was sent it from {begins} on")
                        self._advance(-have, from_hub=False)
                        digest, have = hashlib.sha256(), 0
                        file.truncate(0)
                    for chunk in chunks:
                        if have + len(chunk) > size:
                            raise BundleError(f"{self._where}: {printable(path)} is longer than {size} bytes")
                        file.write(chunk)
                        digest.update(chunk)
                        have += len(chunk)
                        self._advance(len(chunk))
                if have < size:
                    raise UnreachableError(f"{printable(path)} broke off after {have} of {size} bytes")

            self.patience.run(attempt, self.tell, lambda: have)
        return digest.hexdigest()

    def _advance(self, size: int, *, from_hub: bool = True) -> None:
        self.received += size if from_hub else 0
        if self.total:
            self.done += size
            self.progress(self.done, self.total)

    def _sweep(self, bundle: Bundle, entries: list[FileEntry]) -> None:
        """Files an earlier try had fetched for another selection."""
        for entry in bundle.manifest.files:
            if entry not in entries:
                (self.root / entry.path).unlink(missing_ok=True)
        for folder, _, _ in os.walk(self.root, topdown=False):
            if Path(folder) != self.root:
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()


def _intact(path: Path, entry: FileEntry) -> bool:
    try:
        return not path.is_symlink() and path.stat().st_size == entry.size and file_digest(path) == entry.sha256
    except OSError:
        return False


def _content(path: Path) -> bytes | None:
    try:
        return None if path.is_symlink() else path.read_bytes()
    except OSError:
        return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time works in ``folder``; the kernel frees it when its holder dies."""
    import fcntl

    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), folder.stat()):
                    yield
                    return
        finally:
            os.close(descriptor)
