"""Look at a published release as a stranger would: fetch it into an empty folder, check every byte, run one picture."""

from __future__ import annotations

from prefect import flow

from aethernet.hub.address import Address
from aethernet.hub.publishing import Verified, verify_release
from aethernet.release.signing import Trust

__all__ = ["verify_published"]


@flow(name="verify-published", flow_run_name="verify {address}", persist_result=False)
def verify_published(address: str, trust: Trust | None = None) -> Verified:
    """Verify ``place/name[@version]``; the newest version where none is named."""
    return verify_release(Address.parse(address), trust=trust)
