"""The long set runs again exactly when code that it reaches has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import code_digest as code
from tests.support.long_set import digests, due

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = "tests/flows/test_cluster.py"


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Source files that read as if they had been edited."""
    files: list[Path] = []
    read = code._read_source

    def edited(file: Path) -> tuple[str, tuple[str, ...]]:
        digest, names = read(file)
        return digest + "edited" if file in files else digest, names

    monkeypatch.setattr(code, "_read_source", edited)
    monkeypatch.setattr(code, "code_digest", code.code_digest.__wrapped__)
    monkeypatch.setattr("tests.support.long_set.code_digest", code.code_digest)
    return files


def test_what_passed_with_the_same_code_is_not_due_and_all_else_is() -> None:
    assert due({"same": "1", "edited": "2", "new": "3"}, {"same": "1", "edited": "1", "gone": "4"}) == ["edited", "new"]


@pytest.mark.slow
def test_files_of_the_long_set_are_due_when_code_that_they_reach_changes(changed: list[Path]) -> None:
    before = digests()
    assert CLUSTER in before
    changed.append(ROOT / "tests/support/cluster.py")
    assert due(digests(), before) == [CLUSTER]
    changed[:] = [ROOT / "aethernet/upscale/tiles.py"]  # only through the commands that they start
    assert due(digests(), before) == list(before)
    changed[:] = [ROOT / "benchmarks/hub.py"]
    assert due(digests(), before) == []
