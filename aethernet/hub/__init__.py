"""Places releases are published to, behind one protocol.

An address is ``place/name[@version]``; ``file:///folder`` is a place on disk that holds ``NAME/VERSION/`` with plain
files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aethernet.bundle import Bundle
from aethernet.errors import UsageError

__all__ = ["Address", "Hub", "Publication", "connect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A release as it stands on a hub."""

    place: str
    name: str
    version: str
    identity: str
    already_there: bool
    """Whether the same release had been published before, so that nothing was done."""

    @property
    def address(self) -> str:
        """``place/name@version``."""
        return f"{self.place}/{self.name}@{self.version}"


class Hub(Protocol):
    """Where releases live. Publishing is one atomic step and never changes what is there."""

    place: str

    def publish(self, bundle: Bundle, name: str) -> Publication:
        """Publish under ``name`` and the manifest's version.

        Raises:
            AlreadyPublishedError: Another release has this name and version.
            HubError: The hub refused or cannot be reached.
        """

    def versions(self, name: str) -> list[str]:
        """Published versions, newest first."""

    def fetch(self, name: str, version: str, destination: Path) -> None:
        """Copy a release into ``destination``, which must not exist; all of it or nothing.

        Raises:
            HubError: There is no such release.
        """

    def fingerprint(self, name: str, version: str) -> str:
        """Digest over path and content of everything under the version, as it is now; empty when there is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A release on a hub."""

    place: str
    name: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Take ``place/name[@version]`` apart.

        Raises:
            UsageError: It is no address.
        """
        place, slash, last = text.rpartition("/")
        name, at, version = last.partition("@")
        if not slash or "://" not in place + slash or not name or (at and not version):
            raise UsageError(f"expected an address such as file:///folder/name@1.0.0, found '{text}'")
        return cls(place=place, name=name, version=version or None)


def connect(place: str) -> Hub:
    """The hub at a place.

    Raises:
        UsageError: No hub speaks this kind of address.
    """
    if place.startswith("file://"):
        from aethernet.hub.folder import FolderHub

        return FolderHub(place)
    raise UsageError(f"expected a place such as file:///folder, found '{place}'", hint="hubs known here: file://")
