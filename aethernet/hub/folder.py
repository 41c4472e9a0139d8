"""A hub in a folder: for one's own disk, a file share, tests and dry runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aethernet.artifact import atomic_path, file_digest, fsync_folder, fsync_tree, require_writable
from aethernet.errors import AlreadyPublishedError, BundleError, HubError, StoreError
from aethernet.hub.address import require_plain, version_order
from aethernet.hub.protocol import Publication, Snapshot
from aethernet.release.bundle import Bundle, open_bundle

__all__ = ["FolderHub"]

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_CHUNK = 2**20


class FolderHub:
    """``NAME/VERSION/`` folders under one root; ``NAME/.yanked/VERSION.json`` marks a version."""

    def __init__(self, place: str) -> None:
        """Open the hub at ``file://FOLDER``; a relative folder is taken from the current one."""
        parts = urlsplit(place)
        self.root = Path(unquote(parts.netloc + parts.path)).absolute()
        self.place = self.root.as_uri()

    def publish(self, bundle: Bundle, name: str, *, private: bool = False) -> Publication:  # noqa: ARG002
        """See :class:`aethernet.hub.protocol.Hub`; who may read a folder is the file system's business."""
        version = bundle.manifest.version
        target = self._folder(name, version)
        if target.exists():
            return self._already(target, bundle, name)
        part = target.with_name(f".{version}.{secrets.token_hex(6)}.part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(bundle.root, part, symlinks=True)
            fsync_tree(part)
            try:
                # A folder cannot be renamed onto one that holds files: of two publishers, one gets here first.
                os.rename(part, target)
            except OSError:
                if not target.exists():
                    raise
                return self._already(target, bundle, name)
            fsync_folder(target.parent)
        except OSError as error:
            raise HubError(
                f"could not publish to {target}: {error.strerror or error}", hint="free space or check the permissions"
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return Publication.of(bundle, self.place, name, already_there=False)

    def _already(self, target: Path, bundle: Bundle, name: str) -> Publication:
        try:
            found = open_bundle(target).manifest.identity
        except BundleError as error:
            raise HubError(f"expected a release at {target}, found something else: {error}") from error
        if found != bundle.manifest.identity:
            raise AlreadyPublishedError(
                f"{name} {bundle.manifest.version} is published with identity {found[:12]}, "
                f"this release has {bundle.manifest.identity[:12]}"
            )
        return Publication.of(bundle, self.place, name, already_there=True)

    def require_right_to_publish(self, name: str) -> None:
        """See :class:`aethernet.hub.protocol.Hub`."""
        try:
            require_writable(self._folder(name))
        except StoreError as error:
            raise HubError(str(error), hint=error.hint) from error

    def retract(self, publication: Publication) -> None:
        """See :class:`aethernet.hub.protocol.Hub`."""
        target = self._folder(publication.name, publication.version)
        retired = target.with_name(f".{publication.version}.{secrets.token_hex(6)}.old")
        try:
            os.rename(target, retired)
        except OSError as error:
            raise HubError(f"could not take {publication.address} back: {error.strerror or error}") from error
        shutil.rmtree(retired, ignore_errors=True)

    def names(self) -> list[str]:
        """See :class:`aethernet.hub.protocol.Hub`."""
        return sorted(name for name in _folders(self.root) if self.versions(name))

    def versions(self, name: str) -> list[str]:
        """See :class:`aethernet.hub.protocol.Hub`."""
        return sorted(_folders(self._folder(name)), key=version_order, reverse=True)

    def yanked(self, name: str) -> dict[str, str]:
        """See :class:`aethernet.hub.protocol.Hub`."""
        marks = {}
        for mark in sorted((self._folder(name) / ".yanked").glob("*.json")):
            try:
                marks[mark.stem] = str(json.loads(mark.read_bytes())["reason"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                marks[mark.stem] = f"{mark} cannot be read"  # it was meant to be a mark
        return marks

    def yank(self, name: str, version: str, reason: str | None) -> None:
        """See :class:`aethernet.hub.protocol.Hub`."""
        self._require(name, version)
        mark = self._folder(name) / ".yanked" / f"{version}.json"
        if reason is None:
            mark.unlink(missing_ok=True)
        else:
            with atomic_path(mark) as temporary:
                temporary.write_text(json.dumps({"reason": reason}) + "\n", encoding="utf-8")

    def snapshot(self, name: str, version: str) -> Snapshot:
        """See :class:`aethernet.hub.protocol.Hub`."""
        root = self._require(name, version)
        files = {}
        for folder, folders, names in os.walk(root):
            for place in (Path(folder, entry) for entry in folders + names):
                if not place.is_dir() or place.is_symlink():
                    plain = place.is_file() and not place.is_symlink()
                    files[place.relative_to(root).as_posix()] = place.stat().st_size if plain else -1
        return Snapshot(name=name, version=version, revision=version, files=files)

    @contextmanager
    def read(
        self,
        snapshot: Snapshot,
        path: str,
        start: int = 0,
        *,
        fresh: bool = False,  # noqa: ARG002
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """See :class:`aethernet.hub.protocol.Hub`."""
        place = self._folder(snapshot.name, snapshot.version) / path
        try:
            with open(place, "rb") as file:
                file.seek(start)
                yield start, iter(lambda: file.read(_CHUNK), b"")
        except OSError as error:
            raise HubError(f"could not read {place}: {error.strerror or error}") from error

    def fingerprint(self, name: str, version: str) -> str:
        """See :class:`aethernet.hub.protocol.Hub`."""
        root = self._folder(name, version)
        if not root.is_dir():
            return ""
        lines = []
        for folder, _, names in os.walk(root):
            for file_name in names:
                place = Path(folder) / file_name
                content = f"-> {os.readlink(place)}" if place.is_symlink() else file_digest(place)
                lines.append(f"{content}  {place.relative_to(root).as_posix()}\n")
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()

    def _require(self, name: str, version: str) -> Path:
        folder = self._folder(name, version)
        if not folder.is_dir():
            known = ", ".join(self.versions(name)) or "none"
            raise HubError(f"expected {name} {version} at {self.place}, found versions: {known}")
        return folder

    def _folder(self, *parts: str) -> Path:
        require_plain(*parts)
        return self.root.joinpath(*parts)


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return [entry.name for entry in root.iterdir() if entry.is_dir() and _FOLDER.fullmatch(entry.name)]
