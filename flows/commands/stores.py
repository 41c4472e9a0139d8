"""``python -m flows status`` and ``gc``: what a store holds of releases."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from aethernet.cli.options import AsJson, StoreAddress
from aethernet.cli.output import emit_json, say

__all__ = ["gc", "status"]


def status(
    store: StoreAddress = None,
    limit: Annotated[int, typer.Option(min=1, help="How many runs, the latest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the latest releases made with a store, on all machines that use it, and how they ended."""
    from rich.console import Console
    from rich.table import Table

    from aethernet.store.history import recent_runs
    from aethernet.store.store import Store as ArtifactStore

    runs = recent_runs(ArtifactStore(store), limit)
    if as_json:
        emit_json([run.model_dump(mode="json", exclude={"beat"}) for run in runs])
        return
    if not runs:
        say(f"no releases yet in the store {ArtifactStore(store).address}")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("started (UTC)", "release", "outcome", "time", "where", "what came of it"):
        table.add_column(heading, overflow="fold")
    for run in runs:
        told = run.error.splitlines()[0] if run.error else run.published or (run.identity or "")[:12]
        started = f"{run.started:%Y-%m-%d %H:%M}"
        table.add_row(started, f"{run.name} {run.version}", run.outcome, f"{run.seconds:.0f} s", run.host, told)
    # Pipes have no width; what is cut off would be lost.
    Console(width=None if sys.stdout.isatty() else 240, highlight=False, markup=False).print(table)


def gc(
    keep_days: Annotated[float, typer.Option(help="Keep what releases of the last days need; at least 1.")] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    store: StoreAddress = None,
    as_json: AsJson = False,
) -> None:
    """Remove from a store what no release of the last days needs; safe beside running flows."""
    from aethernet.store.collection import collect_garbage
    from aethernet.store.store import Store as ArtifactStore

    artifacts = ArtifactStore(store)
    found = collect_garbage(artifacts, keep_days, dry_run=dry_run)
    if as_json:
        told = {"removed": dict(found.removed), "freed": found.freed}
        told |= {"kept": dict(found.kept), "kept_bytes": found.kept_bytes}
        emit_json({"store": artifacts.address, "dry_run": dry_run, **told})
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(found.removed.items()) if count) or "nothing"
    print(f"{'would remove' if dry_run else 'removed'} {counts}: {found.freed / 2**20:.1f} MiB")
    kept = f"{found.kept_bytes / 2**20:.1f} MiB in {found.kept['objects']} objects"
    say(f"kept {kept} in {artifacts.address}")
