"""An engine is found or built on the way to a video, and images are cut to what it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aethernet.engines.backends import Backend, Gpu
from aethernet.engines.identity import read_record
from aethernet.errors import EngineError, UpscaleError, UsageError
from aethernet.precision import Precision
from aethernet.release.bundle import open_bundle
from aethernet.runtimes.onnxruntime import OnnxRuntime
from aethernet.runtimes.protocol import ShapeLimits
from aethernet.upscale import Upscaler
from aethernet.upscale.choice import candidates
from aethernet.upscale.engines import engine_for, profile_for
from aethernet.upscale.tiles import TileSize
from tests.support.engines import needs_rtx, no_gpu

ADA = Gpu(name="NVIDIA GeForce RTX 4090", capability="8.9", driver="580.1", memory=24 * 2**30)
HOPPER = Gpu(name="NVIDIA H200", capability="9.0", driver="580.1", memory=140 * 2**30)
RTX = Backend.TENSORRT_RTX
Find = Callable[..., Path]


@pytest.fixture
def find(bundle: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Find:
    """:func:`engine_for` of the test release, building for a card that is not here; all tests share what was built."""
    needs_rtx()
    no_gpu(monkeypatch)
    release = open_bundle(bundle)
    cache = tmp_path_factory.getbasetemp() / "built-engines"

    def run(precision: Precision = Precision.FP32, *, gpu: Gpu = ADA, floor: int = 20, **options: object) -> Path:
        return engine_for(release, RTX, precision, floor=floor, gpu=gpu, cache=cache, **options)  # type: ignore[arg-type]

    return run


def test_an_engine_is_built_once_for_the_card_and_the_frames_of_the_video(find: Find) -> None:
    told: list[str] = []

    first = find(frame=(36, 64), on_message=told.append)
    said = len(told)
    second = find(frame=(36, 64), on_message=told.append)

    identity = read_record(first).identity
    assert identity.capabilities == ("8.9",)
    assert [(one.minimum, one.maximum) for one in identity.profiles] == [((1, 36, 64), (1, 36, 64))]
    assert "building a TensorRT-RTX engine" in told[0]
    assert ADA.name in told[0]
    assert second == first
    assert len(told) == said


def test_a_damaged_engine_is_built_again(find: Find) -> None:
    engine = find(frame=(36, 64))
    engine.write_bytes(b"damaged")

    again = find(frame=(36, 64))

    assert again == engine
    assert engine.stat().st_size == read_record(engine).identity.size


def test_frames_the_card_has_no_memory_for_are_cut_into_tiles(find: Find) -> None:
    small = ADA.model_copy(update={"memory": 2**29})

    engine = find(gpu=small, frame=(30_000, 30_000))

    assert read_record(engine).identity.profiles[0].name == "tile"


def test_cards_the_builder_does_not_know_are_named(find: Find) -> None:
    with pytest.raises(EngineError, match=r"H200 with 9\.0") as caught:
        find(gpu=HOPPER)

    assert "--runtime" in caught.value.hint


def test_a_precision_the_release_lacks_cannot_be_built(find: Find) -> None:
    with pytest.raises(UsageError, match="int8"):
        find(Precision.INT8)


def test_tiles_of_engines_leave_room_for_networks_that_see_far() -> None:
    assert profile_for(116, None).name == "tile"
    assert profile_for(784, None).maximum == (1, 1600, 1600)
    assert profile_for(784, (720, 1280)).maximum == (1, 720, 1280)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT in both kinds seems usable; nothing is run."""
    here = dict.fromkeys(("onnxruntime-cpu", "tensorrt", "tensorrt-rtx"), "")
    names = (
        "ncnn-cpu",
        "ncnn-vulkan",
        "onnxruntime-cuda",
        "onnxruntime-directml",
        "openvino-cpu",
        "pytorch-cpu",
        "pytorch-cuda",
    )
    monkeypatch.setattr(
        "aethernet.upscale.choice.runtimes_here", lambda: here | dict.fromkeys(names, "is not installed")
    )


@pytest.mark.usefixtures("with_gpu")
def test_engines_are_built_only_where_tensorrt_was_asked_for(bundle: Path) -> None:
    asked: list[tuple[str, Precision]] = []

    def engine(name: str, precision: Precision) -> Path:
        asked.append((name, precision))
        if name == "tensorrt-rtx":
            raise EngineError("it does not know this card")
        return bundle / "made.engine"

    release = open_bundle(bundle)
    assert [one.runtime for one in candidates(release, "auto", "auto", engine)] == ["onnxruntime-cpu"]
    assert not asked
    found = candidates(release, "tensorrt", "fp32", engine)

    assert asked == [("tensorrt", Precision.FP32), ("tensorrt-rtx", Precision.FP32)]
    assert [(one.runtime, one.path.name) for one in found] == [("tensorrt", "made.engine")]
    with pytest.raises(EngineError, match="does not know"):
        candidates(release, "tensorrt-rtx", "fp32", engine)


@pytest.mark.usefixtures("with_gpu")
def test_without_an_engine_the_cpu_is_taken_and_what_would_be_faster_is_said(bundle: Path) -> None:
    with Upscaler(bundle) as upscaler:
        told = upscaler.describe()

    assert told["runtime"] == "onnxruntime-cpu"
    assert "--runtime tensorrt builds an engine" in told["notes"][-1]


# --- tiles and the engine's profile ----------------------------------------------------------------------------------


class Bounded(OnnxRuntime):
    """Refuses what an engine of such a profile refuses."""

    limits = ShapeLimits(smallest=(1, 1), largest=(1, 1))

    def infer(self, image: np.ndarray) -> np.ndarray:
        for least, side, most in zip(self.limits.smallest, image.shape[2:], self.limits.largest, strict=True):
            if not least <= side <= most:
                raise EngineError(f"the profile does not take {image.shape}")
        return super().infer(image)


@pytest.fixture
def bounded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Upscaler]:
    """An upscaler whose runtime takes such sizes only."""

    def make(smallest: tuple[int, int], largest: tuple[int, int], **options: int) -> Upscaler:
        monkeypatch.setattr(Bounded, "limits", ShapeLimits(smallest=smallest, largest=largest))
        monkeypatch.setattr("aethernet.upscale.choice.open_runtime", lambda path, **_: Bounded(path, threads=1))
        return Upscaler(bundle, "fp32", "onnxruntime-cpu", **options)

    return make


@pytest.mark.parametrize("size", [(70, 91), (5, 7), (5, 200), (200, 5), (40, 48)], ids=str)
@pytest.mark.parametrize(
    ("smallest", "largest"), [((16, 16), (64, 64)), ((40, 48), (40, 48))], ids=["range", "one size"]
)
def test_images_are_cut_and_filled_up_to_what_the_engine_takes(
    bounded: Callable[..., Upscaler],
    upscaler: Upscaler,
    size: tuple[int, int],
    smallest: tuple[int, int],
    largest: tuple[int, int],
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)

    with bounded(smallest, largest) as engine:
        assert np.array_equal(engine.upscale(image), upscaler.upscale(image))


def test_an_engine_is_given_the_largest_it_takes_because_it_holds_the_memory_already(
    bounded: Callable[..., Upscaler],
) -> None:
    with bounded((360, 640), (360, 640), memory=2**20) as engine:
        fixed = TileSize(height=360, width=640, smallest=(360, 640))
        assert engine.tile_size(360, 640) == fixed
        assert engine.tile_size(720, 1280) == fixed


def test_an_engine_too_small_for_the_network_is_refused(bounded: Callable[..., Upscaler]) -> None:
    with bounded((16, 16), (18, 18)) as engine, pytest.raises(UpscaleError, match="at most 18x18") as caught:
        engine.upscale(np.zeros((50, 50, 3), np.uint8))

    assert "larger profile" in caught.value.hint
