"""Addresses of releases, and names that are safe in them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from aethernet.errors import HubError, UsageError

__all__ = ["Address", "is_address", "printable", "require_plain", "version_order"]

_VERSION = re.compile(r"v(?=\d)")

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A release on a hub."""

    place: str
    name: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Take ``place/name[@version]`` apart; ``@v1.0.0`` is ``@1.0.0``.

        Raises:
            UsageError: It is no address.
        """
        place, slash, last = text.rpartition("/")
        name, at, version = last.partition("@")
        if not slash or "://" not in place + slash or place.endswith(("/", ":")) or not name or (at and not version):
            raise UsageError(
                f"expected an address such as hf://org/name@1.0.0 or file:///folder/name, found '{printable(text)}'"
            )
        return cls(place=place, name=name, version=_VERSION.sub("", version, count=1) or None)

    def __str__(self) -> str:
        return f"{self.place}/{self.name}" + (f"@{self.version}" if self.version else "")


def is_address(text: str) -> bool:
    """Whether a text means a release on a hub, and not a folder."""
    return "://" in text


def version_order(version: str) -> tuple[list[int], bool, list[tuple[bool, int, str]]]:
    """Sorts as semantic versions do: 1.0.0-rc.2 before 1.0.0-rc.10 before 1.0.0."""
    release, _, prerelease = version.partition("-")
    parts = [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in prerelease.split(".")]
    return [int(part) if part.isdecimal() else 0 for part in release.split(".")], not prerelease, parts


def require_plain(*names: str) -> None:
    """Names become folders and parts of addresses; whatever could lead elsewhere is refused.

    Raises:
        HubError: A name is more than letters, digits, ``.``, ``_``, ``+`` and ``-``.
    """
    for name in names:
        if not _PLAIN.fullmatch(name) or name.endswith(".part"):
            raise HubError(f"expected a plain name, found '{printable(name)}'")


def printable(text: str, most: int = 200) -> str:
    """A stranger's text on one line, without what a terminal would act on."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= most else f"{plain[:most]}…"
