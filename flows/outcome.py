"""What a release run achieved."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from aethernet.hub.protocol import Publication
from aethernet.hub.publishing import Verified
from aethernet.release.manifest import Manifest

__all__ = ["Outcome"]


class Outcome(BaseModel):
    """The release folder, and what became of it on a hub."""

    bundle: Path
    manifest: Manifest
    site: Path | None = None
    """The page to try it, where the spec asks for one and it could be made."""
    publication: Publication | None = None
    verified: Verified | None = None
