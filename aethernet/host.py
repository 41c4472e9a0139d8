"""What machine and which tools: recorded beside every number, and part of every cache key."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

import aethernet

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
)


@cache
def toolchain() -> dict[str, str]:
    """Package -> version of everything that takes part in making a release."""
    versions = {"aethernet": aethernet.__version__, "python": platform.python_version()}
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
    """What a CI system says about the run; empty on a desk."""
    names = {
        "repository": "GITHUB_REPOSITORY",
        "commit": "GITHUB_SHA",
        "workflow": "GITHUB_WORKFLOW",
        "run": "GITHUB_RUN_ID",
    }
    return {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}
