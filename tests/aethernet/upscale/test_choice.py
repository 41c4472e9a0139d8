"""Which runtime ``auto`` takes where Vulkan is: devices and times are simulated, the release is real."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aethernet.precision import Precision
from aethernet.release.bundle import Bundle, open_bundle
from aethernet.release.manifest import FileEntry
from aethernet.runtimes.ncnn import VulkanDevice
from aethernet.runtimes.opening import RUNTIMES
from aethernet.upscale.choice import candidates, choose

CARD, PROCESSOR_GRAPHICS, DRIVER = VulkanDevice(0, "card", 0), VulkanDevice(1, "graphics", 1), VulkanDevice(0, "cpu", 3)

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with these Vulkan devices on which these other runtimes can be used, besides ONNX Runtime's CPU."""

    def build(*devices: VulkanDevice, others: tuple[str, ...] = ()) -> None:
        usable = {"onnxruntime-cpu", "ncnn-cpu", *(["ncnn-vulkan"] if devices else []), *others}
        here = {name: "" if name in usable else "is not installed" for name in RUNTIMES}
        monkeypatch.setattr("aethernet.upscale.choice.runtimes_here", lambda: here)
        monkeypatch.setattr("aethernet.upscale.choice.vulkan_devices", lambda: list(devices))

    return build


@pytest.fixture(scope="module", params=[Precision.FP16, Precision.FP32])
def bundle(request: pytest.FixtureRequest, finished_release: Path) -> Bundle:
    """A release whose ncnn files hold their kernels in one or the other."""
    opened = open_bundle(finished_release)
    files = [entry for entry in opened.manifest.files if entry.role != "ncnn"]
    for suffix in (".param", ".bin"):
        files.append(
            FileEntry(
                path=f"a_ncnn{suffix}", sha256="0" * 64, size=1, role="ncnn", precision=request.param, form="fused"
            )
        )
    return dataclasses.replace(opened, manifest=opened.manifest.model_copy(update={"files": tuple(files)}))


def names(bundle: Bundle, runtime: str = "auto") -> list[str]:
    return [one.runtime for one in candidates(bundle, runtime)]


@pytest.mark.parametrize("device", [CARD, PROCESSOR_GRAPHICS])
def test_a_real_card_is_measured_beside_the_cpu(bundle: Bundle, machine: Machine, device: VulkanDevice) -> None:
    machine(device)
    assert names(bundle) == ["ncnn-vulkan", "onnxruntime-cpu"]
    assert names(bundle, "ncnn") == ["ncnn-vulkan"]


def test_a_driver_that_computes_on_the_cpu_is_taken_only_where_it_is_asked_for(
    bundle: Bundle, machine: Machine
) -> None:
    machine(DRIVER)
    assert names(bundle) == ["onnxruntime-cpu"]
    assert names(bundle, "ncnn") == ["ncnn-cpu"]
    assert names(bundle, "ncnn-vulkan") == ["ncnn-vulkan"]


def test_a_driver_beside_a_real_card_does_not_hide_it(bundle: Bundle, machine: Machine) -> None:
    machine(DRIVER, PROCESSOR_GRAPHICS)
    assert names(bundle) == ["ncnn-vulkan", "onnxruntime-cpu"]


@pytest.mark.parametrize("faster", ["onnxruntime-cuda", "onnxruntime-directml", "pytorch-cuda"])
def test_cuda_and_directml_go_first(bundle: Bundle, machine: Machine, faster: str) -> None:
    machine(CARD, others=(faster,))
    assert set(names(bundle)) == {faster}


@pytest.mark.parametrize(
    ("milliseconds", "wanted"),
    [
        ({"ncnn-vulkan": 1.0}, "ncnn-vulkan"),
        ({"ncnn-vulkan": 95.0}, "onnxruntime-cpu"),
        ({"ncnn-vulkan": 900.0}, "onnxruntime-cpu"),
    ],
)
def test_the_faster_of_the_two_is_taken_and_fp16_only_where_it_is_worth_it(
    bundle: Bundle, machine: Machine, monkeypatch: pytest.MonkeyPatch, milliseconds: dict[str, float], wanted: str
) -> None:
    class Opened:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> Opened:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def infer(self, image: np.ndarray) -> np.ndarray:
            return image

    machine(CARD)
    monkeypatch.setattr("aethernet.upscale.choice.open_runtime", lambda _, name, threads: Opened(name))
    monkeypatch.setattr(
        "aethernet.upscale.choice._milliseconds", lambda opened, _: milliseconds.get(opened.name, 100.0)
    )
    assert choose(bundle).candidate.runtime == wanted
