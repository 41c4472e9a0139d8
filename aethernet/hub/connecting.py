"""From the address of a place to the hub that speaks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aethernet.errors import UsageError
from aethernet.hub.address import printable

if TYPE_CHECKING:
    from aethernet.hub.protocol import Hub

__all__ = ["connect"]


def connect(place: str, *, tell: Callable[[str], None] | None = None) -> Hub:
    """The hub at a place; nothing is asked of it yet.

    Args:
        place: Without a release's name.
        tell: Told when the hub has to be asked again.

    Raises:
        UsageError: No hub speaks this kind of address.
    """
    if place.startswith("file://"):
        from aethernet.hub.folder import FolderHub

        return FolderHub(place)
    if place.startswith(("hf://", "hf+http://", "hf+https://")):
        from aethernet.hub.huggingface import HuggingFaceHub

        return HuggingFaceHub(place, tell=tell)
    raise UsageError(
        f"expected a place such as hf://org or file:///folder, found '{printable(place)}'",
        hint="hubs known here: hf://, hf+https:// (your own), file://",
    )
