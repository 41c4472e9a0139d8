"""Which released form to run, and with what: by what is installed, and by a short measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aethernet.engines.backends import Backend
from aethernet.errors import AethernetError, EngineError, UsageError
from aethernet.precision import Precision
from aethernet.runtimes.ncnn import vulkan_devices
from aethernet.runtimes.opening import RUNTIMES, open_runtime, runtimes_here
from aethernet.upscale.engines import engine_for, engine_source, released_engines

if TYPE_CHECKING:
    from aethernet.release.bundle import Bundle
    from aethernet.runtimes.protocol import Runtime

__all__ = ["Candidate", "RuntimeChoice", "candidates", "choose"]

_SIDE, _RUNS = 96, 3
_WORTH = 1.2
"""Times faster than fp32 a form of lower precision has to be before it is chosen unasked."""

_AUTOMATIC = {
    # Never fp16 on a CPU: it is slower than fp32. No int8 where ONNX Runtime has no integer kernels for it.
    "onnxruntime-cpu": (Precision.FP32, Precision.INT8),
    "openvino-cpu": (Precision.FP32, Precision.INT8),
    "ncnn-vulkan": (Precision.FP16, Precision.FP32),  # how kernels are stored: a release has one of the two
    "onnxruntime-cuda": (Precision.FP32, Precision.FP16),
    "onnxruntime-directml": (Precision.FP32, Precision.FP16),
    "pytorch-cuda": (Precision.FP32, Precision.FP16),
    "tensorrt": (Precision.FP16, Precision.INT8),
    "tensorrt-rtx": (Precision.FP16, Precision.INT8),
}


_ASKED = {"ncnn-cpu": (Precision.FP16, Precision.FP32)}
"""What runtimes take that are used where they are asked for only; others take fp32."""

_BACKENDS = {"tensorrt": Backend.TENSORRT, "tensorrt-rtx": Backend.TENSORRT_RTX}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A form of the release and a way to run it."""

    runtime: str
    precision: Precision
    path: Path
    """A file of the release, or an engine built from one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeChoice:
    """What was chosen; ``runtime`` is open."""

    candidate: Candidate
    runtime: Runtime
    milliseconds: dict[str, float]
    """``runtime precision`` -> fastest of a few runs, where there was anything to choose from."""
    notes: tuple[str, ...]


Engine = Callable[[str, Precision], Path]
"""Runtime, precision -> an engine that fits this machine, built if need be."""


def candidates(
    bundle: Bundle,
    runtime: str = "auto",
    precision: str = "auto",
    engine: Engine | None = None,
    *,
    on_cpu: bool = False,
) -> list[Candidate]:
    """Everything that can run here and fits what is asked for; never empty.

    Args:
        bundle: The release.
        runtime: ``auto``, one of :data:`aethernet.runtimes.opening.RUNTIMES`, or its part before the dash.
        precision: ``auto`` or one of the precisions.
        engine: Asked where TensorRT was asked for by name; without it the release's own engines are all there are.
        on_cpu: Leave a GPU aside, which is otherwise all that ``auto`` looks at where something runs on one; Vulkan
            alone is measured beside the CPU.

    Raises:
        UsageError: Unknown names, a form the release lacks, or a runtime this machine lacks.
        EngineError: No engine could be built.
    """
    here = runtimes_here()
    names = [name for name in RUNTIMES if runtime in ("auto", name, name.partition("-")[0])]
    if not names:
        raise UsageError(f"expected a runtime of auto, {', '.join(RUNTIMES)}, found '{runtime}'")
    if precision != "auto" and precision not in list(Precision):
        raise UsageError(f"expected a precision of auto, {', '.join(Precision)}, found '{precision}'")
    usable = [name for name in names if not here[name] and (name.endswith("-cpu") or not on_cpu)]
    if not usable:
        raise UsageError(
            f"expected runtime {runtime}, found that it cannot be used here: "
            + "; ".join(dict.fromkeys(here[name] for name in names)),
            hint="--runtime auto takes what there is",
        )
    on_gpu = [name for name in usable if not name.endswith("-cpu")]
    # Where CUDA, DirectML or TensorRT is, that is faster; a driver that computes on the CPU is slower than all.
    unasked = "ncnn-vulkan" in on_gpu and runtime != "ncnn-vulkan"
    if unasked and (len(on_gpu) > 1 or all(device.software for device in vulkan_devices())):
        on_gpu.remove("ncnn-vulkan")
    on_processor = [name for name in usable if name.endswith("-cpu")]
    found = list(_fitting(bundle, on_gpu, runtime, precision, engine))
    if not found or (runtime == "auto" and on_gpu == ["ncnn-vulkan"]):  # some cards are slower than the CPU beside them
        found += _fitting(bundle, on_processor, runtime, precision, engine)
    if not found:
        released = ", ".join(form.precision for form in bundle.manifest.forms if form.status == "released")
        reasons = "".join(
            f"; {form.precision} was left out: {form.reason}"
            for form in bundle.manifest.forms
            if form.precision == precision and form.reason
        )
        wanted = "a form" if precision == "auto" else precision
        raise UsageError(
            f"expected {wanted} for runtime {runtime}, found a release with {released}{reasons}",
            hint="--precision auto and --runtime auto take what there is",
        )
    return found


def _fitting(
    bundle: Bundle, usable: list[str], runtime: str, precision: str, engine: Engine | None
) -> Iterator[Candidate]:
    built, failures = False, []
    for name in usable:
        if runtime == "auto" and name not in _AUTOMATIC:
            continue  # PyTorch on a CPU: ONNX Runtime is always there, and faster
        wanted = (_AUTOMATIC | _ASKED).get(name, (Precision.FP32,)) if precision == "auto" else (Precision(precision),)
        if name in _BACKENDS and runtime != "auto" and engine is not None:
            sources = [one for one in wanted if engine_source(bundle, one) is not None]
            if not sources:
                continue
            try:  # one precision is enough: a build may take minutes
                path = engine(name, sources[0])
            except EngineError as error:
                failures.append(error)
                continue
            built = True
            yield Candidate(name, sources[0], path)
        else:
            for one in wanted:
                yield from (Candidate(name, one, path) for path in _files(bundle, name, one))
    if failures and not built:
        raise failures[0]


def _files(bundle: Bundle, runtime: str, precision: Precision) -> list[Path]:
    if runtime in _BACKENDS:
        # Several, for different cards; one that does not fit here is refused when it is opened.
        return released_engines(bundle, _BACKENDS[runtime], precision)
    if runtime.startswith("pytorch"):
        entry = bundle.manifest.file("weights", precision, ".safetensors")
    elif runtime.startswith("ncnn"):
        entry = bundle.manifest.file("ncnn", precision, ".param")
    else:
        entry = bundle.manifest.file("onnx", precision, "_int8.onnx" if precision is Precision.INT8 else ".onnx")
    return [] if entry is None else [bundle.path(entry)]


def choose(
    bundle: Bundle,
    runtime: str = "auto",
    precision: str = "auto",
    *,
    threads: int = 0,
    floor: int = 1,
    frame: tuple[int, int] | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> RuntimeChoice:
    """Open the fastest fitting candidate; fp32 unless another precision is clearly faster.

    Args:
        bundle: The release.
        runtime: As :func:`candidates`.
        precision: As :func:`candidates`.
        threads: CPU threads; 0 lets the runtime choose.
        floor: As :func:`~aethernet.upscale.engines.engine_for`.
        frame: As :func:`~aethernet.upscale.engines.engine_for`.
        on_message: Called with a sentence when an engine is built.

    Raises:
        UsageError: As :func:`candidates`.
        AethernetError: The only candidate cannot be opened.
    """

    def engine(name: str, wanted: Precision) -> Path:
        return engine_for(bundle, _BACKENDS[name], wanted, floor=floor, frame=frame, on_message=on_message)

    notes: list[str] = []
    raced = _race(bundle, candidates(bundle, runtime, precision, engine), threads, notes, strict=runtime != "auto")
    if not raced and runtime == "auto":
        raced = _race(bundle, candidates(bundle, "auto", precision, on_cpu=True), threads, notes)
    if not raced:
        raise UsageError(f"nothing that is installed can run this release: {'; '.join(notes)}")
    _, best, runtime_of_best = min(raced, key=lambda entry: entry[0] * (1 if _exact(entry[1]) else _WORTH))
    for _, _, opened in raced:
        if opened is not runtime_of_best:
            opened.__exit__(None, None, None)
    told = {f"{one.runtime} {one.precision}": round(taken, 1) for taken, one, _ in raced if taken}
    here = runtimes_here()
    if runtime == "auto" and best.runtime not in _BACKENDS and any(not here[name] for name in _BACKENDS):
        notes.append("TensorRT is installed: --runtime tensorrt builds an engine for this card")
    return RuntimeChoice(candidate=best, runtime=runtime_of_best, milliseconds=told, notes=tuple(notes))


def _exact(one: Candidate) -> bool:
    """Whether it computes in float32; through Vulkan, ncnn adds up in fp16 whatever the kernels are stored in."""
    return one.precision is Precision.FP32 and one.runtime != "ncnn-vulkan"


def _race(
    bundle: Bundle, found: list[Candidate], threads: int, notes: list[str], *, strict: bool = False
) -> list[tuple[float, Candidate, Runtime]]:
    """Open and time candidates (0 where there is only one); ``notes`` are told which were not taken.

    Raises:
        AethernetError: ``strict``, and the only one cannot be opened.
    """
    raced: list[tuple[float, Candidate, Runtime]] = []
    channels = int(bundle.manifest.network.config["in_channels"])
    for one in found:
        try:
            opened = open_runtime(one.path, name=one.runtime, threads=threads).__enter__()
            raced.append((_milliseconds(opened, channels) if len(found) > 1 else 0.0, one, opened))
        except AethernetError as error:
            if strict and len(found) == 1:
                raise
            notes.append(f"{one.runtime} {one.precision} was not taken: {error}")
    return raced


def _milliseconds(runtime: Runtime, channels: int) -> float:
    sides = [_SIDE, _SIDE]
    if (limits := getattr(runtime, "limits", None)) is not None:
        bounds = zip(limits.smallest, limits.largest, strict=True)
        sides = [min(max(_SIDE, least), most) for least, most in bounds]
    image = np.random.default_rng(0).random((1, channels, *sides), dtype=np.float32)
    taken = []
    for _ in range(_RUNS + 1):
        start = time.perf_counter()
        runtime.infer(image)
        taken.append((time.perf_counter() - start) * 1000)
    return min(taken[1:])  # the first one also sets up
