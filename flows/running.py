"""One release run in a store: what it shows, what it notes there, what it tells its caller."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from aethernet.records import published_names
from aethernet.release.spec import ReleaseSpec
from aethernet.store.history import noted
from aethernet.store.store import Store
from flows.outcome import Outcome
from flows.reporting import Progress, ProgressArtifact, log_event
from tasks.caching import RunContext, running

__all__ = ["opened_store", "summarised"]


def summarised(
    store: Store,
    spec: ReleaseSpec,
    flow: Callable[[], Outcome],
    run: str | None = None,
) -> tuple[Outcome, dict[str, Any]]:
    """Run the release flow in a store, under a note of how it ended.

    Args:
        store: Where stages keep files.
        spec: Of the release.
        flow: Runs it.
        run: Prefect's id of the flow run, where a worker runs it.
    """
    progress = Progress(spec.name, store.root / "durations" / f"{spec.name}.json")
    bar = ProgressArtifact(spec.name, progress.remembered)
    context = RunContext(store=store, observers=(progress, bar, log_event))
    with noted(store, spec.name, spec.version, run) as note, running(context):
        outcome = flow()
        bar.finish()
        note.identity = outcome.manifest.identity
        note.published = outcome.publication.address if outcome.publication else None
    progress.finish()
    return outcome, {
        "bundle": str(outcome.bundle),
        "identity": outcome.manifest.identity,
        "forms": [form.model_dump(mode="json") for form in outcome.manifest.forms],
        "published": outcome.publication.address if outcome.publication else None,
        "already_published": outcome.publication.already_there if outcome.publication else None,
        "verified": published_names(dataclasses.asdict(outcome.verified)) if outcome.verified else None,
        "ran": progress.ran,
        "unchanged": progress.cached,
        "seconds": round(progress.elapsed, 2),
        "step_seconds": round(progress.own_seconds, 2),
    }


def opened_store(address: str | None) -> Store:
    """The store at an address, at ``AETHERNET_STORE``, or in the user's cache."""
    return Store(address or os.environ.get("AETHERNET_STORE") or None)
