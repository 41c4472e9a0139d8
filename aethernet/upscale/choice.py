"""Which released form to run, and with what: by what is installed, and by a short measurement."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aethernet.errors import AethernetError, UsageError
from aethernet.precision import Precision
from aethernet.runtimes import RUNTIMES, open_runtime, runtimes_here

if TYPE_CHECKING:
    from aethernet.bundle import Bundle
    from aethernet.manifest import FileEntry
    from aethernet.runtimes import Runtime

__all__ = ["Candidate", "Choice", "candidates", "choose"]

_SIDE, _RUNS = 96, 3
_WORTH = 1.2
"""Times faster than fp32 a form of lower precision has to be before it is chosen unasked."""

_AUTOMATIC = {
    # Never fp16 on a CPU: it is slower than fp32. No int8 where ONNX Runtime has no integer kernels for it.
    "onnxruntime-cpu": (Precision.FP32, Precision.INT8),
    "openvino-cpu": (Precision.FP32, Precision.INT8),
    "onnxruntime-cuda": (Precision.FP32, Precision.FP16),
    "onnxruntime-directml": (Precision.FP32, Precision.FP16),
    "pytorch-cuda": (Precision.FP32, Precision.FP16),
    "tensorrt": (Precision.FP16, Precision.INT8),
    "tensorrt-rtx": (Precision.FP16, Precision.INT8),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A form of the release and a way to run it."""

    runtime: str
    precision: Precision
    entry: FileEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen; ``runtime`` is open."""

    candidate: Candidate
    runtime: Runtime
    milliseconds: dict[str, float]
    """``runtime precision`` -> fastest of a few runs, where there was anything to choose from."""
    notes: tuple[str, ...]


def candidates(bundle: Bundle, runtime: str = "auto", precision: str = "auto") -> list[Candidate]:
    """Everything that can run here and fits what is asked for; never empty.

    Raises:
        UsageError: Unknown names, a form the release lacks, or a runtime this machine lacks.
    """
    here = runtimes_here()
    names = [name for name in RUNTIMES if runtime in ("auto", name, name.partition("-")[0])]
    if not names:
        raise UsageError(f"expected a runtime of auto, {', '.join(RUNTIMES)}, found '{runtime}'")
    if precision != "auto" and precision not in list(Precision):
        raise UsageError(f"expected a precision of auto, {', '.join(Precision)}, found '{precision}'")
    usable = [name for name in names if not here[name]]
    if not usable:
        raise UsageError(
            f"expected runtime {runtime}, found that it cannot be used here: "
            + "; ".join(dict.fromkeys(here[name] for name in names)),
            hint="--runtime auto takes what there is",
        )
    found = list(_fitting(bundle, usable, runtime, precision))
    if not found:
        released = ", ".join(form.precision for form in bundle.manifest.forms if form.status == "released")
        reasons = "".join(
            f"; {form.precision} was left out: {form.reason}"
            for form in bundle.manifest.forms
            if form.precision == precision and form.reason
        )
        raise UsageError(
            f"expected {precision} for runtime {runtime}, found a release with {released}{reasons}",
            hint="--precision auto takes what there is",
        )
    return found


def _fitting(bundle: Bundle, usable: list[str], runtime: str, precision: str) -> Iterator[Candidate]:
    on_gpu = [name for name in usable if not name.endswith("-cpu")]
    for name in on_gpu or usable:
        if runtime == "auto" and name not in _AUTOMATIC:
            continue  # PyTorch on a CPU: ONNX Runtime is always there, and faster
        wanted = _AUTOMATIC.get(name, (Precision.FP32,)) if precision == "auto" else (Precision(precision),)
        for one in wanted:
            yield from (Candidate(name, one, entry) for entry in _files(bundle, name, one))


def _files(bundle: Bundle, runtime: str, precision: Precision) -> list[FileEntry]:
    manifest = bundle.manifest
    if runtime.startswith("tensorrt"):
        # Several, for different cards; one that does not fit here is refused when it is opened.
        made = {
            one.file
            for one in manifest.engines
            if (one.backend.extra, one.precision) == (runtime, precision) and one.status != "skipped"
        }
        return [entry for entry in manifest.files if entry.path in made]
    if runtime.startswith("pytorch"):
        entry = manifest.file("weights", precision, ".safetensors")
    else:
        entry = manifest.file("onnx", precision, "_int8.onnx" if precision is Precision.INT8 else ".onnx")
    return [] if entry is None else [entry]


def choose(bundle: Bundle, runtime: str = "auto", precision: str = "auto", *, threads: int = 0) -> Choice:
    """Open the fastest fitting candidate; fp32 unless another precision is clearly faster.

    Raises:
        UsageError: As :func:`candidates`.
        AethernetError: The only candidate cannot be opened.
    """
    found = candidates(bundle, runtime, precision)
    if len(found) == 1:
        only = found[0]
        opened = open_runtime(bundle.path(only.entry), name=only.runtime, threads=threads).__enter__()
        return Choice(candidate=only, runtime=opened, milliseconds={}, notes=())
    notes = []
    raced: list[tuple[float, Candidate, Runtime]] = []
    for one in found:
        try:
            opened = open_runtime(bundle.path(one.entry), name=one.runtime, threads=threads).__enter__()
            raced.append((_milliseconds(opened, int(bundle.manifest.network.config["in_channels"])), one, opened))
        except AethernetError as error:
            notes.append(f"{one.runtime} {one.precision} was not taken: {error}")
    if not raced:
        raise UsageError(f"nothing that is installed can run this release: {'; '.join(notes)}")
    _, best, runtime_of_best = min(
        raced, key=lambda entry: entry[0] * (1 if entry[1].precision is Precision.FP32 else _WORTH)
    )
    for _, _, opened in raced:
        if opened is not runtime_of_best:
            opened.__exit__(None, None, None)
    told = {f"{one.runtime} {one.precision}": round(taken, 1) for taken, one, _ in raced}
    return Choice(candidate=best, runtime=runtime_of_best, milliseconds=told, notes=tuple(notes))


def _milliseconds(runtime: Runtime, channels: int) -> float:
    picture = np.random.default_rng(0).random((1, channels, _SIDE, _SIDE), dtype=np.float32)
    taken = []
    for _ in range(_RUNS + 1):
        start = time.perf_counter()
        runtime.infer(picture)
        taken.append((time.perf_counter() - start) * 1000)
    return min(taken[1:])  # the first one also sets up
