"""The README's promises that can be checked without running a release."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", ".github/CONTRIBUTING.md", ".github/RELEASING.md", "CHANGELOG.md"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")

    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)

    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))

    assert named
    assert named <= targets


def test_every_command_named_exists() -> None:
    from aethernet.cli.main import app

    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    named = set(re.findall(r"aethernet (info|[a-z]+) (?:[A-Za-z]*[./_][\w./]*|FILE)", README))

    assert {"info", "fuse", "export", "compare", "verify"} <= named
    assert named <= commands


def test_python_snippets_are_python() -> None:
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

    assert len(snippets) >= 3
    for snippet in snippets:
        ast.parse(snippet)
