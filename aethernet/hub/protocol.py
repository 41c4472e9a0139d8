"""What every hub can do, and what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aethernet.errors import HubError
from aethernet.hub.address import printable

if TYPE_CHECKING:
    from aethernet.release.bundle import Bundle

__all__ = ["Hub", "Publication", "Snapshot", "newest_version"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A release as it stands on a hub."""

    place: str
    name: str
    version: str
    identity: str
    already_there: bool
    """Whether the same release had been published before, so that nothing was done."""

    @classmethod
    def of(cls, bundle: Bundle, place: str, name: str, *, already_there: bool) -> Publication:
        """A release published at ``place`` as ``name``."""
        manifest = bundle.manifest
        return cls(
            place=place, name=name, version=manifest.version, identity=manifest.identity, already_there=already_there
        )

    @property
    def address(self) -> str:
        """``place/name@version``."""
        return f"{self.place}/{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What lies under a version, pinned: whatever moves on the hub later, this stays what it is."""

    name: str
    version: str
    revision: str
    """What the hub calls this state, such as a commit."""
    files: Mapping[str, int]
    """Path -> bytes, as the hub says; nothing of it has been checked. Links count -1 bytes."""


class Hub(Protocol):
    """Where releases live. Publishing is one atomic step and never changes what is there."""

    place: str

    def publish(self, bundle: Bundle, name: str, *, private: bool = False) -> Publication:
        """Publish under ``name`` and the manifest's version.

        Args:
            bundle: A verified release.
            name: Name on the hub.
            private: Whether a place that has to be made for it is for invited readers only.

        Raises:
            AlreadyPublishedError: Another release has this name and version.
            ConflictError: Somebody else published at the same time.
            HubError: The hub refused or cannot be reached.
        """

    def require_right_to_publish(self, name: str) -> None:
        """Hold, as far as the hub tells without changing anything, that we may publish under ``name``.

        Raises:
            HubError: We may not, or the hub cannot be reached.
        """

    def retract(self, publication: Publication) -> None:
        """Take a version back that was published a moment ago and turned out wrong."""

    def names(self) -> list[str]:
        """Names at this place that may be releases, sorted."""

    def versions(self, name: str) -> list[str]:
        """Published versions, newest first; none where there is no such name."""

    def yanked(self, name: str) -> dict[str, str]:
        """Versions that should no longer be used, with the reason."""

    def yank(self, name: str, version: str, reason: str | None) -> None:
        """Mark a version with a reason; None takes the mark away. The release itself stays as it is."""

    def snapshot(self, name: str, version: str) -> Snapshot:
        """What lies under a version now.

        Raises:
            HubError: There is no such release.
        """

    def read(
        self, snapshot: Snapshot, path: str, start: int = 0, *, fresh: bool = False
    ) -> AbstractContextManager[tuple[int, Iterator[bytes]]]:
        """A file's content from byte ``start`` on.

        Args:
            snapshot: Where.
            path: One of its files.
            start: Bytes that are not needed.
            fresh: From the hub itself and not from any cache.

        Returns:
            The byte the content really begins at (0 where the hub cannot start in the middle), and its chunks.

        Raises:
            UnreachableError: The hub broke off; also while the chunks are read.
        """

    def fingerprint(self, name: str, version: str) -> str:
        """Digest over path and content of everything under the version, as it is now; empty when there is nothing."""


def newest_version(hub: Hub, name: str) -> str:
    """The version to take when none is named: not a yanked one, and a pre-release only where there is nothing else.

    Raises:
        HubError: There is none.
    """
    versions = hub.versions(name)
    if not versions:
        raise HubError(f"expected a release called {printable(name)} at {hub.place}, found none")
    yanked = hub.yanked(name)
    usable = [version for version in versions if version not in yanked]
    if not usable:
        raise HubError(
            f"every version of {name} at {hub.place} is yanked: {printable(yanked[versions[0]])}",
            hint=f"name one to take it all the same: {name}@{versions[0]}",
        )
    return next((version for version in usable if "-" not in version), usable[0])
