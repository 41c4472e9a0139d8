"""The pages of all published releases, for one server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aethernet.errors import UsageError
from aethernet.hub.publishing import publish_release
from aethernet.release.bundle import open_bundle
from aethernet.web.pages import write_pages
from aethernet.web.site import SITE
from tests.support.hub_server import HubServer
from tests.support.releases import NAME, small_spec, snapshot
from tests.support.web_fixtures import package, runtime

__all__ = ["package", "runtime"]


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    """Three specs: of a release with a page, of one that is not published yet, and of one without a page."""
    for name, more in [(NAME, "[web]\nsamples = 1\n"), ("later_2x", "[web]\n"), ("plain_2x", "")]:
        path = small_spec(tmp_path / "specs" / name, name)
        path.write_text(path.read_text() + more)
    return tmp_path / "specs"


def test_every_published_release_with_a_page_is_there_and_the_others_are_not(
    finished_release: Path, specs: Path, runtime: Path, hub_server: HubServer, tmp_path: Path
) -> None:
    publish_release(finished_release, hub_server.place, NAME)
    told: list[str] = []

    made = write_pages(specs, hub_server.place, tmp_path / "pages", lambda: runtime, on_message=told.append)

    facts = json.loads((tmp_path / "pages" / NAME / SITE).read_text())
    listed = (tmp_path / "pages" / "index.html").read_text()
    assert made == [NAME]
    assert {path.name for path in (tmp_path / "pages").iterdir() if path.is_dir()} == {NAME}
    assert facts["identity"] == open_bundle(finished_release).manifest.identity
    assert len(facts["samples"]) == 2  # the check image, and one of the spec's
    assert f'<a href="{NAME}/">{NAME} 1.0.0</a>' in listed
    assert "later_2x" not in listed
    assert any(line.startswith("later_2x has no page: ") for line in told)


def test_older_pages_are_replaced_and_other_files_are_not_touched(specs: Path, runtime: Path, tmp_path: Path) -> None:
    for name in ("pages", "mine"):
        (tmp_path / name).mkdir()
    write_pages(specs, f"file://{tmp_path}/hub", tmp_path / "pages", lambda: runtime)
    (tmp_path / "pages" / "left_over.html").write_text("old")
    (tmp_path / "mine" / "letter.txt").write_text("dear")

    write_pages(specs, f"file://{tmp_path}/hub", tmp_path / "pages", lambda: runtime)
    with pytest.raises(UsageError, match="found other files; nothing was touched"):
        write_pages(specs, f"file://{tmp_path}/hub", tmp_path / "mine", lambda: runtime)

    assert not (tmp_path / "pages" / "left_over.html").exists()
    assert snapshot(tmp_path / "mine").keys() == {"letter.txt"}


def test_a_release_that_is_not_signed_as_it_must_be_gives_no_pages(
    finished_release: Path, specs: Path, runtime: Path, tmp_path: Path
) -> None:
    from aethernet.errors import BundleError
    from aethernet.release.signing import Trust
    from tests.support.keys import key_pair

    publish_release(finished_release, f"file://{tmp_path}/hub", NAME)
    trust = Trust(public_key=key_pair(tmp_path, "ours").public.read_text())

    with pytest.raises(BundleError, match="sign"):
        write_pages(specs, f"file://{tmp_path}/hub", tmp_path / "pages", lambda: runtime, trust=trust)

    assert not (tmp_path / "pages").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".pages")]
