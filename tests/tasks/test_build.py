"""Engines as a stage: what the key depends on, and what becomes of those that cannot be built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aethernet.artifact import Artifact
from aethernet.comparison import Limits
from aethernet.engines.backends import Backend, Gpu
from aethernet.engines.builder import BuildConfig
from aethernet.engines.profiles import parse_profile
from aethernet.errors import MissingDependencyError
from aethernet.precision import Precision
from aethernet.release.spec import EngineSpec
from aethernet.store.store import Store
from tasks.build import EngineOutcome, build, build_engine
from tasks.caching import RunContext, Stage, current_context, running
from tests.support.engines import needs_rtx, no_gpu, small_model

PROFILE = "1x32x32"
CONFIG = BuildConfig(
    backend=Backend.TENSORRT_RTX,
    version="1.7.1",
    profiles=(parse_profile(PROFILE),),
    capabilities=("8.9",),
    system="Linux",
)
MODEL = Artifact(name="net_fp16.onnx", sha256="0" * 64, size=1)


def key(model: Artifact = MODEL, **changes: object) -> str:
    return build_engine.key(build_engine.encode(model, CONFIG.model_copy(update=changes), "label"))


@pytest.mark.parametrize(
    "change",
    [
        {"backend": Backend.TENSORRT},
        {"version": "1.7.2"},
        {"profiles": (parse_profile("1x32x33"),)},
        {"capabilities": ("8.6",)},
        {"gpu": Gpu(name="L4", capability="8.9", driver="580", memory=1)},
        {"model": MODEL.__class__(name="net_fp16.onnx", sha256="1" * 64, size=1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_an_engine_is_tied_to_is_in_its_key(change: dict[str, object]) -> None:
    assert key() == key()
    assert key(**change) != key()


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[EngineOutcome]]:
    """Build engines of one small file without Prefect's engine and without its cache."""
    no_gpu(monkeypatch)
    store = Store(tmp_path / "store")

    def call(self: Stage, *args: object, **kwargs: object) -> object:
        return self.fn(current_context().store, *args, **kwargs)

    monkeypatch.setattr(Stage, "__call__", call)

    def run(precision: Precision = Precision.FP16, *, unsigned: bool = False, **spec: object) -> list[EngineOutcome]:
        model = store.put(small_model(tmp_path / f"net_{precision}.onnx", precision, unsigned=unsigned))
        with running(RunContext(store=store)):
            return build(
                EngineSpec.model_validate({"profiles": (PROFILE,), **spec}),
                {precision: model},
                MODEL,
                [],
                {precision: Limits()},
            )

    return run


def test_an_engine_comes_with_its_identity_and_is_not_said_to_have_run(make) -> None:
    needs_rtx()

    (engine,) = make(capabilities=("8.9",))

    assert engine.entry.status == "built, not executed"
    assert engine.entry.file == "engines/net_fp16_1x32x32_tensorrt_rtx_sm89.engine"
    assert engine.engine is not None
    assert engine.sidecar is not None
    assert engine.sidecar.name == f"{engine.engine.name}.json"
    assert engine.entry.record is not None
    assert engine.entry.record.identity.sha256 == engine.engine.sha256
    assert engine.trial is None


def test_one_that_cannot_be_built_is_skipped_with_the_reason(make) -> None:
    needs_rtx()

    (engine,) = make(Precision.INT8, unsigned=True)

    assert engine.entry.status == "skipped"
    assert engine.engine is None
    assert engine.entry.reason is not None
    assert "expected signed int8 with zero-point 0" in engine.entry.reason


def test_a_missing_backend_is_a_reason_that_names_the_extra(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aethernet.engines.backends.installed_version", lambda backend: None)

    (engine,) = make()

    assert engine.entry.reason == (
        "this step needs the Python package 'tensorrt_rtx', which is not installed (extra 'tensorrt-rtx')"
    )


def test_without_a_gpu_tensorrt_is_skipped_with_that_reason(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aethernet.engines.backends.installed_version", lambda backend: "11.2.0")

    (engine,) = make(backends=(Backend.TENSORRT,))

    assert engine.entry.reason is not None
    assert "expected an NVIDIA GPU" in engine.entry.reason


def test_an_engine_that_is_asked_for_must_be_built(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aethernet.engines.backends.installed_version", lambda backend: None)

    with pytest.raises(MissingDependencyError):
        make(precisions=(Precision.FP16,))
    assert make(precisions=(Precision.FP32,)) == []


def test_no_backend_means_no_engine(make) -> None:
    assert make(backends=()) == []
