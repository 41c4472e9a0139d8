"""Engines are really built, without a GPU, from files of every precision, and say what they are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aethernet.artifact import file_digest
from aethernet.engines.backends import Backend, find_gpu
from aethernet.engines.builder import BuildConfig, Built, build_engine, plan_builds
from aethernet.engines.identity import check_engine
from aethernet.engines.process import run_worker
from aethernet.engines.profiles import parse_profile
from aethernet.errors import BuilderError, EngineError, UsageError
from aethernet.export import ExportConfig, export_fp32
from aethernet.precision import Precision
from aethernet.runtimes.opening import open_runtime
from aethernet.runtimes.tensorrt import EngineRuntime
from tests.support.engines import linear_model, needs_rtx, no_gpu, plug_in_gpu, small_model
from tests.support.networks import tiny_network

PROFILE = parse_profile("1x16x16:1x32x32:2x64x64")
PROFILES = (PROFILE, parse_profile("1x96x80"))
Build = Callable[..., Built]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_rtx()
    no_gpu(monkeypatch)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build once: ``built(precision, capability)``."""
    folder = tmp_path_factory.mktemp("engines")
    made: dict[tuple[object, ...], Built] = {}

    def build(precision: Precision, capability: str = "8.9") -> Built:
        if (precision, capability) not in made:
            source = small_model(folder / f"net_{precision}.onnx", precision)
            (config,) = plan_builds(Backend.TENSORRT_RTX, PROFILES, capabilities=(capability,))
            made[precision, capability] = build_engine(source, folder / f"{precision}{capability}.engine", config)
        return made[precision, capability]

    return build


def config() -> BuildConfig:
    return plan_builds(Backend.TENSORRT_RTX, (PROFILE,), capabilities=("8.9",))[0]


def test_int8_layers_stay_int8_in_the_network_and_in_the_engine(built: Build) -> None:
    record = built(Precision.INT8).record

    assert record.network.products == {"int8": 2}
    assert record.network.fp32_islands == record.findings == ()
    assert record.plan is not None
    assert record.plan.graphs == len(PROFILES)
    assert record.plan.products == {"int8": 2 * len(PROFILES)}


def test_on_turing_they_do_not_and_that_is_said(built: Build) -> None:
    record = built(Precision.INT8, "7.5").record

    assert record.identity.profiles[1].minimum == (1, 96, 79)
    assert "one pixel narrower" in record.identity.adjustments[0]
    assert record.network.products == {"int8": 2}
    assert record.findings == ("the network has 2 int8 layers, the built engine none (2 fp16)",)


def test_identity_names_all_the_engine_is_tied_to(built: Build) -> None:
    made = built(Precision.INT8)
    identity = made.record.identity

    assert (identity.backend, identity.capabilities) == (Backend.TENSORRT_RTX, ("8.9",))
    assert identity.precision is Precision.INT8
    assert identity.onnx_sha256 == file_digest(made.engine.parent / identity.onnx)
    assert (identity.sha256, identity.size) == (file_digest(made.engine), made.engine.stat().st_size)
    assert identity.flags == {"strongly_typed": True, "tf32": False}
    assert identity.profiles == PROFILES
    assert made.record.memory.keys() == {profile.name for profile in PROFILES}
    assert check_engine(made.engine).record == made.record


def test_an_engine_does_not_run_where_there_is_no_gpu(built: Build) -> None:
    runtime = open_runtime(built(Precision.INT8).engine)

    assert runtime.name == "tensorrt_rtx-gpu"
    with pytest.raises(EngineError, match="expected an NVIDIA GPU to run a TensorRT engine on"), runtime:
        pass


def test_a_gpu_that_is_said_to_be_there_and_is_not_ends_in_an_error_with_the_librarys_words(
    built: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as running an engine goes without a GPU: the worker starts, and the library finds none."""
    engine = built(Precision.INT8).engine
    if find_gpu() is not None:
        pytest.skip("there is a real GPU here")
    plug_in_gpu(monkeypatch, tmp_path / "bin", "NVIDIA L4, 8.9, 580.65.06, 23034, GPU-1")

    with pytest.raises(BuilderError, match="TensorRT-RTX could not load the engine") as raised, open_runtime(engine):
        pass
    assert "CUDA" in raised.value.log
    with pytest.raises(BuilderError, match="TensorRT-RTX refused"):
        EngineRuntime(engine).time((1, 3, 32, 32), runs=1)


def test_linear_layers_are_built_for_turing_as_convolutions(tmp_path: Path) -> None:
    source = linear_model(tmp_path / "net_fp32.onnx")
    turing = config().model_copy(update={"capabilities": ("7.5",)})

    record = build_engine(source, tmp_path / "turing.engine", turing).record

    assert record.identity.adjustments[0].startswith("1 matrix products as 1x1 convolutions")
    assert record.findings == ()
    assert record.identity.onnx_sha256 == file_digest(source)


def test_what_the_builder_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    source = small_model(tmp_path / "net.onnx")
    hopper = config().model_copy(update={"capabilities": ("9.0",)})

    with pytest.raises(
        BuilderError, match=r"capabilities that this version compiles for .*8\.9.*, found 9\.0"
    ) as raised:
        build_engine(source, tmp_path / "out" / "net.engine", hopper)

    assert raised.value.log is not None
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_what_cannot_be_is_refused_before_the_builder_starts(tmp_path: Path) -> None:
    source, unsigned = small_model(tmp_path / "a.onnx"), small_model(tmp_path / "b.onnx", Precision.INT8, unsigned=True)
    (tmp_path / "c.onnx").write_bytes(b"no")
    target = tmp_path / "x.engine"

    with pytest.raises(UsageError, match="fit into"):
        build_engine(source, target, config().model_copy(update={"memory": 1000}))
    with pytest.raises(EngineError, match=r"found the unsigned form in b\.onnx"):
        build_engine(unsigned, target, config())
    with pytest.raises(EngineError, match="expected an ONNX file"):
        build_engine(tmp_path / "c.onnx", target, config())
    assert not target.exists()


def test_a_build_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    source = small_model(tmp_path / "a.onnx")

    with pytest.raises(BuilderError, match=r"to end within 0\.05 s"):
        build_engine(source, tmp_path / "a.engine", config().model_copy(update={"timeout": 0.05}))
    assert not (tmp_path / "a.engine").exists()


SHIM = """
from tensorrt_rtx import *
__version__ = "{version}"
"""


@pytest.mark.parametrize("version", ["10.16.1", "11.2.0"])
def test_tensorrts_own_path_runs_through_the_same_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """TensorRT's library cannot be had here. Its sister stands in for the module: same classes, same builder."""
    (tmp_path / "modules" / "tensorrt").mkdir(parents=True)
    (tmp_path / "modules" / "tensorrt" / "__init__.py").write_text(SHIM.format(version=version))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder = tmp_path / "work"
    folder.mkdir()
    small_model(folder / "model.onnx", Precision.INT8)
    request = {
        "task": "build",
        "backend": "tensorrt",
        "onnx": "model.onnx",
        "engine": "made.engine",
        "precision": "int8",
        "channels": 3,
        "profiles": [PROFILE.model_dump(mode="json")],
        "capabilities": None,
        "gpu": False,
        "timing_cache": "timing.cache",
    }

    answer = run_worker(request, folder, timeout=60)

    assert answer["version"] == version
    assert answer["strongly_typed"]
    assert answer["network"]["products"] == {"int8": 2}
    assert (folder / "made.engine").stat().st_size > 10_000
    assert answer["plan"] is None  # only the inspector, on a GPU, could tell


@pytest.mark.gpu
def test_an_engine_computes_what_the_network_does_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aethernet.comparison.engines import try_engine
    from aethernet.comparison.gate import DEFAULT_LIMITS
    from aethernet.engines.backends import find_gpu, installed_version
    from aethernet.images.files import sample_pictures

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    gpu = find_gpu()
    backend = Backend.TENSORRT if installed_version(Backend.TENSORRT) else Backend.TENSORRT_RTX
    if gpu is None or (backend is Backend.TENSORRT_RTX and gpu.capability == "9.0"):
        pytest.skip("needs an NVIDIA GPU that an installed TensorRT or TensorRT-RTX has kernels for")
    network, source = tiny_network(), tmp_path / "net_fp32.onnx"
    export_fp32(network, source, ExportConfig(), {})
    (mine, *_) = plan_builds(backend, (PROFILE,))
    made = build_engine(source, tmp_path / "net.engine", mine)
    pictures = {path.stem: path for path in sample_pictures()}

    trial = try_engine(made.engine, "net.engine", network, pictures, 3, DEFAULT_LIMITS[Precision.FP32])

    assert trial.failures == ()
    assert trial.speeds[0].median_ms > 0


def test_edges_of_a_profile_are_among_the_cases() -> None:
    from aethernet.comparison.engines import edge_cases
    from aethernet.images.files import sample_pictures

    pictures = {path.stem: path for path in sample_pictures()}
    shapes = [(case.input.shape[0], *case.input.shape[2:]) for case in edge_cases([PROFILE], pictures, 3)]

    assert {PROFILE.minimum, PROFILE.optimum, PROFILE.maximum} <= set(shapes)
    assert all(PROFILE.holds(shape) for shape in shapes)
    assert len({case.name for case in edge_cases([PROFILE], pictures, 3)}) == len(shapes)
    assert (1, 1, 1) not in shapes


def test_importing_the_engine_package_loads_none_of_the_libraries() -> None:
    heavy = ("torch", "onnx", "polygraphy", "tensorrt_rtx")
    code = f"import sys, aethernet.engines; print([name for name in {heavy} if name in sys.modules])"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
