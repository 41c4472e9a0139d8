"""Assemble: the release folder, put in place in one step; an identical one is left alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import prefect

from aethernet.artifact import Artifact
from aethernet.bundle import Bundle, assemble_bundle, open_bundle
from aethernet.manifest import BuildRecord, Manifest
from tasks._caching import StageEvent, current_context

__all__ = ["assemble"]


@prefect.task(persist_result=False, task_run_name="assemble {destination.name}")
def assemble(
    destination: Path,
    manifest: Manifest,
    build: BuildRecord,
    rendered: dict[str, Artifact],
    files: dict[str, Artifact],
) -> Bundle:
    """Copies from the store, never links into it."""
    context = current_context()
    context.tell(StageEvent(stage="assemble", label=destination.name, kind="started"))
    paths = {path: context.store.get(artifact) for path, artifact in files.items()}
    small = {path: context.store.get(artifact).read_bytes() for path, artifact in rendered.items()}
    # Two runs of one release reach this point together.
    with context.store.lock(f"assemble-{hashlib.sha256(str(destination.resolve()).encode()).hexdigest()}"):
        written = assemble_bundle(destination, manifest, build, small, paths)
    context.tell(StageEvent(stage="assemble", label=destination.name, kind="ran" if written else "cached"))
    return open_bundle(destination)
