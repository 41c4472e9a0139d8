"""Openmodeldb: the release's entry for the community's model database."""

from __future__ import annotations

from aethernet.artifact import Artifact
from aethernet.manifest import OPENMODELDB, BuildRecord, Manifest
from aethernet.openmodeldb import database_patch, formatted
from aethernet.spec import OpenModelDbSpec
from tasks._caching import current_store, stage

__all__ = ["openmodeldb"]


@stage(quick=True)
def openmodeldb(manifest: Manifest, build: BuildRecord, spec: OpenModelDbSpec) -> Artifact:
    """``openmodeldb.json``."""
    store = current_store()
    with store.scratch() as folder:
        (folder / OPENMODELDB).write_bytes(formatted(database_patch(manifest, build, spec)))
        return store.put(folder / OPENMODELDB)
