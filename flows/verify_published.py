"""Look at a published release as a stranger would: fetch it into an empty folder, check every byte, run one picture."""

from __future__ import annotations

from prefect import flow

from aethernet.errors import HubError
from aethernet.hub import Address, connect
from tasks.publish import Verified, verify_fetched

__all__ = ["verify_published"]


@flow(name="verify-published", flow_run_name="verify {address}", persist_result=False)
def verify_published(address: str) -> Verified:
    """Verify ``place/name[@version]``; the newest version where none is named."""
    wanted = Address.parse(address)
    hub = connect(wanted.place)
    version = wanted.version or next(iter(hub.versions(wanted.name)), None)
    if version is None:
        raise HubError(f"expected a release called {wanted.name} at {hub.place}, found none")
    return verify_fetched(wanted.place, wanted.name, version)
