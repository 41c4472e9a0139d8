"""What can build and run engines here: installed libraries, and the GPU if there is one."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from aethernet.errors import EngineError, MissingDependencyError, UsageError
from aethernet.host import package_version

__all__ = [
    "DEFAULT_CAPABILITIES",
    "TURING",
    "Backend",
    "Gpu",
    "find_gpu",
    "group_capabilities",
    "installed_version",
    "major_minor",
    "parse_capabilities",
    "require_backend",
]


class Backend(StrEnum):
    """A library that builds engines; the name is its Python module's."""

    TENSORRT_RTX = "tensorrt_rtx"
    TENSORRT = "tensorrt"

    @property
    def label(self) -> str:
        """As people write it."""
        return "TensorRT-RTX" if self is Backend.TENSORRT_RTX else "TensorRT"

    @property
    def extra(self) -> str:
        """The extra of this package that brings it, which is also the name of its own package."""
        return self.value.replace("_", "-")


DEFAULT_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Turing, Ampere, Ada and Blackwell: everything TensorRT-RTX 1.7 compiles for. It knows no Hopper."""

TURING = "7.5"
"""TensorRT-RTX puts one kernel graph into an engine, which the least of its targets decides: with Turing among them,
int8 layers compute in fp16 on every card. So Turing has engines of its own."""


class Gpu(BaseModel):
    """The GPU an engine was built or tried on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    capability: str = Field(pattern=r"^\d+\.\d+$", description="Compute capability, such as 8.9")
    driver: str
    memory: int = Field(ge=0, description="Bytes")
    uuid: str = Field(default="", exclude=True, description="Tells two cards of one kind apart; never written down")


def find_gpu() -> Gpu | None:
    """The first GPU this process may use, as ``nvidia-smi`` describes it, or None."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = None if visible is None else visible.split(",")[0].strip()
    if first in ("", "-1"):
        return None
    command = [
        "nvidia-smi",
        *([f"--id={first}"] if first else []),
        "--query-gpu=name,compute_cap,driver_version,memory.total,uuid",
        "--format=csv,noheader,nounits",
    ]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        name, capability, driver, mebibytes, uuid = (word.strip() for word in next(csv.reader(told.splitlines())))
        return Gpu(name=name, capability=capability, driver=driver, memory=int(mebibytes) * 2**20, uuid=uuid)
    except (OSError, subprocess.SubprocessError, StopIteration, ValueError):
        return None


def installed_version(backend: Backend) -> str | None:
    """Version of the backend's package, or None where it is not installed; nothing is imported."""
    return package_version(backend.extra)


def require_backend(backend: Backend, gpu: Gpu | None) -> str:
    """The version of a backend that can build here.

    Raises:
        MissingDependencyError: It is not installed.
        EngineError: It is too old, or needs a GPU and there is none.
    """
    version = installed_version(backend)
    if version is None:
        raise MissingDependencyError(backend.value, backend.extra)
    if backend is Backend.TENSORRT:
        if major_minor(version) < (10, 12):
            raise EngineError(
                f"expected TensorRT 10.12 or newer, which builds strongly typed, found {version}",
                hint="upgrade the package tensorrt",
            )
        if gpu is None:
            raise EngineError(
                "expected an NVIDIA GPU, because TensorRT tunes engines on the card they are for, found none",
                hint="build on a machine with a GPU, or use tensorrt_rtx, which needs none",
            )
    return version


def major_minor(version: str) -> tuple[int, int]:
    """The first two numbers of a version."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise EngineError(f"expected a version such as 10.12, found '{version}'")
    return int(found[1]), int(found[2])


def group_capabilities(capabilities: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Capabilities that share an engine: Turing, and all newer ones."""
    ordered = sorted(set(capabilities), key=major_minor)
    groups = ([one for one in ordered if one == TURING], [one for one in ordered if one != TURING])
    return [tuple(group) for group in groups if group]


def parse_capabilities(text: str) -> tuple[str, ...]:
    """``7.5,8.9`` or ``sm75,sm89`` as compute capabilities.

    Raises:
        UsageError: Not such a list.
    """
    found = []
    for word in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", word.lower())
        if match is None:
            raise UsageError(f"expected compute capabilities such as 7.5,8.9 or sm75,sm89, found '{word}'")
        found.append(f"{match[1]}.{match[2]}")
    return tuple(dict.fromkeys(found))
