"""Card: the model card, rendered from the two records alone, so that its figures are theirs."""

from __future__ import annotations

from aethernet.artifact import Artifact
from aethernet.release.card import render_card
from aethernet.release.manifest import CARD, BuildRecord, Manifest
from tasks.caching import current_store, stage

__all__ = ["card"]


@stage(quick=True)
def card(manifest: Manifest, build: BuildRecord) -> Artifact:
    """``README.md``."""
    store = current_store()
    with store.scratch() as folder:
        (folder / CARD).write_text(render_card(manifest, build), encoding="utf-8", newline="\n")
        return store.put(folder / CARD)
