"""What machine and which tools: recorded beside every number, and part of every cache key."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from aethernet.version import __version__

__all__ = ["describe_host", "describe_run", "toolchain"]

_PACKAGES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnx-ir",
    "onnxruntime",
    "polygraphy",
    "numpy",
    "scikit-image",
    "pillow",
    "safetensors",
    "spandrel",
)


@cache
def toolchain() -> dict[str, str]:
    """Package -> version of everything that takes part in making a release."""
    versions = {"aethernet": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


@cache
def describe_host() -> dict[str, str]:
    """System, processor and cores; nothing that names the machine or its user."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": str(os.cpu_count() or 1),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def describe_run() -> dict[str, str]:
    """What is known about the run: from the CI system where there is one, else the commit of the source tree."""
    names = {
        "server": "GITHUB_SERVER_URL",
        "repository": "GITHUB_REPOSITORY",
        "ref": "GITHUB_REF",
        "commit": "GITHUB_SHA",
        "workflow": "GITHUB_WORKFLOW_REF",
        "run": "GITHUB_RUN_ID",
        "attempt": "GITHUB_RUN_ATTEMPT",
    }
    told = {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}
    return told if "commit" in told else {**_source_commit(Path(__file__).parents[1]), **told}


def _source_commit(tree: Path) -> dict[str, str]:
    """Commit of a source tree, and whether something in it is not committed; nothing where it is none."""
    if not (tree / ".git").exists():
        return {}
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(tree), *command], capture_output=True, text=True, check=True, timeout=20
            ).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, **({"uncommitted_changes": "yes"} if changes else {})}
