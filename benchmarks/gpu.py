"""Everything aethernet does on an NVIDIA card, measured and compared within a few minutes.

``python benchmarks/gpu.py --minutes 6 --json FILE`` needs a release (``--bundle``, made by ``make release``), a card
and PyTorch; whatever else is missing is left out and the reason is written down. Nothing is fetched. ``FILE`` is
renewed after every figure, so a run that is cut off keeps what it had.

Each part is a process of its own, because an error of CUDA stays with its process, and a hang must not take the rest
along. The parts, the most telling first:

- ``pytorch``: training form and fused form in fp32, fused in fp16, in both memory layouts: milliseconds by CUDA events
  with data on the card, peak memory, and the gate's comparison with the training form on the CPU;
- ``onnxruntime``: the released files in fp32, fp16 and int8 with the CUDA provider: the same;
- ``faults``: tiles that overflow in fp16 are repeated in fp32, and tiles that memory runs out for are halved;
- ``upscale RUNTIME``: the command, with an image and a video;
- ``compile``: the fused forms through ``torch.compile``: the same, and how long compiling took;
- ``tensorrt``, ``tensorrt-rtx``: engines built, compared and timed.

``--rehearse`` runs the same lines without a card, on a stand-in that keeps the contract of the CUDA calls
(``cuda_standin``). Its figures say nothing about a card; the report says so.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

Shape = tuple[int, int, int, int]
SHAPES: tuple[Shape, ...] = ((1, 3, 256, 256), (1, 3, 540, 960), (1, 3, 1080, 1920))
"""N, C, H, W of the timed inputs."""
REHEARSED: tuple[Shape, ...] = ((1, 3, 24, 32),)
WARM_UP, RUNS, SECONDS_EACH = 5, 30, 2.0
"""Runs before and while timing, and the seconds after which fewer have to do."""
STOOD_IN_FOR = ("pytorch-cuda", "onnxruntime-cuda")
"""Runtimes that a rehearsal has something for."""
PACKAGES = (
    "torch", "triton", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "polygraphy", "ncnn",
    "cuda-bindings", "numpy", "spandrel", "av",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """One process."""

    name: str
    least: float
    """Seconds that must be left for it to be worth starting."""
    most: float
    """Seconds after which it is ended on a card."""

    def allowed(self, left: float, *, rehearsal: bool) -> float:
        """Seconds after which it is ended where ``left`` are: the stand-in computes on processors, often busy ones."""
        return left if rehearsal else min(self.most, left)


PARTS = (
    Part("pytorch", 20, 100),
    Part("onnxruntime", 20, 100),
    Part("faults", 15, 60),
    Part("upscale pytorch-cuda", 15, 60),
    Part("upscale onnxruntime-cuda", 15, 60),
    Part("upscale ncnn-vulkan", 15, 60),
    Part("compile", 45, 150),
    Part("tensorrt", 60, 240),
    Part("tensorrt-rtx", 30, 120),
    Part("upscale tensorrt", 30, 90),
    Part("upscale tensorrt-rtx", 30, 90),
)


class Missing(Exception):  # noqa: N818 (not an error: a part is left out)
    """What a part needs and this machine lacks."""


# --- the parent: order, time, report ---------------------------------------------------------------------------------


class Report:
    """A JSON file that is whole at every moment."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content
        content["results"] = []

    def add(self, results: list[dict[str, Any]]) -> None:
        """Take results in and write the file."""
        self.content["results"].extend(results)
        for one in results:
            print(_line(one), flush=True)
        self.write()

    def write(self) -> None:
        """Write the file in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        made = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        made.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")
        made.replace(self.path)


def _line(result: dict[str, Any]) -> str:
    words = [f"{result['part']}: {result.get('what', '')} {result['status']}"]
    words += [f"{timed['shape']} {timed['median_ms']} ms" for timed in result.get("timings", ())]
    if "gate" in result:
        words.append(f"gate: {'; '.join(result['gate']['failures']) or 'passes'}")
    if "reason" in result:
        words.append(result["reason"])
    return ", ".join(word.strip() for word in words)


def machine() -> dict[str, Any]:
    """The card, the driver and what is installed; nothing is imported that could start the card."""
    from aethernet.engines.backends import find_gpu

    gpu = find_gpu()
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "card": None if gpu is None else gpu.model_dump(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "packages": versions,
    }


def follow(process: subprocess.Popen[bytes], lines: Path, report: Report, seconds: float) -> str:
    """Wait for a part and take its results in as they come; why it ended badly, or an empty text."""
    end, read = time.monotonic() + seconds, 0

    def take() -> int:
        content = lines.read_bytes() if lines.exists() else b""
        whole = content[read : content.rfind(b"\n") + 1]
        if whole:
            report.add([json.loads(line) for line in whole.splitlines()])
        return read + len(whole)

    while process.poll() is None and time.monotonic() < end:
        read = take()
        time.sleep(0.2)
    late = process.poll() is None
    if late:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    code = process.wait()
    take()
    if late:
        return f"was ended after {seconds:.0f} s"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}" if code else ""


def orchestrate(options: argparse.Namespace) -> int:
    """Run every part that there is time for; 1 where something failed."""
    begun = time.monotonic()
    if options.rehearse:
        import cuda_standin

        cuda_standin.install()
    report = Report(options.json, {"rehearsal": options.rehearse, "minutes": options.minutes, **machine()})
    report.write()
    if report.content["card"] is None:
        report.add([{"part": "card", "status": "skipped", "reason": "no NVIDIA card: nvidia-smi tells of none"}])
        return 0
    # The stand-in's small inputs gain nothing by threads, and lose to waiting for them on a busy machine.
    environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if options.rehearse else {})}
    with tempfile.TemporaryDirectory(prefix="aethernet-gpu-") as folder:
        for part in PARTS:
            if options.only and part.name not in options.only:
                continue
            left = 60 * options.minutes - (time.monotonic() - begun)
            if left < part.least:
                reason = f"{left:.0f} s were left, it needs {part.least:.0f}"
                report.add([{"part": part.name, "status": "skipped", "reason": reason}])
                continue
            lines, log = Path(folder) / "lines.jsonl", Path(folder) / "log"
            lines.unlink(missing_ok=True)
            command = [sys.executable, __file__, "--part", part.name, "--lines", str(lines), "--folder", folder]
            command += ["--bundle", str(options.bundle), "--json", str(options.json)]
            command += ["--video", str(options.video)] if options.video else []
            command += ["--image", str(options.image)] if options.image else []
            command += ["--rehearse"] if options.rehearse else []
            start = time.monotonic()
            with open(log, "wb") as words:
                process = subprocess.Popen(command, stdout=words, stderr=words, start_new_session=True, env=environment)
                ended = follow(process, lines, report, part.allowed(left, rehearsal=options.rehearse))
            if ended:
                said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
                report.add([{"part": part.name, "status": "failed", "reason": ended, "log": said}])
            report.content.setdefault("seconds", {})[part.name] = round(time.monotonic() - start, 1)
            report.write()
    report.content["seconds"]["all"] = round(time.monotonic() - begun, 1)
    report.write()
    return int(any(one["status"] == "failed" for one in report.content["results"]))


# --- the children ----------------------------------------------------------------------------------------------------


class Work:
    """What a part is given, and where it tells its results."""

    def __init__(self, options: argparse.Namespace) -> None:
        from aethernet.release.bundle import open_bundle

        self.part: str = options.part
        self.rehearsal: bool = options.rehearse
        self.folder: Path = options.folder
        self.video: Path | None = options.video
        self.image: Path | None = options.image
        self.bundle = open_bundle(options.bundle)
        self.shapes = REHEARSED if options.rehearse else SHAPES
        self._lines: Path = options.lines

    def record(self, what: str, status: str = "measured", **figures: Any) -> None:
        """One result, at once."""
        with open(self._lines, "a", encoding="utf-8") as file:
            file.write(json.dumps({"part": self.part, "what": what, "status": status, **figures}) + "\n")

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Nothing that goes wrong with one form keeps the next from being measured."""
        try:
            yield
        except Missing as lack:
            self.record(what, "skipped", reason=str(lack))
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            self.record(what, "failed", reason=f"{type(error).__name__}: {error} ({place})"[:600])

    def file(self, role: str, precision: Any, suffix: str) -> Path:
        """A file of the release."""
        entry = self.bundle.manifest.file(role, precision, suffix)
        if entry is None:
            raise Missing(f"the release has no {precision} as {role}")
        path: Path = self.bundle.path(entry)
        return path

    def reference(self) -> Any:
        """The training form."""
        from aethernet.checkpoint import load

        entry = self.bundle.manifest.reference
        if entry is None:
            raise Missing("the release has no training form to compare with")
        return load(self.bundle.path(entry)).model.eval()

    def cases(self) -> tuple[list[Any], dict[str, Any]]:
        """The gate's inputs, and what the training form makes of them on the CPU (computed once for all parts)."""
        import numpy as np

        from aethernet.comparison.cases import build_cases
        from aethernet.comparison.compare import outputs_of
        from aethernet.runtimes.pytorch import TorchRuntime

        images = self.images()
        cases = build_cases(images, self.bundle.manifest.network.config["in_channels"])
        if self.rehearsal:
            cases = [case for case in cases if max(case.input.shape) <= 64]
        kept = self.folder / "reference.npz"
        if not kept.exists():
            outputs = outputs_of(TorchRuntime(self.reference()), cases)
            np.savez(
                kept.with_suffix(".part.npz"),
                **{f"case{index}": outputs[case.name] for index, case in enumerate(cases)},
            )
            kept.with_suffix(".part.npz").replace(kept)
        with np.load(kept) as stored:
            return cases, {case.name: stored[f"case{index}"] for index, case in enumerate(cases)}

    def images(self) -> dict[str, Path]:
        """Low-resolution images: the release's own, or the library's samples."""
        from aethernet.images.files import list_images, sample_images

        own = self.bundle.root / "images" / "lr"
        found = list_images(own) if own.is_dir() else sample_images()
        return {path.stem: path for path in found[:2]}

    def compare(self, runtime: Any, precision: Any, file: str) -> dict[str, Any]:
        """The gate's comparison of one form: the worst of every measure, and the limits it misses."""
        from aethernet.comparison.compare import compare_form
        from aethernet.comparison.gate import DEFAULT_LIMITS, failures_of
        from aethernet.comparison.measurement import VariantId

        cases, reference = self.cases()
        form = VariantId(precision=precision, file=file, runtime=runtime.name)
        measurements, _ = compare_form(form, runtime, reference, cases)
        limits = self.bundle.manifest.limits.get(precision, DEFAULT_LIMITS[precision])
        failures = [f"{one.case}: {failure}" for one in measurements for failure in failures_of(one, limits)]
        return {
            "cases": len(measurements),
            "largest_difference": max((one.max_abs for one in measurements if one.max_abs is not None), default=None),
            "least_psnr": min((one.psnr for one in measurements if one.psnr is not None), default=None),
            "failures": failures,
        }


def timed(torch: Any, run: Callable[[], Any], shape: Shape) -> dict[str, Any]:
    """Milliseconds of one run by CUDA events on the current stream, and the peak of PyTorch's memory."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP):
        run()
    torch.cuda.synchronize()
    stream, times, end = torch.cuda.current_stream(), [], time.monotonic() + SECONDS_EACH
    while len(times) < RUNS and (len(times) < 3 or time.monotonic() < end):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record(stream)
        run()
        last.record(stream)
        last.synchronize()
        times.append(first.elapsed_time(last))
    return {
        "shape": "x".join(map(str, shape)),
        "median_ms": round(statistics.median(times), 3),
        "fastest_ms": round(min(times), 3),
        "runs": len(times),
        "peak_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1),
    }


class CardForm:
    """A PyTorch network on the card in one type and memory layout, as a runtime that the gate's comparison can run."""

    def __init__(self, torch: Any, model: Any, *, half: bool, channels_last: bool, compiled: bool = False) -> None:
        self.name = "pytorch-cuda"
        self.torch, self.half = torch, half
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to("cuda", torch.float16 if half else torch.float32).to(memory_format=self.layout)
        self.network = torch.compile(self.model, dynamic=True) if compiled else self.model

    def given(self, image: Any) -> Any:
        """[N, C, H, W] on the card, in the form's type and layout."""
        tensor = self.torch.from_numpy(image).to("cuda", self.torch.float16 if self.half else self.torch.float32)
        return tensor.to(memory_format=self.layout)

    def run(self, tensor: Any) -> Any:
        """The network alone; fp32 means fp32, not TF32."""
        with (
            self.torch.inference_mode(),
            self.torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False),
        ):
            return self.network(tensor)

    def infer(self, image: Any) -> Any:
        """As every runtime: arrays in and out."""
        return self.run(self.given(image)).float().cpu().contiguous().numpy()

    def __enter__(self) -> CardForm:
        return self

    def __exit__(self, *_: object) -> None:
        self.torch.cuda.empty_cache()


def _pytorch_forms(work: Work, forms: list[tuple[str, str, bool, bool]], *, compiled: bool) -> None:
    import numpy as np
    import torch

    from aethernet.checkpoint import load
    from aethernet.precision import Precision

    random = np.random.default_rng(0)
    for what, kind, half, channels_last in forms:
        with work.trying(what):
            precision = Precision.FP16 if half else Precision.FP32
            model = (
                work.reference()
                if kind == "training"
                else load(work.file("weights", Precision.FP32, ".safetensors")).model.eval()
            )
            with CardForm(torch, model, half=half, channels_last=channels_last, compiled=compiled) as form:
                figures: dict[str, Any] = {}
                if compiled:
                    start = time.perf_counter()
                    form.run(form.given(random.random(work.shapes[0], np.float32)))
                    torch.cuda.synchronize()
                    figures["compile_seconds"] = round(time.perf_counter() - start, 1)
                figures["timings"] = []
                for shape in work.shapes:
                    tensor = form.given(random.random(shape, np.float32))
                    figures["timings"].append(timed(torch, lambda form=form, tensor=tensor: form.run(tensor), shape))
                figures["gate"] = work.compare(form, precision, what)
            work.record(what, **figures)


def pytorch(work: Work) -> None:
    forms = [
        ("training form, fp32", "training", False, False),
        ("fused, fp32", "fused", False, False),
        ("fused, fp32, channels last", "fused", False, True),
        ("fused, fp16", "fused", True, False),
        ("fused, fp16, channels last", "fused", True, True),
    ]
    _pytorch_forms(work, forms, compiled=False)
    from aethernet.precision import Precision

    with work.trying("the library's runtime, fp32"):
        from aethernet.runtimes import open_runtime

        file = work.file("weights", Precision.FP32, ".safetensors")
        with open_runtime(file, name="pytorch-cuda") as runtime:
            work.record("the library's runtime, fp32", gate=work.compare(runtime, Precision.FP32, file.name))


def compiled(work: Work) -> None:
    from importlib.util import find_spec

    if find_spec("triton") is None and not work.rehearsal:
        raise Missing("torch.compile needs Triton on a card, which is not installed")
    forms = [("fused, fp16, channels last", "fused", True, True), ("fused, fp32", "fused", False, False)]
    _pytorch_forms(work, forms, compiled=True)


def onnxruntime(work: Work) -> None:
    import numpy as np
    import torch  # first: ONNX Runtime finds the libraries of CUDA that PyTorch brought

    torch.cuda.init()
    import onnxruntime as library

    from aethernet.precision import Precision
    from aethernet.runtimes import open_runtime

    if "CUDAExecutionProvider" not in library.get_available_providers():
        raise Missing(
            f"onnxruntime {metadata_version('onnxruntime')} has no CUDAExecutionProvider; onnxruntime-gpu has"
        )
    if hasattr(library, "preload_dlls") and not work.rehearsal:
        library.preload_dlls()
    random = np.random.default_rng(0)
    for precision, suffix in ((Precision.FP32, ".onnx"), (Precision.FP16, ".onnx"), (Precision.INT8, "_int8.onnx")):
        with work.trying(precision):
            file = work.file("onnx", precision, suffix)
            before = torch.cuda.mem_get_info()[0]
            with open_runtime(file, name="onnxruntime-cuda") as runtime:
                session = runtime._session  # type: ignore[attr-defined]
                (given,), (made,) = session.get_inputs(), session.get_outputs()
                dtype = np.float16 if "float16" in given.type else np.float32
                timings = []
                for shape in work.shapes:
                    binding = session.io_binding()
                    value = library.OrtValue.ortvalue_from_numpy(
                        random.random(shape, np.float32).astype(dtype), "cuda", 0
                    )
                    binding.bind_ortvalue_input(given.name, value)
                    binding.bind_output(made.name, "cuda", 0)

                    def run(session: Any = session, binding: Any = binding) -> None:
                        session.run_with_iobinding(binding)
                        binding.synchronize_outputs()

                    timings.append(_timed_by_clock(run, shape))
                # The library's own account ends where another library's begins: what the whole card lost.
                taken = round((before - torch.cuda.mem_get_info()[0]) / 1e6, 1)
                work.record(
                    precision, timings=timings, card_memory_mb=taken, gate=work.compare(runtime, precision, file.name)
                )


def _timed_by_clock(run: Callable[[], Any], shape: Shape) -> dict[str, Any]:
    """For libraries with streams of their own: each run waits for its end."""
    for _ in range(WARM_UP):
        run()
    times, end = [], time.monotonic() + SECONDS_EACH
    while len(times) < RUNS and (len(times) < 3 or time.monotonic() < end):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1000)
    return {
        "shape": "x".join(map(str, shape)),
        "median_ms": round(statistics.median(times), 3),
        "fastest_ms": round(min(times), 3),
        "runs": len(times),
    }


def faults(work: Work) -> None:
    """What must go well when the card does not: overflow in fp16, and memory that runs out."""
    import numpy as np
    import torch

    from aethernet.upscale import Upscaler, UpscaleStatistics
    from aethernet.upscale.reading import Still

    side = 48 if work.rehearsal else 512
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    with work.trying("tiles that overflow in fp16 are repeated in fp32"):
        with Upscaler(work.bundle, "fp32", "pytorch-cuda") as whole:
            wanted = whole.upscale(image)
        with Upscaler(work.bundle, "fp16", "pytorch-cuda") as upscaler:
            network = upscaler._runtime.model  # type: ignore[union-attr]
            with torch.no_grad():  # beyond fp16's 65,504 on any image that is not black; the fp32 file is untouched
                network.conv_first.weight.mul_(3e4)
            statistics = UpscaleStatistics()
            found = np.concatenate(list(upscaler.bands(Still.of_array(image), statistics)))
        off = int(np.abs(found.astype(int) - wanted.astype(int)).max())
        good = statistics.redone_in_fp32 == statistics.tiles > 0 and off <= 1
        work.record(
            "tiles that overflow in fp16 are repeated in fp32", "measured" if good else "failed",
            tiles=statistics.tiles, repeated=statistics.redone_in_fp32, largest_difference_in_levels=off,
            **({} if good else {"reason": "not every tile was repeated, or the result is another one"}),
        )  # fmt: skip
    with work.trying("tiles that memory runs out for are halved"):
        total = torch.cuda.get_device_properties(0).total_memory
        size = (128, 448) if work.rehearsal else (1080, 1920)
        large = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
        torch.cuda.reset_peak_memory_stats()
        with Upscaler(work.bundle, "fp32", "pytorch-cuda") as plain:
            wanted = plain.upscale(large)
        torch.cuda.empty_cache()
        # Too little for the whole image, enough for half of it.
        torch.cuda.set_per_process_memory_fraction(0.65 * torch.cuda.max_memory_allocated() / total)
        try:
            statistics = UpscaleStatistics()
            with Upscaler(work.bundle, "fp32", "pytorch-cuda", memory=2**50) as upscaler:
                found = np.concatenate(list(upscaler.bands(Still.of_array(large), statistics)))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        off = int(np.abs(found.astype(int) - wanted.astype(int)).max())
        good = bool(statistics.halved) and off <= 1
        work.record(
            "tiles that memory runs out for are halved", "measured" if good else "failed",
            halved=statistics.halved, tiles=statistics.tiles, largest_difference_in_levels=off,
            **({} if good else {"reason": "no tile was halved, or the result is another one"}),
        )  # fmt: skip


def upscale(work: Work) -> None:
    """The command itself, in this process, with one runtime: an image in every precision, a video in the fastest."""
    import numpy as np
    from PIL import Image

    from aethernet.runtimes import RUNTIMES, runtimes_here

    runtime = work.part.partition(" ")[2]
    if runtime not in RUNTIMES:
        raise Missing(f"this version has no runtime {runtime}")
    if lack := runtimes_here()[runtime]:
        raise Missing(lack)
    if work.rehearsal and runtime not in STOOD_IN_FOR:
        raise Missing(f"the stand-in is no {runtime}")
    source = work.image or next(iter(work.images().values()))
    if work.rehearsal:
        whole = np.asarray(Image.open(source).convert("RGB"))
        source = work.folder / "small.png"
        Image.fromarray(whole[:40, :48]).save(source)
    truth = _command(work, source, work.folder / "truth.png", "fp32", "onnxruntime-cpu")
    for precision in ("fp32", "fp16"):
        with work.trying(f"an image, {precision}"):
            made = work.folder / f"made_{precision}.png"
            figures = _command(work, source, made, precision, runtime)
            one, other = (np.asarray(Image.open(path)).astype(int) for path in (made, work.folder / "truth.png"))
            work.record(
                f"an image, {precision}", seconds=figures["seconds"], on_the_cpu=truth["seconds"],
                largest_difference_in_levels=int(np.abs(one - other).max()),
                equal_levels=round(float((one == other).mean()), 5), told=figures["told"],
            )  # fmt: skip
    with work.trying("a video"):
        if work.video is None:
            raise Missing("no video was given (--video)")
        from importlib.util import find_spec

        if find_spec("av") is None:
            raise Missing("the package av is not installed")
        video = _shortened(work) if work.rehearsal else work.video
        figures = _command(work, video, work.folder / "made.mkv", "fp16", runtime, "--preset", "x264")
        work.record("a video", seconds=figures["seconds"], told=figures["told"])


def _shortened(work: Work) -> Path:
    """The first frames of the video at a size that the stand-in has time for."""
    import av

    made = work.folder / "short.mkv"
    with av.open(str(work.video)) as source, av.open(str(made), "w") as target:
        stream = target.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 36, "yuv420p"
        for _, frame in zip(range(3), source.decode(video=0), strict=False):
            target.mux(stream.encode(frame.reformat(64, 36, "yuv420p")))
        target.mux(stream.encode(None))
    return made


def _command(work: Work, source: Path, made: Path, precision: str, runtime: str, *more: str) -> dict[str, Any]:
    """``aethernet upscale``: seconds, and what ``--json`` tells."""
    from aethernet.cli.main import main

    told, said = io.StringIO(), io.StringIO()
    command = ["aethernet", "upscale", str(source), "-o", str(made), "--bundle", str(work.bundle.root)]
    command += ["--precision", precision, "--runtime", runtime, "--json", *more]
    before, start = sys.argv, time.perf_counter()
    sys.argv = command
    try:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
            main()
        code = 0
    except SystemExit as ending:
        code = int(ending.code or 0) if not isinstance(ending.code, str) else 1
    finally:
        sys.argv = before
    if code:
        raise RuntimeError(f"aethernet upscale ended with code {code}: {said.getvalue().strip()[-400:]}")
    result = json.loads(told.getvalue())
    kept = {key: result.get(key) for key in ("runtime", "precision", "file", "notes") if key in result}
    return {"seconds": round(time.perf_counter() - start, 3), "told": kept | {"results": result.get("results")}}


def tensorrt(work: Work) -> None:
    """Engines of every precision, built for this card, compared and timed."""
    from aethernet.comparison.engines import try_engine
    from aethernet.comparison.gate import DEFAULT_LIMITS
    from aethernet.engines.backends import DEFAULT_CAPABILITIES, Backend, find_gpu, installed_version
    from aethernet.engines.builder import build_engine, plan_builds
    from aethernet.engines.profiles import Profile
    from aethernet.precision import Precision

    backend = Backend.TENSORRT_RTX if work.part.endswith("rtx") else Backend.TENSORRT
    if installed_version(backend) is None:
        raise Missing(f"the package {backend.extra} is not installed")
    gpu = find_gpu()
    assert gpu is not None
    rtx = backend is Backend.TENSORRT_RTX
    if rtx and gpu.capability not in DEFAULT_CAPABILITIES:
        raise Missing(f"TensorRT-RTX does not compile for compute capability {gpu.capability}")
    if work.rehearsal:
        raise Missing("the stand-in is no TensorRT: engines are built and run by tests, not in a rehearsal")
    shapes = [(1, *shape[2:]) for shape in work.shapes]
    profile = Profile(name="all", minimum=(1, 16, 16), optimum=shapes[1], maximum=shapes[-1])
    for precision, suffix in ((Precision.FP16, ".onnx"), (Precision.INT8, "_trt.onnx"), (Precision.FP32, ".onnx")):
        with work.trying(precision):
            onnx = work.file("onnx", precision, suffix)
            (config,) = plan_builds(
                backend,
                (profile,),
                capabilities=(gpu.capability,) if rtx else None,
                timeout=120,
                memory=gpu.memory or None,
            )
            built = build_engine(onnx, work.folder / f"{onnx.stem}.engine", config)
            limits = work.bundle.manifest.limits.get(precision, DEFAULT_LIMITS[precision])
            trial = try_engine(built.engine, built.engine.name, work.reference(), work.images(), 3, limits)
            identity = built.record.identity
            work.record(
                precision, build_seconds=identity.build_seconds, engine_bytes=identity.size,
                timings=[
                    {"shape": "x".join(map(str, one.shape)), "median_ms": one.median_ms, "fastest_ms": one.fastest_ms}
                    for one in trial.speeds
                ],
                gate={"cases": len(trial.measurements), "failures": list(trial.failures)},
            )  # fmt: skip


def metadata_version(name: str) -> str:
    """Version of an installed package, or a dash."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "–"


def run_part(options: argparse.Namespace) -> int:
    """One part, in this process."""
    if options.rehearse:
        import cuda_standin

        cuda_standin.install()
    work = Work(options)
    first = work.part.partition(" ")[0]
    parts: dict[str, Callable[[Work], None]] = {
        "pytorch": pytorch, "compile": compiled, "onnxruntime": onnxruntime, "faults": faults, "upscale": upscale,
        "tensorrt": tensorrt, "tensorrt-rtx": tensorrt,
    }  # fmt: skip
    with work.trying(""):
        if first not in ("tensorrt", "tensorrt-rtx"):
            require_card()
        parts[first](work)
    return 0


def require_card() -> None:
    """A card that PyTorch can use, or the reason why not."""
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise Missing("PyTorch is not installed")
    import torch

    if torch.version.cuda is None:
        raise Missing(f"PyTorch {torch.__version__} was built without CUDA")
    if not torch.cuda.is_available():
        raise Missing(
            f"PyTorch {torch.__version__} for CUDA {torch.version.cuda} finds no card: is the driver new enough?"
        )
    major, minor = torch.cuda.get_device_capability()
    known = getattr(torch.cuda, "get_arch_list", list)()
    if known and not any(one in (f"sm_{major}{minor}", f"sm_{major}0") or one.startswith("compute_") for one in known):
        raise Missing(
            f"PyTorch {torch.__version__} has no kernels for compute capability {major}.{minor}, but {', '.join(known)}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="end after about this time")
    parser.add_argument("--json", type=Path, required=True, help="the report, renewed after every figure")
    parser.add_argument("--bundle", type=Path, default=ROOT / "out" / "aether_tiny_2x", help="a release folder")
    parser.add_argument("--video", type=Path, help="a short video, such as one of 1080p")
    parser.add_argument("--image", type=Path, help="an image to upscale (default: one of the release)")
    parser.add_argument("--only", action="append", help="a part's name; more than once for several")
    parser.add_argument("--rehearse", action="store_true", help="on a stand-in for a card")
    for hidden in ("--part", "--lines", "--folder"):
        parser.add_argument(hidden, type=str if hidden == "--part" else Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.only or ()) - {part.name for part in PARTS}
    if unknown:
        parser.error(f"expected parts of {', '.join(part.name for part in PARTS)}, found {', '.join(sorted(unknown))}")
    return run_part(options) if options.part else orchestrate(options)


if __name__ == "__main__":
    raise SystemExit(main())
