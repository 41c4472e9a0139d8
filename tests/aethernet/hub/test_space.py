"""Static Spaces: the real client, over HTTP, against the loopback hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from aethernet.errors import ConflictError, UsageError
from aethernet.hub.space import publish_space
from tests.support.hub_server import Fault, HubServer
from tests.support.releases import snapshot

SPACE = "spaces:org/page"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "models").mkdir(parents=True)
    for name in ("README.md", "index.html", "site.json", "models/network.onnx"):
        (folder / name).write_text(f"---\nsdk: static\n---\n{name}")
    return folder


def test_a_space_holds_exactly_the_site_after_one_commit(site: Path, hub_server: HubServer) -> None:
    published = publish_space(site, hub_server.place, "page", marker="site.json")

    state = hub_server.state()
    assert published.address == f"{hub_server.endpoint}/spaces/org/page"
    assert not published.already_there
    assert state.keys() == {SPACE}
    assert state[SPACE]["main"] == snapshot(site)
    assert len(state[SPACE]["history"]) == 2


def test_publishing_it_again_changes_nothing(site: Path, hub_server: HubServer) -> None:
    publish_space(site, hub_server.place, "page", marker="site.json")
    before = hub_server.state()

    assert publish_space(site, hub_server.place, "page", marker="site.json").already_there
    assert hub_server.state() == before


def test_a_newer_site_replaces_the_older_one(site: Path, hub_server: HubServer) -> None:
    publish_space(site, hub_server.place, "page", marker="site.json")
    (site / "index.html").write_text("newer")
    (site / "models" / "network.onnx").unlink()

    publish_space(site, hub_server.place, "page", marker="site.json")

    assert hub_server.state()[SPACE]["main"] == snapshot(site)


def test_a_space_of_something_else_is_left_alone(site: Path, hub_server: HubServer) -> None:
    repository = hub_server.create(SPACE)
    repository.add("main", {"app.py": hub_server.put(b"print()")}, "mine")
    before = hub_server.state()

    with pytest.raises(ConflictError, match="found another one; nothing was touched"):
        publish_space(site, hub_server.place, "page", marker="site.json")

    assert hub_server.state() == before


def test_an_answer_that_got_lost_is_not_published_twice(site: Path, hub_server: HubServer) -> None:
    hub_server.faults.append(Fault(match="POST .*/commit/", kind="drop_after"))

    publish_space(site, hub_server.place, "page", marker="site.json")

    assert len(hub_server.state()[SPACE]["history"]) == 2
    assert hub_server.state()[SPACE]["main"] == snapshot(site)


def test_a_folder_has_no_spaces(site: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a place with Spaces"):
        publish_space(site, f"file://{tmp_path}/hub", "page", marker="site.json")
