"""Report: the release at a glance, one page that needs nothing but a browser."""

from __future__ import annotations

from aethernet.artifact import Artifact
from aethernet.manifest import REPORT, BuildRecord, Manifest
from aethernet.report import Piece, render_report
from tasks._caching import current_store, stage
from tasks.draw import Showpiece

__all__ = ["report"]


@stage()
def report(manifest: Manifest, build: BuildRecord, pieces: list[Showpiece]) -> Artifact:
    """``report.html``."""
    store = current_store()
    shown = [
        Piece(name=one.name, versions=[(caption, store.get(file)) for caption, file in one.versions]) for one in pieces
    ]
    with store.scratch() as folder:
        (folder / REPORT).write_text(render_report(manifest, build, shown), encoding="utf-8", newline="\n")
        return store.put(folder / REPORT)
