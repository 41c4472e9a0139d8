"""The hub in a folder."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from aethernet.errors import AlreadyPublishedError, HubError, UsageError
from aethernet.hub.address import Address
from aethernet.hub.connecting import connect
from aethernet.hub.download import download
from aethernet.hub.folder import FolderHub
from aethernet.release.bundle import open_bundle
from aethernet.release.verification import verify_bundle
from tests.support.releases import NAME, rewrite, snapshot


def another_identity(bundle: Path) -> Path:
    """Make the release another one under the same version."""
    manifest = open_bundle(bundle).manifest
    rewrite(bundle, manifest=manifest.model_copy(update={"identity": "f" * 64}))
    return bundle


def test_what_is_published_comes_back_byte_for_byte(finished_release: Path, tmp_path: Path) -> None:
    hub = connect(f"file://{tmp_path}/hub")

    publication = hub.publish(open_bundle(finished_release), NAME)
    download(Address.parse(publication.address), tmp_path / "copy")

    assert not publication.already_there
    assert publication.address == f"file://{tmp_path}/hub/{NAME}@1.0.0"
    assert snapshot(tmp_path / "copy") == snapshot(finished_release)
    assert verify_bundle(tmp_path / "copy").ok


def test_publishing_the_same_again_does_nothing_and_says_so(finished_release: Path, tmp_path: Path) -> None:
    hub = FolderHub(f"file://{tmp_path}/hub")
    hub.publish(open_bundle(finished_release), NAME)
    before = snapshot(tmp_path / "hub")

    again = hub.publish(open_bundle(finished_release), NAME)

    assert again.already_there
    assert snapshot(tmp_path / "hub") == before


def test_another_release_under_a_published_version_is_refused(
    finished_release: Path, release: Path, tmp_path: Path
) -> None:
    hub = FolderHub(f"file://{tmp_path}/hub")
    hub.publish(open_bundle(finished_release), NAME)
    before = snapshot(tmp_path / "hub")

    with pytest.raises(AlreadyPublishedError, match="identity"):
        hub.publish(open_bundle(another_identity(release)), NAME)

    assert snapshot(tmp_path / "hub") == before


def _publish(bundle: Path, place: str, outcome: Path) -> None:
    try:
        there = FolderHub(place).publish(open_bundle(bundle), NAME).already_there
        outcome.write_text("already" if there else "won")
    except AlreadyPublishedError:
        outcome.write_text("refused")


def test_of_two_publishers_at_once_one_wins_and_the_other_is_told(
    finished_release: Path, release: Path, tmp_path: Path
) -> None:
    place = f"file://{tmp_path}/hub"
    bundles = [finished_release, another_identity(release)]
    processes = [
        multiprocessing.get_context("fork").Process(target=_publish, args=(bundle, place, tmp_path / f"outcome{index}"))
        for index, bundle in enumerate(bundles)
    ]

    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert sorted((tmp_path / f"outcome{index}").read_text() for index in range(2)) == ["refused", "won"]
    assert [path.name for path in (tmp_path / "hub" / NAME).iterdir()] == ["1.0.0"]


def test_a_crash_before_the_last_step_leaves_no_release(
    finished_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FolderHub(f"file://{tmp_path}/hub")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(HubError, match="No space left"):
        hub.publish(open_bundle(finished_release), NAME)

    assert hub.versions(NAME) == []
    assert list((tmp_path / "hub" / NAME).iterdir()) == []


def test_versions_are_listed_newest_first(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0", "1.10.0-rc.1", "0.1.0", ".2.0.0.part"):
        (tmp_path / NAME / version).mkdir(parents=True)

    assert FolderHub(f"file://{tmp_path}").versions(NAME) == ["1.10.0", "1.10.0-rc.1", "1.9.0", "0.1.0"]


def test_a_missing_version_is_told_with_those_that_exist(finished_release: Path, tmp_path: Path) -> None:
    hub = FolderHub(f"file://{tmp_path}/hub")
    hub.publish(open_bundle(finished_release), NAME)

    with pytest.raises(HubError, match=r"found versions: 1\.0\.0"):
        download(Address(place=hub.place, name=NAME, version="2.0.0"), tmp_path / "copy")

    assert not (tmp_path / "copy").exists()


def test_the_fingerprint_follows_every_byte(finished_release: Path, tmp_path: Path) -> None:
    hub = FolderHub(f"file://{tmp_path}/hub")
    hub.publish(open_bundle(finished_release), NAME)
    before = hub.fingerprint(NAME, "1.0.0")

    (tmp_path / "hub" / NAME / "1.0.0" / "config.json").write_text("{}")

    assert before
    assert hub.fingerprint(NAME, "1.0.0") not in ("", before)
    assert hub.fingerprint(NAME, "3.0.0") == ""


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "", "a\\b", "a\n"])
def test_names_that_are_paths_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(HubError, match="plain name"):
        FolderHub(f"file://{tmp_path}").versions(name)


@pytest.mark.parametrize(
    ("text", "place", "name", "version"),
    [
        ("file:///hub/net@1.0.0", "file:///hub", "net", "1.0.0"),
        ("file:///hub/net", "file:///hub", "net", None),
        ("hf://org/net@2.0.0", "hf://org", "net", "2.0.0"),
        ("hf://org/net@v2.0.0", "hf://org", "net", "2.0.0"),
        ("hf+https://hub.example.com/org/net@v2.0.0-rc.1", "hf+https://hub.example.com/org", "net", "2.0.0-rc.1"),
        ("file:///hub/net@vector", "file:///hub", "net", "vector"),
    ],
)
def test_addresses_are_taken_apart(text: str, place: str, name: str, version: str | None) -> None:
    assert Address.parse(text) == Address(place=place, name=name, version=version)


@pytest.mark.parametrize("text", ["net", "/hub/net", "file:///hub/", "file:///hub/net@", "hf://net", ""])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected an address"):
        Address.parse(text)


def test_a_place_nobody_speaks_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a place"):
        connect("ftp://somewhere")
