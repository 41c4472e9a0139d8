"""One transfer of a release from a hub into a folder: records first, judged, then files, checked as they arrive."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import unicodedata
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from aethernet.artifact import file_digest, fsync_tree
from aethernet.errors import BundleError, HubError, UnreachableError
from aethernet.hub.address import printable
from aethernet.hub.protocol import Hub, Snapshot
from aethernet.hub.retrying import RetryPolicy
from aethernet.hub.selection import select_files
from aethernet.release.assembly import replace_folder, unexpected_files
from aethernet.release.bundle import LARGEST_RECORD, SIGNATURE, Bundle, open_bundle, stated_digests
from aethernet.release.manifest import BUILD, CARD, MANIFEST, RENDERED, FileEntry, Manifest, is_safe_path
from aethernet.release.signing import Trust, check_signature, look_at_signature
from aethernet.release.verification import record_problems

__all__ = ["Download", "OnMessage", "Progress", "Transfer", "judge_signature", "require_sane", "summarize_download"]

OnMessage = Callable[[str], None]
Progress = Callable[[int, int], None]

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


def summarize_download(
    bundle: Bundle, address: str, trust: Trust | None, *, received: int, already_there: bool
) -> Download:
    """The outcome for a folder that holds what was asked for."""
    there = [entry for entry in bundle.manifest.files if bundle.path(entry).is_file()]
    return Download(
        path=bundle.root,
        address=address,
        identity=bundle.manifest.identity,
        version=bundle.manifest.version,
        signature=judge_signature(bundle, trust),
        files=len(there) + len(bundle.build.digests) + 1,
        left_out=tuple(entry.path for entry in bundle.manifest.files if entry not in there),
        received=received,
        already_there=already_there,
    )


def judge_signature(bundle: Bundle, trust: Trust | None) -> str:
    """Who signed a release, checked where ``trust`` says whose signature must be there.

    Raises:
        BundleError: It is not signed as it must be.
    """
    if trust is not None:
        return f"signed by {check_signature(bundle, trust)}"
    place = bundle.root / SIGNATURE
    if not place.is_file():
        return "not signed"
    return f"signed by {look_at_signature(place, stated_digests(bundle))}, not checked"


def require_sane(snapshot: Snapshot) -> None:
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


class Transfer:
    """One download, from the first record to the rename."""

    def __init__(
        self,
        hub: Hub,
        snapshot: Snapshot,
        staging: Path,
        destination: Path,
        retry_policy: RetryPolicy,
        on_message: OnMessage,
        progress: Progress | None,
    ) -> None:
        self.hub, self.snapshot, self.retry_policy, self.on_message = hub, snapshot, retry_policy, on_message
        self.root, self.partial, self.destination = staging / "release", staging / "partial", destination
        self.progress = progress or (lambda _done, _total: None)
        self.received = self.done = self.total = 0

    def fetch(self, address: str, only: Collection[str], runtime: str | None, trust: Trust | None) -> Download:
        """Bring the destination to what was asked for; arguments and errors as for ``download``."""
        bundle = self._records(trust)
        manifest = bundle.manifest
        if others := unexpected_files(self.destination, manifest):
            raise BundleError(
                f"expected a release or nothing at {self.destination}, found other files: {_listed(others)}",
                hint="move them away, or choose another folder; nothing was touched",
            )
        if manifest.name != self.snapshot.name:
            self.on_message(
                f"note: the release published as {self.snapshot.name} calls itself {printable(manifest.name)}"
            )
        wanted = {entry.path: entry for entry in select_files(manifest, only, runtime)}
        kept = self._kept(bundle)
        if wanted.keys() <= kept.keys():
            there = open_bundle(self.destination)
            return summarize_download(there, address, trust, received=self.received, already_there=True)
        entries = list({**wanted, **kept}.values())
        self.total = sum(entry.size for entry in entries)
        for entry in entries:
            self._place(entry, self.destination / entry.path if entry.path in kept else None)
        self._sweep(bundle, entries)
        fsync_tree(self.root)
        self.destination.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(self.root, self.destination)
        done = open_bundle(self.destination)
        return summarize_download(done, address, trust, received=self.received, already_there=False)

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
                judge_signature(bundle, trust)
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

            self.retry_policy.run(attempt, self.on_message, lambda: have)
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
