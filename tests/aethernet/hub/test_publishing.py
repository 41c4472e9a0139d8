"""Publishing by hand: the gate cannot be gone round, and what turns out wrong is taken back."""

from __future__ import annotations

from pathlib import Path

import pytest

from aethernet.errors import BundleError, GateError, HubError
from aethernet.hub.address import Address
from aethernet.hub.catalogue import list_releases
from aethernet.hub.connecting import connect
from aethernet.hub.protocol import Publication, newest_version
from aethernet.hub.publishing import publish_release, take_back, verify_release
from aethernet.release.bundle import open_bundle
from tests.support.hub_server import Fault, HubServer
from tests.support.releases import NAME, rewrite, snapshot


@pytest.fixture(params=["http", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Every hub there is."""
    if request.param == "folder":
        return f"file://{tmp_path}/hub"
    return str(request.getfixturevalue("hub_server").place)


def test_published_release_is_fetched_afresh_and_tried(finished_release: Path, place: str) -> None:
    publication = publish_release(finished_release, place, NAME)

    verified = verify_release(Address.parse(publication.address))

    assert verified.identity == open_bundle(finished_release).manifest.identity
    assert verified.picture is not None
    assert "of 255 levels" in verified.picture
    assert verified.signature.startswith("not signed")


def test_release_that_failed_its_gate_is_not_published_even_by_hand(
    slim_release: Path, place: str, hub_server: HubServer
) -> None:
    manifest = open_bundle(slim_release).manifest
    bad = manifest.measurements[0].model_copy(update={"psnr": 3.0, "max_abs": 0.9})
    rewrite(slim_release, manifest.model_copy(update={"measurements": (bad, *manifest.measurements[1:])}))

    with pytest.raises(GateError):
        publish_release(slim_release, place, NAME)

    assert hub_server.log == []


def test_what_turned_out_wrong_is_taken_back(slim_release: Path, place: str) -> None:
    publication = publish_release(slim_release, place, NAME)

    error = take_back(publication, BundleError("a byte is wrong"))

    assert "was taken back" in error.hint
    with pytest.raises(HubError):
        verify_release(Address.parse(publication.address))
    assert not publish_release(slim_release, place, NAME).already_there


def test_yanked_version_is_marked_listed_and_skipped_as_the_newest(slim_release: Path, place: str) -> None:
    hub = connect(place)
    publish_release(slim_release, place, NAME)
    before = verify_files(place, slim_release)

    hub.yank(NAME, "1.0.0", "tints blue")

    assert hub.yanked(NAME) == {"1.0.0": "tints blue"}
    assert [(offer.name, offer.yanked) for offer in list_releases(hub)] == [(NAME, "tints blue")]
    with pytest.raises(HubError, match="is yanked"):
        newest_version(hub, NAME)
    assert verify_files(place, slim_release) == before
    hub.yank(NAME, "1.0.0", None)
    assert newest_version(hub, NAME) == "1.0.0"


def verify_files(place: str, release: Path) -> dict[str, int]:
    """What the hub says lies under the version: the release, and nothing else."""
    files = dict(connect(place).snapshot(NAME, "1.0.0").files)
    assert files == {path.name: path.stat().st_size for path in release.iterdir()}
    return files


def test_what_was_there_before_is_not_ours_to_take_back(slim_release: Path, place: str) -> None:
    publish_release(slim_release, place, NAME)
    again: Publication = publish_release(slim_release, place, NAME)

    take_back(again, BundleError("a byte is wrong"))

    assert publish_release(slim_release, place, NAME).already_there


def test_what_cannot_be_taken_back_is_said(slim_release: Path, hub_server: HubServer) -> None:
    publication = publish_release(slim_release, hub_server.place, NAME)
    hub_server.faults = [Fault("status", match="DELETE", status=403)]

    error = take_back(publication, BundleError("a byte is wrong"))

    assert "stays published, because it could not be taken back" in error.hint
    assert hub_server.state()[f"org/{NAME}"]["tags"] == {"v1.0.0": snapshot(slim_release)}
