"""Assemble: the release folder, put in place in one step; an identical one is left alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import prefect

from aethernet.artifact import Artifact
from aethernet.release.assembly import assemble_bundle
from aethernet.release.bundle import Bundle, open_bundle
from aethernet.release.manifest import BuildRecord, Manifest
from tasks.caching import current_context, reporting

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
    store = current_context().store
    with reporting("assemble", destination.name) as report:
        paths = {path: store.get(artifact) for path, artifact in files.items()}
        small = {path: store.get(artifact).read_bytes() for path, artifact in rendered.items()}
        # Two runs of one release reach this point together.
        with store.lock(f"assemble-{hashlib.sha256(str(destination.resolve()).encode()).hexdigest()}"):
            report.unchanged = not assemble_bundle(destination, manifest, build, small, paths)
    return open_bundle(destination)
