"""Static Spaces: a hub serves the files of a repository as a site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aethernet.errors import UsageError
from aethernet.hub.connecting import connect

__all__ = ["SpacePublication", "publish_space"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpacePublication:
    """A site on a hub."""

    address: str
    """Of the Space's page."""
    already_there: bool
    """It held exactly these files before."""


def publish_space(
    folder: Path,
    place: str,
    name: str,
    *,
    marker: str,
    private: bool = False,
    on_message: Callable[[str], None] | None = None,
) -> SpacePublication:
    """Publish a site as a static Space, in one commit; an older version of it is replaced.

    Args:
        folder: The site, with a ``README.md`` that makes it one.
        place: ``hf://org`` or ``hf+https://host/org``.
        name: The Space's name there.
        marker: A file that every such site has; a Space without it that holds something is not touched.
        private: Whether a Space that has to be made is for invited readers only.
        on_message: Called with a sentence that says when the hub has to be asked again.

    Raises:
        UsageError: The place has no Spaces.
        ConflictError: The Space is something else, or somebody else changed it at the same time.
        HubError: The hub refused.
    """
    from aethernet.hub.huggingface import HuggingFaceHub

    hub = connect(place, on_message=on_message)
    if not isinstance(hub, HuggingFaceHub):
        raise UsageError(
            f"expected a place with Spaces, such as hf://org, found {place}",
            hint="aethernet web writes the same site to a folder, for any server",
        )
    address, already_there = hub.publish_space(folder, name, private=private, marker=marker)
    return SpacePublication(address=address, already_there=already_there)
