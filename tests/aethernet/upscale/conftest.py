"""One small release for all tests of upscaling."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aethernet.upscale import Upscaler
from tests.support.upscaling import smoothing_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of a network whose answers are known."""
    return smoothing_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def upscaler(bundle: Path) -> Iterator[Upscaler]:
    """That release in ONNX Runtime."""
    with Upscaler(bundle, "fp32", "onnxruntime-cpu", threads=1) as opened:
        yield opened
