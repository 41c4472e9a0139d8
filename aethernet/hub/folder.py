"""A hub in a folder: for one's own disk, a file share, tests and dry runs."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aethernet.artifact import file_digest, fsync_folder
from aethernet.bundle import Bundle, open_bundle
from aethernet.errors import AlreadyPublishedError, BundleError, HubError
from aethernet.hub import Publication

__all__ = ["FolderHub"]

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class FolderHub:
    """``NAME/VERSION/`` folders under one root."""

    def __init__(self, place: str) -> None:
        """Open the hub at ``file://FOLDER``; a relative folder is taken from the current one."""
        parts = urlsplit(place)
        self.root = Path(unquote(parts.netloc + parts.path)).absolute()
        self.place = self.root.as_uri()

    def publish(self, bundle: Bundle, name: str) -> Publication:
        """See :class:`aethernet.hub.Hub`."""
        version = bundle.manifest.version
        target = self._folder(name, version)
        if target.exists():
            return self._already(target, bundle, name)
        part = target.with_name(f".{version}.{secrets.token_hex(6)}.part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(bundle.root, part, symlinks=True)
            for folder, _, names in os.walk(part):
                for file_name in names:
                    with open(Path(folder) / file_name, "rb+") as file:
                        os.fsync(file.fileno())
                fsync_folder(Path(folder))
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
        return self._publication(bundle, name, already_there=False)

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
        return self._publication(bundle, name, already_there=True)

    def _publication(self, bundle: Bundle, name: str, *, already_there: bool) -> Publication:
        return Publication(
            place=self.place,
            name=name,
            version=bundle.manifest.version,
            identity=bundle.manifest.identity,
            already_there=already_there,
        )

    def versions(self, name: str) -> list[str]:
        """See :class:`aethernet.hub.Hub`."""
        folder = self._folder(name)
        if not folder.is_dir():
            return []
        found = [entry.name for entry in folder.iterdir() if entry.is_dir() and _PLAIN.fullmatch(entry.name)]
        return sorted(found, key=_order, reverse=True)

    def fetch(self, name: str, version: str, destination: Path) -> None:
        """See :class:`aethernet.hub.Hub`."""
        source = self._folder(name, version)
        if not source.is_dir():
            known = ", ".join(self.versions(name)) or "none"
            raise HubError(f"expected {name} {version} at {self.place}, found versions: {known}")
        part = destination.with_name(f".{destination.name}.{secrets.token_hex(6)}.part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            # Links are copied as links, so that verification sees and refuses them.
            shutil.copytree(source, part, symlinks=True)
            os.rename(part, destination)
        except OSError as error:
            raise HubError(f"could not fetch {name} {version} to {destination}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def fingerprint(self, name: str, version: str) -> str:
        """See :class:`aethernet.hub.Hub`."""
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

    def _folder(self, *parts: str) -> Path:
        for part in parts:
            if not _PLAIN.fullmatch(part) or part.endswith(".part"):
                raise HubError(f"expected a plain name, found '{part}'")
        return self.root.joinpath(*parts)


def _order(version: str) -> tuple[list[int], bool, list[tuple[bool, int, str]]]:
    """Sorts as semantic versions do: 1.0.0-rc.2 before 1.0.0-rc.10 before 1.0.0."""
    release, _, prerelease = version.partition("-")
    parts = [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in prerelease.split(".")]
    return [int(part) if part.isdecimal() else 0 for part in release.split(".")], not prerelease, parts
