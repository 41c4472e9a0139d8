"""Report: the release at a glance, one page that needs nothing but a browser."""

from __future__ import annotations

from aethernet.artifact import Artifact
from aethernet.release.manifest import REPORT, BuildRecord, Manifest
from aethernet.release.report import Piece, render_report
from tasks.caching import current_store, stage

__all__ = ["report"]


@stage()
def report(manifest: Manifest, build: BuildRecord, pieces: dict[str, dict[str, Artifact]]) -> Artifact:
    """``report.html``, with windows of pictures: name -> caption -> file."""
    store = current_store()
    shown = [
        Piece(name=name, versions=[(caption, store.get(file)) for caption, file in versions.items()])
        for name, versions in pieces.items()
    ]
    with store.scratch() as folder:
        (folder / REPORT).write_text(render_report(manifest, build, shown), encoding="utf-8", newline="\n")
        return store.put(folder / REPORT)
