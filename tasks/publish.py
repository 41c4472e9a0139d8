"""Publish and verify: one atomic step to a hub, then a fresh look at what is there."""

from __future__ import annotations

import prefect

from aethernet.errors import AethernetError, BundleError
from aethernet.hub.address import Address
from aethernet.hub.connecting import connect
from aethernet.hub.protocol import Publication
from aethernet.hub.publishing import Verified, publish_release, take_back, verify_release
from aethernet.release.bundle import Bundle
from aethernet.release.signing import Trust
from tasks.caching import reporting, stage

__all__ = ["Verified", "publish", "verify_published"]


@prefect.task(persist_result=False, task_run_name="publish {name}")
def publish(bundle: Bundle, place: str, name: str, private: bool, trust: Trust | None) -> Publication:
    """Never cached and never retried blindly: the hub itself says whether the release is already there."""
    with reporting("publish", name) as report:
        publication = publish_release(bundle.root, place, name, private=private, trust=trust)
        report.unchanged = publication.already_there
    return publication


def verify_published(publication: Publication, trust: Trust | None) -> Verified:
    """Check what a hub really holds after publishing, and take it back when that is wrong.

    Cached by the content that is there now: unchanged content needs no second look.
    """
    try:
        content = connect(publication.place).fingerprint(publication.name, publication.version)
        return verify_content(publication.address, publication.identity, content, trust)
    except AethernetError as error:
        raise take_back(publication, error) from error


@stage()
def verify_content(address: str, identity: str, content: str, trust: Trust | None) -> Verified:  # noqa: ARG001
    """Verify one published state; ``content``, its fingerprint, is there for the cache key.

    Raises:
        BundleError: It is not whole, not unchanged, not signed as it must be, or another release.
    """
    verified = verify_release(Address.parse(address), trust=trust)
    if verified.identity != identity:
        raise BundleError(f"expected identity {identity[:12]} at {address}, found {verified.identity[:12]}")
    return verified
