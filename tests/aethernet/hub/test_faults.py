"""A fault at every request of publishing and downloading, one at a time: in the end there is a whole release, or none.

The few in the fast tests are one of each kind at the places where it matters most; the sweep over every request and
every kind is marked slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aethernet.errors import AethernetError, BundleError, HubError
from aethernet.hub.address import Address
from aethernet.hub.download import download
from aethernet.hub.publishing import publish_release
from aethernet.release.verification import verify_bundle
from tests.support.hub_server import Fault, HubServer
from tests.support.releases import NAME, snapshot

REPOSITORY = f"org/{NAME}"
TITLE = f"{NAME} 1.0.0"

WHILE_PUBLISHING = {
    "500": {"kind": "status", "status": 500},
    "503": {"kind": "status", "status": 503},
    "429": {"kind": "status", "status": 429, "headers": {"Retry-After": "3"}},
    "503 having done it": {"kind": "status_after", "status": 503},
    "reset": {"kind": "drop"},
    "reset having done it": {"kind": "drop_after"},
    "too late": {"kind": "delay", "seconds": 0.4},
    "401": {"kind": "status", "status": 401},
    "403": {"kind": "status", "status": 403},
    "404": {"kind": "status", "status": 404},
    "409": {"kind": "status", "status": 409},
    "nonsense": {"kind": "garbage"},
}
PASSING = {"500", "503", "429", "503 having done it", "reset", "reset having done it", "too late"}
"""Faults that a second try gets over."""

WHILE_DOWNLOADING = {
    **WHILE_PUBLISHING,
    "body cut": {"kind": "truncate"},
    "body reset": {"kind": "truncate_rst"},
    "body short": {"kind": "short"},
    "one byte flipped": {"kind": "corrupt"},
}


@contextmanager
def injected(hub: HubServer, fault: Fault) -> Iterator[None]:
    """One fault, and a client that waits less long than the hub takes where that is the fault."""
    hub.faults = [fault]
    with pytest.MonkeyPatch.context() as patch:
        if fault.kind == "delay":
            patch.setattr("aethernet.hub.client._SECONDS", dict.fromkeys(("connect", "read", "write", "pool"), 0.2))
        yield
    hub.faults = []


def publish_with(fault: Fault, bundle: Path, hub: HubServer) -> str:
    """Publish to an empty hub with one fault; what came of it, having checked that it is all or nothing."""
    hub.repositories.clear()
    for content in hub.root.iterdir():
        content.unlink()
    hub.log.clear()
    whole = {"v1.0.0": snapshot(bundle)}
    with injected(hub, fault):
        try:
            publish_release(bundle, hub.place, NAME)
            outcome = "published"
        except HubError as error:
            outcome = str(error)
    assert fault.hits == 1
    state = hub.state().get(REPOSITORY)
    if outcome == "published":
        assert state is not None
        assert state["tags"] == whole
    elif state is not None:
        assert state["tags"] in ({}, whole)
        assert state["main"] in ({}, snapshot(bundle))
    assert len(hub.log) < 60, "a storm of requests"

    publish_release(bundle, hub.place, NAME)
    state = hub.state()[REPOSITORY]
    assert state["tags"] == whole
    assert state["history"] == [TITLE, "initial commit"]
    return outcome


def download_with(fault: Fault, bundle: Path, hub: HubServer, folder: Path) -> str:
    """Download with one fault; what came of it, having checked that it is all or nothing."""
    hub.log.clear()
    address = Address.parse(f"{hub.place}/{NAME}@1.0.0")
    with injected(hub, fault):
        try:
            download(address, folder)
            outcome = "downloaded"
        except AethernetError as error:
            outcome = str(error)
            assert not folder.exists()
            if isinstance(error, BundleError):
                assert list(folder.parent.iterdir()) == []
    assert fault.hits == 1
    assert len(hub.log) < 60, "a storm of requests"

    download(address, folder)
    assert snapshot(folder) == snapshot(bundle)
    assert list(folder.parent.iterdir()) == [folder]
    return outcome


# --- the places where it matters most --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(WHILE_PUBLISHING))
@pytest.mark.parametrize("request_", ["POST .*/commit/"])
def test_fault_while_publishing_leaves_a_whole_release_or_none(
    slim_release: Path, hub_server: HubServer, request_: str, kind: str
) -> None:
    outcome = publish_with(Fault(match=request_, **WHILE_PUBLISHING[kind]), slim_release, hub_server)

    tolerated = kind == "nonsense" and "commit" not in request_  # nothing of what they answer is needed
    assert (outcome == "published") is (kind in PASSING or tolerated), outcome
    if kind in ("401", "403", "404"):
        assert f"answered {kind}" in outcome
        assert hub_server.waits == []


@pytest.mark.parametrize("kind", sorted(WHILE_DOWNLOADING))
@pytest.mark.parametrize("request_", ["GET /object/"])
def test_fault_while_downloading_leaves_verified_files_or_none(
    slim_release: Path, hub_server: HubServer, tmp_path: Path, request_: str, kind: str
) -> None:
    publish_release(slim_release, hub_server.place, NAME)
    folder = tmp_path / "place" / NAME
    folder.parent.mkdir()

    outcome = download_with(Fault(match=request_, **WHILE_DOWNLOADING[kind]), slim_release, hub_server, folder)

    refused = kind in ("401", "403", "404", "409") or (kind in ("nonsense", "body short") and "tree" in request_)
    if not (kind == "one byte flipped" and "tree" in request_):  # which byte decides
        assert (outcome == "downloaded") is not refused, outcome


def test_server_that_keeps_changing_a_byte_is_refused_and_nothing_stays(
    slim_release: Path, hub_server: HubServer, tmp_path: Path
) -> None:
    publish_release(slim_release, hub_server.place, NAME)
    hub_server.faults = [Fault("corrupt", match="/object/", times=-1)]
    (tmp_path / "place").mkdir()

    with pytest.raises(BundleError, match="is not what was released"):
        download(Address.parse(f"{hub_server.place}/{NAME}"), tmp_path / "place" / NAME)

    assert list((tmp_path / "place").iterdir()) == []


def test_server_that_keeps_breaking_off_is_given_up_and_what_came_is_kept_for_the_next_try(
    slim_release: Path, hub_server: HubServer, tmp_path: Path
) -> None:
    publish_release(slim_release, hub_server.place, NAME)
    hub_server.ranges = False
    hub_server.faults = [Fault("truncate_rst", match="/object/", times=-1)]
    folder = tmp_path / "place" / NAME

    with pytest.raises(HubError):
        download(Address.parse(f"{hub_server.place}/{NAME}"), folder)
    assert not folder.exists()

    hub_server.faults, hub_server.ranges = [], True
    done = download(Address.parse(f"{hub_server.place}/{NAME}"), folder)

    assert verify_bundle(folder, run=False).ok
    assert done.received < sum(path.stat().st_size for path in slim_release.iterdir())


# --- every request, every fault --------------------------------------------------------------------------------------


def _sweep(faults: dict, requests: int) -> Iterator[tuple[int, str, Fault]]:
    for index in range(requests):
        for kind, settings in faults.items():
            yield index, kind, Fault(index=index, **settings)


@pytest.mark.slow
def test_any_fault_at_any_request_of_publishing_ends_in_a_whole_release_or_none(
    slim_release: Path, hub_server: HubServer
) -> None:
    publish_release(slim_release, hub_server.place, NAME)
    requests = len(hub_server.log)

    outcomes = {
        (index, kind): publish_with(fault, slim_release, hub_server)
        for index, kind, fault in _sweep(WHILE_PUBLISHING, requests)
    }

    assert requests > 12
    assert {outcome for (_, kind), outcome in outcomes.items() if kind in PASSING} == {"published"}


@pytest.mark.slow
def test_any_fault_at_any_request_of_downloading_ends_in_verified_files_or_none(
    slim_release: Path, hub_server: HubServer, tmp_path: Path
) -> None:
    publish_release(slim_release, hub_server.place, NAME)
    hub_server.log.clear()
    download(Address.parse(f"{hub_server.place}/{NAME}@1.0.0"), tmp_path / "first")
    requests = len(hub_server.log)

    outcomes = {}
    for index, kind, fault in _sweep(WHILE_DOWNLOADING, requests):
        folder = tmp_path / f"{index} {kind}" / NAME
        folder.parent.mkdir()
        outcomes[index, kind] = download_with(fault, slim_release, hub_server, folder)

    assert requests > 8
    assert {outcome for (_, kind), outcome in outcomes.items() if kind in PASSING} == {"downloaded"}
