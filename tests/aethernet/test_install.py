"""How aethernet is installed is said in one way, and never with the name of somebody else's package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aethernet import install
from aethernet.errors import MissingDependencyError

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ("*.py", "*.md", "*.jinja", "*.yml", "*.toml", "Makefile", "Dockerfile")
FOREIGN = re.compile(
    r"""pip\s+install\s+(?:-\S+\s+)*['"]?aethernet(?!-sr)(?![\w/.]) | (?<![\w/-])aethernet\[""",
    re.VERBOSE,
)
"""An install command, or a requirement with extras, that names the registry's ``aethernet``."""


def tracked_texts() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *TEXTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    # Released folders are kept as they were; this file holds the pattern itself.
    return [ROOT / name for name in listed if name and not name.startswith("tests/compat/schema")]


@pytest.mark.parametrize(
    "text",
    ["pip install aethernet", "pip install 'aethernet[video]'", "pip install -U aethernet", "needs aethernet[hub]"],
)
def test_the_pattern_finds_the_other_project(text: str) -> None:
    assert FOREIGN.search(text)


@pytest.mark.parametrize("text", ["pip install aethernet-sr", "pip install '.[hub]'", "aethernet-sr[hub] @ WHEEL"])
def test_the_pattern_lets_our_own_name_pass(text: str) -> None:
    assert not FOREIGN.search(text)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_no_text_installs_another_project() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked_texts()
        if path.is_file() and path != Path(__file__).resolve()
        for match in FOREIGN.finditer(path.read_text(encoding="utf-8"))
    ]

    assert found == []


def test_a_hint_names_the_place_this_copy_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "aethernet_sr-9.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: aethernet-sr\nVersion: 9\n", encoding="utf-8")
    place = {"url": "https://example.com/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    (record / "direct_url.json").write_text(json.dumps(place), encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    assert install.requirement("video") == "aethernet-sr[video] @ git+https://example.com/r.git@abc"


def test_without_a_record_the_hint_names_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    assert install.requirement("hub") == install.public_requirement("hub") == "aethernet-sr[hub] @ WHEEL"


def test_a_missing_library_is_no_place_of_this_machine_in_records() -> None:
    error = MissingDependencyError("av", "video")

    assert "aethernet-sr[video]" in error.hint
    assert error.reason == "this step needs the Python package 'av', which is not installed (extra 'video')"


@pytest.mark.parametrize(("other", "refused"), [("aethernet-0.3.0", True), ("aethernet_sr-0.1.0", False)])
def test_importing_notices_another_project_in_its_place(tmp_path: Path, other: str, refused: bool) -> None:
    package = tmp_path / "aethernet"
    package.mkdir()
    for name in ("__init__.py", "install.py", "version.py"):
        (package / name).write_bytes((ROOT / "aethernet" / name).read_bytes())
    (tmp_path / f"{other}.dist-info").mkdir()
    (tmp_path / f"{other}.dist-info" / "RECORD").write_text("aethernet/__init__.py,,\n", encoding="utf-8")

    done = subprocess.run([sys.executable, "-c", "import aethernet"], cwd=tmp_path, capture_output=True, text=True)

    assert (done.returncode != 0) is refused
    assert ("another project of the registry" in done.stderr) is refused
