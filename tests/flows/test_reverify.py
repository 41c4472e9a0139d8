"""``python -m flows reverify``: one bad release is reported, and the others are looked at all the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aethernet.hub.connecting import connect
from aethernet.release.bundle import open_bundle
from tests.support.releases import NAME
from tests.support.workplace import CommandLine

pytestmark = pytest.mark.long


def test_broken_releases_are_told_and_do_not_keep_the_others_from_being_looked_at(
    release: Path, command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = (tmp_path / "hub").as_uri()
    connect(place).publish(open_bundle(release), "a_broken_one")
    connect(place).publish(open_bundle(release), NAME)
    shutil.rmtree(tmp_path / "hub" / "a_broken_one" / "1.0.0" / "images")
    monkeypatch.setenv("AETHERNET_REVERIFY_HUB", place)
    monkeypatch.setenv("AETHERNET_REVERIFY_PUBLIC_KEY", "")

    found = command_line(["reverify", "--issue-file", str(tmp_path / "issues" / "text.md"), "--json"])
    refused = command_line(["reverify", f"{place}/{NAME}", "--timeout", "1"])

    broken, good = json.loads(found.out)
    assert found.code == 1
    assert broken["address"] == f"{place}/a_broken_one@1.0.0"
    assert "images/" in broken["problems"][0]
    assert good["problems"] == []
    assert good["forms"]
    text = (tmp_path / "issues" / "text.md").read_text()
    assert text.startswith("1 of 2 published releases are not as they were promised")
    assert refused.code == 1
    assert "not done after 1 s" in refused.out
