"""What can build and run here is found out without importing anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from aethernet.engines.backends import (
    Backend,
    find_gpu,
    group_capabilities,
    installed_version,
    parse_capabilities,
    require_backend,
)
from aethernet.engines.builder import plan_builds
from aethernet.engines.profiles import PROFILE_PRESETS
from aethernet.errors import EngineError, MissingDependencyError, UsageError
from tests.support.engines import RTX_VERSION, install, no_gpu, plug_in_gpu

CARD = "NVIDIA GeForce RTX 4090, 8.9, 580.65.06, 24564, GPU-1234"
TILE = (PROFILE_PRESETS["tile"],)


def test_a_gpu_is_what_nvidia_smi_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plug_in_gpu(monkeypatch, tmp_path, CARD)

    gpu = find_gpu()

    assert gpu is not None
    assert (gpu.name, gpu.capability, gpu.driver) == ("NVIDIA GeForce RTX 4090", "8.9", "580.65.06")
    assert gpu.memory == 24564 * 2**20
    assert gpu.uuid == "GPU-1234"
    assert "uuid" not in gpu.model_dump()


@pytest.mark.parametrize("told", ["", "No devices were found", "a, b, c, d, e"])
def test_words_that_describe_no_gpu_mean_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str) -> None:
    plug_in_gpu(monkeypatch, tmp_path, told)

    assert find_gpu() is None


def test_a_hidden_gpu_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plug_in_gpu(monkeypatch, tmp_path, CARD)
    no_gpu(monkeypatch)

    assert find_gpu() is None


def test_a_missing_backend_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aethernet.engines.backends.installed_version", lambda backend: None)

    with pytest.raises(MissingDependencyError, match="tensorrt_rtx") as raised:
        require_backend(Backend.TENSORRT_RTX, None)
    assert "aethernet-sr[tensorrt-rtx]" in raised.value.hint


def test_tensorrt_needs_a_gpu_and_a_version_that_builds_strongly_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path / "old", "tensorrt", "10.9.0")
    with pytest.raises(EngineError, match=r"TensorRT 10\.12 or newer.*found 10\.9\.0"):
        plan_builds(Backend.TENSORRT, TILE)

    install(monkeypatch, tmp_path / "new", "tensorrt", "11.2.0")
    no_gpu(monkeypatch)
    with pytest.raises(EngineError, match="expected an NVIDIA GPU"):
        plan_builds(Backend.TENSORRT, TILE)


def test_tensorrt_builds_for_the_card_that_is_there_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path / "packages", "tensorrt", "11.2.0")
    plug_in_gpu(monkeypatch, tmp_path / "bin", CARD)

    (config,) = plan_builds(Backend.TENSORRT, TILE)

    assert config.capabilities is None
    assert config.gpu is not None
    assert config.gpu.capability == "8.9"
    assert config.version == installed_version(Backend.TENSORRT) == "11.2.0"
    with pytest.raises(EngineError, match=r"the card it runs on \(8\.9\), found 8\.6"):
        plan_builds(Backend.TENSORRT, TILE, capabilities=("8.6",))


def test_turing_has_engines_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path / "packages", "tensorrt-rtx", RTX_VERSION)

    groups = [config.capabilities for config in plan_builds(Backend.TENSORRT_RTX, TILE)]

    assert groups == [("7.5",), ("8.0", "8.6", "8.9", "12.0", "12.1")]
    assert group_capabilities(("12.0", "8.9", "8.9")) == [("8.9", "12.0")]


def test_capabilities_are_read_in_both_spellings() -> None:
    assert parse_capabilities("7.5, sm89,SM_120") == ("7.5", "8.9", "12.0")
    for wrong in ("ada", "8", "8.9,", "sm8"):
        with pytest.raises(UsageError, match="compute capabilities"):
            parse_capabilities(wrong)
