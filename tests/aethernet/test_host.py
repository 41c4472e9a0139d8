"""What is recorded about machine, tools and run."""

from __future__ import annotations

import getpass
import platform

import pytest
import torch

import aethernet
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


def test_run_is_what_the_ci_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REPOSITORY", "SHA", "WORKFLOW", "RUN_ID"):
        monkeypatch.delenv(f"GITHUB_{name}", raising=False)
    assert describe_run() == {}

    monkeypatch.setenv("GITHUB_SHA", "abc")

    assert describe_run() == {"commit": "abc"}
