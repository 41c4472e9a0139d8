"""Every form of a release side by side, each in a process of its own, interleaved in one run."""

from __future__ import annotations

import importlib.util
import os
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aethernet.benchmark.process import RuntimeLibrary, VariantProcess
from aethernet.benchmark.timing import take_turns
from aethernet.errors import BenchmarkError, UsageError
from aethernet.networks.config import FoldState
from aethernet.precision import Precision

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray
    from aethernet.release.bundle import Bundle
    from aethernet.release.manifest import FileEntry

__all__ = [
    "BenchmarkResult",
    "Candidate",
    "CandidateResult",
    "Floor",
    "available_threads",
    "entries_of",
    "run_benchmark",
    "third_party_candidate",
]

_IN_PYTORCH = {Precision.FP32: "torch-fused", Precision.INT8: "torch-int8"}
_LEAST_RUNS, _LONG_TURN = 3, 5.0
"""Runs that a median and a spread need; seconds of a turn after which one is told what is left."""
_CHECKPOINTS = (".ckpt", ".pt", ".pth", ".safetensors")
_LIBRARIES = {".onnx": RuntimeLibrary.ONNXRUNTIME, ".param": RuntimeLibrary.NCNN} | dict.fromkeys(
    _CHECKPOINTS, RuntimeLibrary.PYTORCH
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One form in the benchmark."""

    name: str
    """What tables and floors call it."""
    path: Path
    engine: RuntimeLibrary
    precision: Precision | None = None
    required: bool = False
    """Asked for by name: that it cannot run is an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateResult:
    """One form at one size."""

    name: str
    file: str
    precision: Precision | None
    runtime: str
    runs: int
    """Counted runs."""
    median_ms: float
    fastest_ms: float
    slowest_ms: float
    first_ms: float
    """The run before those that count, which prepares for this size."""
    megapixels_per_second: float
    """Of the input."""
    load_ms: float
    peak_memory_mb: float | None
    """Of the whole process, libraries included; 1 MB is 10^6 bytes."""
    network_memory_mb: float | None
    """The same less what the process held before it loaded the network."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in ((field, getattr(self, field)) for field in self.__dataclass_fields__)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """Results with their conditions."""

    sizes: tuple[tuple[tuple[int, ...], tuple[CandidateResult, ...]], ...]
    """N, C, H, W of the input -> results in the order of the entries."""
    skipped: tuple[tuple[str, str], ...]
    """Name -> why it did not run."""
    runs: int
    """Asked for; where time is short there were fewer."""
    threads: int
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """A ratio to be reached: ``faster`` must be at least ``times`` times as fast as ``slower``, at every size."""

    faster: str
    slower: str
    times: float

    @classmethod
    def parse(cls, text: str, names: Iterable[str]) -> Floor:
        """Read ``int8/fp32=1.5``.

        Raises:
            UsageError: Not of that form, or there is no such name.
        """
        found = re.fullmatch(r"(.+)/(.+)=(\d+(?:\.\d+)?)", text)
        if found is None:
            raise UsageError(f"expected a floor such as int8/fp32=1.5, found '{text}'")
        known = list(names)
        for name in found.groups()[:2]:
            if name not in known:
                raise UsageError(f"the floor '{text}' names '{name}'", hint=f"known are {', '.join(known)}")
        return cls(faster=found[1], slower=found[2], times=float(found[3]))

    def ratios(self, benchmark: BenchmarkResult) -> list[float | None]:
        """What was reached at each size; None where one of the two did not run."""
        reached: list[float | None] = []
        for _, results in benchmark.sizes:
            medians = {result.name: result.median_ms for result in results}
            both = self.faster in medians and self.slower in medians
            reached.append(medians[self.slower] / medians[self.faster] if both else None)
        return reached

    def holds(self, benchmark: BenchmarkResult) -> bool:
        """Whether it was reached everywhere."""
        return all(ratio is not None and ratio >= self.times for ratio in self.ratios(benchmark))


def available_threads() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def entries_of(bundle: Bundle) -> list[Candidate]:
    """Every form of a release that can run on a CPU, the training form in PyTorch first.

    fp16 weights are not among those for PyTorch, which would compute with them in float32, nor is TensorRT's file.
    """
    manifest = bundle.manifest
    found: list[tuple[int, Candidate]] = []

    def add(group: int, name: str, one: FileEntry, engine: RuntimeLibrary) -> None:
        found.append((group, Candidate(name=name, path=bundle.path(one), engine=engine, precision=one.precision)))

    for one in manifest.files:
        if one == manifest.reference:
            add(
                0,
                "torch-unfused" if one.form == FoldState.TRAINING.value else "torch-source",
                one,
                RuntimeLibrary.PYTORCH,
            )
        elif one.role == "weights" and one.path.endswith(".safetensors") and one.precision in _IN_PYTORCH:
            add(1, _IN_PYTORCH[one.precision], one, RuntimeLibrary.PYTORCH)
        elif one.role == "onnx" and one.precision is not None and not one.path.endswith("_trt.onnx"):
            add(2, one.precision.value, one, RuntimeLibrary.ONNXRUNTIME)
            if one.precision is not Precision.FP16:
                add(3, f"openvino-{one.precision.value}", one, RuntimeLibrary.OPENVINO)
        elif one.role == "ncnn" and one.path.endswith(".param"):
            add(4, "ncnn", one, RuntimeLibrary.NCNN)
    order = list(Precision)
    found.sort(key=lambda item: (item[0], order.index(item[1].precision or Precision.FP32)))
    return [entry for _, entry in found]


def third_party_candidate(path: Path, taken: Iterable[str]) -> Candidate:
    """Another file to put beside a release: ONNX, ncnn's, or a checkpoint of an AetherNet or of one spandrel knows.

    Args:
        path: The file.
        taken: Names that are in use.

    Raises:
        UsageError: There is no such file, or it is of another kind.
    """
    if not path.is_file():
        raise UsageError(f"expected a file at {path}, found nothing")
    if path.suffix not in _LIBRARIES:
        expected = "expected an ONNX file, an ncnn .param file or a checkpoint"
        raise UsageError(f"{expected}, found {path.name}", hint=", ".join(_CHECKPOINTS))
    engine = _LIBRARIES[path.suffix]
    used, name = set(taken), path.stem
    number = 2
    while name in used:
        name, number = f"{path.stem}-{number}", number + 1
    return Candidate(name=name, path=path, engine=engine, required=True)


def run_benchmark(
    entries: Sequence[Candidate],
    images: Sequence[ImageArray],
    *,
    runs: int = 7,
    threads: int = 0,
    seconds: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchmarkResult:
    """Run all entries in turn on each image.

    Where ``seconds`` are not enough, there are fewer runs, down to three; then the slowest are left out, never fp32 nor
    what is required.

    Args:
        entries: Loaded at once, each in its own process.
        images: [N, C, H, W] float32 in [0, 1], one per size.
        runs: Counted runs of each at each size, after one that is not counted.
        threads: CPU threads of each; 0: as many as there are processors for this process.
        seconds: For everything after loading, about: a run that has begun is not cut off; None takes as long as it
            takes.
        progress: Told what happens, in words.

    Raises:
        BenchmarkError: A required entry cannot run, or a form fails in the middle.
    """
    threads = threads or available_threads()
    skipped: list[tuple[str, str]] = []
    opened: list[tuple[Candidate, VariantProcess]] = []
    sizes = []
    with ExitStack() as stack:
        for entry in entries:
            progress(f"loading {entry.name}")
            with _unless_required(entry, skipped):
                opened.append((entry, stack.enter_context(_process_for(entry, threads))))
        place = {entry.name: index for index, entry in enumerate(entries)}
        deadline = None if seconds is None else time.monotonic() + seconds
        if deadline is not None:  # whoever may have to be left out comes last
            opened.sort(key=lambda one: (not _kept(one[0]), one[0].engine is RuntimeLibrary.PYTORCH))
        for number, image in enumerate(images):
            batch, _, height, width = image.shape
            label = f"{height}x{width}"
            progress(f"warming up at {label}")
            first: dict[str, float] = {}
            for entry, process in opened:
                if not _kept(entry) and deadline is not None and time.monotonic() > deadline:
                    skipped.append((entry.name, f"was left out at {label}: the time is over"))
                    continue
                with _unless_required(entry, skipped, at=f" at {label}"):
                    process.show(image)
                    first[entry.name] = process.run()
            ready = [(entry, process) for entry, process in opened if entry.name in first]
            ready.sort(key=lambda one: place[one[0].name])
            left = None if deadline is None else (deadline - time.monotonic()) / (len(images) - number)
            here, slow = _affordable([entry for entry, _ in ready], first, runs, left)
            for entry in slow:
                taken = f"one run takes {first[entry.name] / 1000:.1f} s, too long for {min(runs, _LEAST_RUNS)} of all"
                skipped.append((entry.name, f"was left out at {label}: {taken} in the time given"))
            ready = [(entry, process) for entry, process in ready if entry not in slow]
            turn = sum(first[entry.name] for entry, _ in ready) / 1000
            progress(f"{here} runs of each at {label}, about {here * turn:.0f} s")
            on_message = progress if turn > _LONG_TURN else _silent
            times = take_turns([process.run for _, process in ready], here, _remaining(on_message, here, turn))
            megapixels = batch * height * width / 1e6
            results = tuple(
                _result(entry, process, taken, first[entry.name], megapixels)
                for (entry, process), taken in zip(ready, times, strict=True)
            )
            sizes.append((image.shape, results))
    return BenchmarkResult(sizes=tuple(sizes), skipped=tuple(skipped), runs=runs, threads=threads, seconds=seconds)


def _kept(entry: Candidate) -> bool:
    """What everything else is compared with, and what was asked for, is never left out."""
    return entry.required or entry.name == Precision.FP32.value


def _affordable(
    entries: Sequence[Candidate], first: Mapping[str, float], runs: int, seconds: float | None
) -> tuple[int, list[Candidate]]:
    """How many runs of each fit into the time, and which entries are too slow for any."""
    kept: list[Candidate] = list(entries)
    slow: list[Candidate] = []
    while seconds is not None:
        turn = sum(first[entry.name] for entry in kept) / 1000
        fitting = min(runs, int(seconds / turn)) if turn else runs
        candidates = [entry for entry in kept if not _kept(entry)]
        if fitting >= min(runs, _LEAST_RUNS) or not candidates:
            return max(1, min(runs, _LEAST_RUNS), fitting), slow
        slowest = max(candidates, key=lambda entry: first[entry.name])
        kept.remove(slowest)
        slow.append(slowest)
    return runs, slow


def _remaining(on_message: Callable[[str], None], runs: int, turn: float) -> Callable[[int], None]:
    """What says after each turn how long the others will take."""

    def after(done: int) -> None:
        if done < runs:
            on_message(f"{done} of {runs} done, about {(runs - done) * turn:.0f} s left")

    return after


def _silent(_: str) -> None:
    pass


@contextmanager
def _unless_required(entry: Candidate, skipped: list[tuple[str, str]], at: str = "") -> Iterator[None]:
    """What fails inside is written down as skipped, unless somebody asked for it."""
    try:
        yield
    except BenchmarkError as error:
        if entry.required:
            raise BenchmarkError(f"{entry.path.name} cannot run here{at}: {error}") from error
        skipped.append((entry.name, f"cannot run here{at}: {error}"))


def _process_for(entry: Candidate, threads: int) -> VariantProcess:
    if (
        entry.engine in (RuntimeLibrary.OPENVINO, RuntimeLibrary.NCNN)
        and importlib.util.find_spec(entry.engine) is None
    ):
        raise BenchmarkError(f"{entry.engine} is not installed")
    return VariantProcess(entry.path, entry.engine, threads)


def _result(
    entry: Candidate, process: VariantProcess, times: list[float], first: float, megapixels: float
) -> CandidateResult:
    median, peak, before = statistics.median(times), process.peak_memory(), process.loaded.memory
    return CandidateResult(
        name=entry.name,
        file=entry.path.name,
        precision=entry.precision,
        runtime=process.loaded.runtime,
        runs=len(times),
        median_ms=median,
        fastest_ms=min(times),
        slowest_ms=max(times),
        first_ms=first,
        megapixels_per_second=megapixels / (median / 1000),
        load_ms=process.loaded.load_ms,
        peak_memory_mb=peak / 1e6 if peak is not None else None,
        network_memory_mb=(peak - before) / 1e6 if peak is not None and before is not None else None,
    )
