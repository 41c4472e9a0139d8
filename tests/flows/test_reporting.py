"""What Prefect's UI is given to show of a release."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from prefect.exceptions import PrefectException

from flows import reporting as _reporting
from flows.reporting import ProgressArtifact
from tasks.caching import StageEvent
from tests.support.releases import NAME
from tests.support.workplace import CommandLine, Workplace


def _ended(stage: str, kind: str = "ran") -> StageEvent:
    return StageEvent(stage=stage, label="", kind=kind)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """Every standing of the bar, without a wait between them."""
    found: list[tuple[float, str]] = []
    monkeypatch.setattr(_reporting, "create_progress_artifact", lambda done, key, doing: found.append((done, doing)))
    monkeypatch.setattr(
        _reporting, "update_progress_artifact", lambda artifact, done, doing: found.append((done, doing))
    )
    moments = iter(range(0, 1000, 2))
    monkeypatch.setattr(_reporting.time, "monotonic", lambda: next(moments))
    return found


def test_progress_goes_by_seconds_where_an_earlier_run_tells_them(shown: list[tuple[float, str]]) -> None:
    bar = ProgressArtifact("any", {"load": 1.0, "export": 9.0})

    bar(_ended("load", "started"))
    bar(_ended("load"))
    bar(_ended("export", "failed"))
    bar(_ended("export", "cached"))

    assert shown == [(0.0, "load"), (10.0, "load"), (10.0, "export"), (99.0, "export")]


def test_progress_goes_by_steps_where_nothing_is_known_and_ends_only_with_the_release(
    shown: list[tuple[float, str]],
) -> None:
    bar = ProgressArtifact("any", {})

    for number in range(50):
        bar(_ended(f"step{number}"))

    assert shown == sorted(shown, key=lambda one: one[0])
    assert 0 < shown[0][0] < 5
    assert shown[-1][0] == 99


def test_progress_that_cannot_be_shown_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise PrefectException("the server is away")

    monkeypatch.setattr(_reporting, "create_progress_artifact", away)
    bar = ProgressArtifact("any", {})

    bar(_ended("load"))
    bar.finish()

    assert bar.done == {"load"}


@pytest.mark.slow
def test_prefect_shows_table_picture_card_and_progress(workplace: Workplace, command_line: CommandLine) -> None:
    from prefect.artifacts import Artifact

    finished = command_line(workplace.release)

    assert finished.code == 0, finished.err
    key = NAME.replace("_", "-")
    kinds = ("comparison", "comparison-picture", "card", "progress")
    found = {kind: Artifact.get(f"{kind}-{key}") for kind in kinds}
    assert {kind: one and one.type for kind, one in found.items()} == {
        "comparison": "markdown",
        "comparison-picture": "image",
        "card": "markdown",
        "progress": "progress",
    }
    data = {kind: one.data for kind, one in found.items() if one is not None}
    assert data["progress"] == 100
    assert "| fp32" in str(data["comparison"])
    assert str(data["card"]).lstrip().startswith(f"# {NAME}")
    assert str(data["comparison-picture"]) in str(data["card"])
    assert _size(str(data["comparison-picture"])) == _size_of(workplace.bundle / "images" / "comparison.png")


def _size(address: str) -> tuple[int, int]:
    found = re.fullmatch(r"data:image/jpeg;base64,(.+)", address)
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
        return picture.size


def _size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size
