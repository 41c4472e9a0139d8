"""What is recorded about machine, tools and run."""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

import aethernet
from aethernet import host
from aethernet.host import describe_host, describe_run, toolchain


def test_every_tool_is_named_with_its_version() -> None:
    versions = toolchain()

    assert versions["aethernet"] == aethernet.__version__
    assert versions["python"] == platform.python_version()
    assert torch.__version__.startswith(versions["torch"])
    assert all(versions.values())


def test_host_names_neither_the_machine_nor_its_user() -> None:
    host = describe_host()

    assert set(host) == {"system", "machine", "processor", "cores"}
    assert int(host["cores"]) >= 1
    assert not {platform.node(), getpass.getuser()} & set(host.values())


@pytest.fixture
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GITHUB_")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("_no_ci")
def test_run_is_what_the_ci_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_SHA", "abc")
    monkeypatch.setenv("GITHUB_RUN_ID", "7")

    assert describe_run() == {"commit": "abc", "run": "7"}


@pytest.mark.usefixtures("_no_ci")
def test_on_a_desk_the_run_is_the_source_tree_s_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(tmp_path)]
    (tmp_path / "aethernet").mkdir()
    (tmp_path / "aethernet" / "file").write_text("1")
    monkeypatch.setattr(host, "__file__", str(tmp_path / "aethernet" / "host.py"))
    assert describe_run() == {}

    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    clean = describe_run()
    (tmp_path / "aethernet" / "file").write_text("2")
    changed = describe_run()

    assert set(clean) == {"commit"}
    assert len(clean["commit"]) == 40
    assert changed == {**clean, "uncommitted_changes": "yes"}
