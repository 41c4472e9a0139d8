"""Publish and verify: one atomic step to a hub, then a fresh look at what is there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import prefect
from pydantic import BaseModel

from aethernet.bundle import Bundle, require_accepted, verify_bundle
from aethernet.errors import BundleError
from aethernet.hub import Publication, connect
from tasks._caching import StageEvent, current_context, stage

__all__ = ["Verified", "publish", "verify_fetched", "verify_published"]


class Verified(BaseModel):
    """What a fresh download turned out to be."""

    identity: str
    files: int
    picture: str | None


@prefect.task(persist_result=False, task_run_name="publish {name}")
def publish(bundle: Bundle, place: str, name: str) -> Publication:
    """Never cached and never retried blindly: the hub itself says whether the release is already there."""
    context = current_context()
    context.tell(StageEvent(stage="publish", label=name, kind="started"))
    require_accepted(bundle.manifest)
    verification = verify_bundle(bundle.root, run=False)
    if not verification.ok:
        raise BundleError(f"refusing to publish a changed release: {'; '.join(verification.problems)}")
    publication = connect(place).publish(bundle, name)
    context.tell(StageEvent(stage="publish", label=name, kind="cached" if publication.already_there else "ran"))
    return publication


def verify_published(publication: Publication) -> Verified:
    """Check what a hub really holds after publishing.

    Cached by the content that is there now: unchanged content needs no second look.
    """
    content = connect(publication.place).fingerprint(publication.name, publication.version)
    return verify_content(publication.place, publication.name, publication.version, publication.identity, content)


@stage()
def verify_content(place: str, name: str, version: str, identity: str, content: str) -> Verified:  # noqa: ARG001
    """Verify one published state; ``content``, its fingerprint, is there for the cache key."""
    verified = verify_fetched(place, name, version)
    if verified.identity != identity:
        raise BundleError(
            f"expected identity {identity[:12]} at {place}/{name}@{version}, found {verified.identity[:12]}"
        )
    return verified


def verify_fetched(place: str, name: str, version: str) -> Verified:
    """Fetch a release into an empty folder, check every byte, run one picture.

    Raises:
        BundleError: It is not whole, not unchanged, or computes another picture.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / name
        connect(place).fetch(name, version, copy)
        verification = verify_bundle(copy)
    if not verification.ok or verification.identity is None:
        raise BundleError(f"{place}/{name}@{version} is not what was released: {'; '.join(verification.problems)}")
    return Verified(identity=verification.identity, files=verification.files, picture=verification.picture)
