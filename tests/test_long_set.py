"""The long set runs again exactly when code that it reaches has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from aethernet.artifact import file_digest
from tasks import code_digest as code
from tests.support.long_set import READ, RECORD, digests, due, passed

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


def test_only_files_of_which_every_test_passed_are_noted(tmp_path: Path) -> None:
    case = '<testcase classname="tests.{}" name="{}">{}</testcase>'
    cases = [case.format("test_a", 1, ""), case.format("test_b", 1, ""), case.format("test_b", 2, "<skipped/>")]
    (tmp_path / "results.xml").write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    assert passed([tmp_path / "results.xml"]) == {"tests/test_a.py"}


@pytest.mark.slow
def test_files_of_the_long_set_are_due_when_code_that_they_reach_changes(changed: list[Path]) -> None:
    before = digests()
    assert CLUSTER in before
    changed.append(ROOT / "tests/support/cluster.py")
    assert due(digests(), before) == [CLUSTER]
    changed[:] = [ROOT / "aethernet/upscale/tiles.py"]  # only through the commands that they start
    assert due(digests(), before) == list(before)
    changed[:] = [ROOT / "benchmarks/gpu.py"]  # a script, which its rehearsal starts
    assert "tests/benchmarks/test_gpu.py" in due(digests(), before)
    changed[:] = [ROOT / "benchmarks/hub.py"]
    assert due(digests(), before) == []


@pytest.mark.parametrize("test", READ)
def test_files_that_a_test_of_the_long_set_reads_are_there(test: str) -> None:
    assert (ROOT / test).is_file()
    for pattern in READ[test]:
        assert list(ROOT.glob(pattern)), pattern


def test_a_file_of_the_long_set_is_due_when_what_it_reads_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.long_set.code_digest", lambda *_, **__: "the same")
    before, digest = digests(), "tests.support.long_set.file_digest"
    monkeypatch.setattr(digest, lambda path: "edited" if path.name == "int8.md" else file_digest(path))

    assert due(digests(), before) == ["tests/test_readme.py"]


def test_the_record_is_no_part_of_what_it_records() -> None:
    # A package counts with its data files: written into one, the record would make everything due at once.
    assert not any(RECORD.is_relative_to(ROOT / package) for package in ("aethernet", "flows", "tasks", "tests"))
