"""Openmodeldb: the release's entry for the community's model database."""

from __future__ import annotations

from aethernet.artifact import Artifact
from aethernet.release.manifest import OPENMODELDB, BuildRecord, Manifest
from aethernet.release.openmodeldb import database_patch, formatted
from aethernet.release.spec import OpenModelDbSpec
from tasks.caching import current_store, stage

__all__ = ["openmodeldb"]


@stage(quick=True)
def openmodeldb(manifest: Manifest, build: BuildRecord, spec: OpenModelDbSpec) -> Artifact:
    """``openmodeldb.json``."""
    store = current_store()
    with store.scratch() as folder:
        (folder / OPENMODELDB).write_bytes(formatted(database_patch(manifest, build, spec)))
        return store.put(folder / OPENMODELDB)
