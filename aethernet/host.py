"""What machine and which tools: recorded beside every number, and part of every cache key."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from aethernet.version import __version__

__all__ = ["describe_host", "describe_run", "package_version", "processor_features", "toolchain"]

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
    return versions | {package: package_version(package) or "not installed" for package in _PACKAGES}


def package_version(name: str) -> str | None:
    """Version of an installed distribution; None where there is none of that name."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


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
    lines = _processor_lines()
    if not lines:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


@cache
def _processor_lines() -> list[str]:
    """What Linux says about the processor; nothing elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX int8",
    "asimddp": "ARM dot product",
    "i8mm": "ARM i8mm",
}
"""Linux's flag -> name of instructions that decide how fast int8 and float kernels are."""


@cache
def processor_features() -> tuple[str, ...]:
    """Instructions of this processor that matter to inference, such as ``AVX2``; empty where nothing tells."""
    lines = (line for line in _processor_lines() if line.startswith(("flags", "Features")))
    flags = set(next(lines, "").partition(":")[2].split())
    return tuple(name for flag, name in _FEATURES.items() if flag in flags)


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
