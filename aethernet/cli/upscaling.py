"""``aethernet upscale``: images and videos through a release."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from aethernet.cli.interruption import keeps
from aethernet.cli.options import AsJson
from aethernet.cli.output import emit_json, say
from aethernet.cli.progress import Bar
from aethernet.errors import UsageError

if TYPE_CHECKING:
    from aethernet.upscale import Upscaler
    from aethernet.upscale.files import UpscaleJob
    from aethernet.upscale.video import VideoOptions

__all__ = ["parse_bytes", "upscale"]

_ENOUGH_FRAMES = 2
_NAMED = 5
"""Files that are named before the rest is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What runs the network, and how much of an image at once; arguments of :class:`aethernet.upscale.Upscaler`."""

    PANEL: ClassVar[str] = "Runtime and memory"

    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or int8.")] = "auto"
    runtime: Annotated[
        str,
        typer.Option(
            help="auto, ncnn, onnxruntime, openvino, pytorch, tensorrt, tensorrt-rtx; -cpu, -cuda, -directml, -vulkan."
        ),
    ] = "auto"
    tile: Annotated[int | None, typer.Option(help="Largest side of a tile (default: by memory).")] = None
    overlap: Annotated[
        int | None, typer.Option(help="Pixels tiles overlap by on each side (default: what the network sees).")
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="What the network may take, such as 8G (default: half of what is free, up to 3G)."
        ),
    ] = None
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 lets the runtime choose.")] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How images are written, and what is drawn of them."""

    PANEL: ClassVar[str] = "Images"

    format: Annotated[
        str | None,
        typer.Option(help="png, jpg, webp, tif, avif or gif (default: as the input).", envvar="AETHERNET_UPSCALE_FORM"),
    ] = None
    quality: Annotated[int | None, typer.Option(min=1, max=100, help="Of jpg, webp and avif.")] = None
    limits: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="LOW:HIGH",
            help="Black and white of files of floats, or auto: the file's extremes (default: 0:1).",
        ),
    ] = None
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="SHEET.png",
            help="Also draw nearest, bicubic and ours.",
            envvar="AETHERNET_UPSCALE_COMPARE_SHEET",
        ),
    ] = None
    hr: Annotated[Path | None, typer.Option(help="With --compare: the original, or a folder of them.")] = None
    on_clash: Annotated[
        str,
        typer.Option(
            "--on-clash", help="Inputs with one output name: ending (a.bmp becomes a.bmp.png), number or refuse."
        ),
    ] = "ending"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingOptions:
    """How videos are written; fields of :class:`aethernet.upscale.video.VideoOptions`."""

    PANEL: ClassVar[str] = "Videos"

    preset: Annotated[
        str, typer.Option(help="x264, x265, svtav1, vp9, prores, ffv1, h264-nvenc, hevc-nvenc or av1-nvenc.")
    ] = "x265"
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder-option", metavar="KEY=VALUE", help="Passed to the encoder, such as crf=18; repeatable."
        ),
    ] = None
    bits: Annotated[int, typer.Option(help="10 or 8 bits per channel.")] = 10
    start: Annotated[str | None, typer.Option(metavar="TIME", help="From here, such as 1:30 or 90.5.")] = None
    end: Annotated[str | None, typer.Option(metavar="TIME", help="Up to here.")] = None
    segment_seconds: Annotated[float, typer.Option("--segment", help="Seconds that a killed run loses at most.")] = 10.0
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False
    deinterlace: Annotated[
        str, typer.Option(help="auto (images that are marked as interlaced), bwdif (all) or off.")
    ] = "auto"
    drop_alpha: Annotated[
        bool, typer.Option("--drop-alpha", help="Leave transparency out where the preset cannot hold it.")
    ] = False


def upscale(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Images, videos, or folders of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A file for one input; otherwise a folder.")],
    bundle: Annotated[str, typer.Option("--bundle", "-b", help="Release folder, or its address on a hub.")],
    running: RunOptions,
    images: ImageOptions,
    videos: EncodingOptions,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave results alone that exist.")] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Exit with 0 also where parts of a damaged video are missing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Enlarge images and videos with a release."""
    keeps("finished images are kept; --skip-existing goes on behind them, --resume behind the frames of a video")
    result = _run(Request(inputs, output, bundle, skip_existing, running, images, videos))
    if as_json:
        emit_json(result)
    else:
        for one in result["results"]:
            if "error" not in one:
                print(one["destination"])
    damaged = sum(bool(one.get("damaged")) for one in result["results"])
    if damaged:
        say(f"{damaged} of {len(result['results'])} done without what was damaged")
    if result["failed"] > damaged:
        say(f"{result['failed'] - damaged} of {len(result['results'])} failed; the others are done")
    if result["failed"] > (damaged if keep_going else 0):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Request:
    """Everything the command was asked."""

    inputs: Sequence[Path]
    output: Path
    bundle: str
    skip_existing: bool
    running: RunOptions
    images: ImageOptions
    videos: EncodingOptions


def parse_bytes(text: str) -> int:
    """``1500M`` or ``8G`` in bytes.

    Raises:
        UsageError: Something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"expected an amount of memory such as 1500M or 8G, found '{text}'")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def _run(request: Request) -> dict[str, Any]:
    """Upscale everything; the result is what ``--json`` prints.

    Raises:
        AethernetError: The call as a whole makes no sense; what fails for one file is in the result.
    """
    from aethernet.upscale import Upscaler
    from aethernet.upscale.files import goes_by_frames, passed_over, plan_jobs, upscale_files
    from aethernet.upscale.floats import parse_range
    from aethernet.upscale.sheet import write_sheet

    start = time.perf_counter()
    jobs = plan_jobs(request.inputs, request.output, request.images.format, on_clash=request.images.on_clash)
    left = passed_over(request.inputs, request.output)
    if left:
        say(f"{len(left)} passed over: {', '.join(left[:_NAMED])}{', …' if len(left) > _NAMED else ''}")
    videos = [job for job in jobs if goes_by_frames(job)]
    images = [job for job in jobs if not goes_by_frames(job)]
    if request.images.compare is not None and (not images or request.images.compare.suffix.lower() != ".png"):
        raise UsageError(f"expected an image to upscale and a sheet called .png, found {request.images.compare}")
    options = _video_options(request) if videos else None
    partners = _partners(request)
    limits = None if request.images.limits is None else parse_range(request.images.limits)
    runtime, precision = _choice(request, videos)
    with Upscaler(
        _bundle_folder(request.bundle),
        precision,
        runtime,
        tile=request.running.tile,
        overlap=request.running.overlap,
        memory=None if request.running.memory is None else parse_bytes(request.running.memory),
        threads=request.running.threads,
        frame=_frame(request.running.runtime, videos, images),
        on_message=say,
    ) as upscaler:
        told = upscaler.describe()
        say(_choice_in_words(told))
        for note in told["notes"]:
            say(note)
        results: list[dict[str, Any]] = []
        if images:
            with Bar(len(images), "images") as bar:
                bar.show(0, images[0].source.name)

                def on_done(result: dict[str, Any]) -> None:
                    results.append(result)
                    bar.message(_in_words(result))
                    bar.show(len(results), Path(result["source"]).name)

                results = upscale_files(
                    upscaler,
                    images,
                    quality=request.images.quality,
                    limits=limits,
                    skip_existing=request.skip_existing,
                    on_done=on_done,
                )
        for job in videos:
            results.append(_video(upscaler, job, options, request, alone=len(jobs) == 1))  # type: ignore[arg-type]
        if request.images.compare is not None:
            write_sheet(request.images.compare, results, partners, upscaler.scale)
            say(f"wrote {request.images.compare}")
    skipped = [result for result in results if "skipped" in result]
    if skipped:
        say(f"{len(skipped)} left alone, because they exist already")
    return {
        "upscaler": told,
        "results": results,
        "passed_over": left,
        "failed": sum("error" in result or bool(result.get("damaged")) for result in results),
        "seconds": round(time.perf_counter() - start, 3),
    }


def _bundle_folder(address: str) -> Path:
    """A folder as it is; a hub address is fetched into the user's cache first, and verified."""
    from aethernet.hub.download import fetch_bundle

    return fetch_bundle(address, on_message=say)


def _choice(request: Request, videos: Sequence[UpscaleJob]) -> tuple[str, str]:
    """Runtime and precision as asked for; a video that is gone on with keeps what it was begun with."""
    from aethernet.upscale.video import remembered_choice

    asked = request.running.runtime, request.running.precision
    if request.videos.resume and len(videos) == 1 and (before := remembered_choice(videos[0].destination)):
        asked = tuple(old if new == "auto" else new for new, old in zip(asked, before, strict=True))  # type: ignore[assignment]
    return asked


def _frame(runtime: str, videos: Sequence[UpscaleJob], images: Sequence[UpscaleJob]) -> tuple[int, int] | None:
    """Height and width of everything there is to do, where that is one video and an engine may be built for it."""
    from aethernet.upscale.files import is_video
    from aethernet.upscale.video.source import look_at

    if len(videos) != 1 or images or not runtime.startswith("tensorrt"):
        return None
    if not is_video(videos[0].source):
        return None
    facts = look_at(videos[0].source)
    return facts.height, facts.width


def _video_options(request: Request) -> VideoOptions:
    from aethernet.upscale.video import VideoOptions

    return VideoOptions(**asdict(request.videos) | {"options": tuple(request.videos.options or ())})


def _choice_in_words(told: dict[str, Any]) -> str:
    measured = ", ".join(f"{name} {taken:g} ms" for name, taken in told["measured_ms"].items())
    return f"{told['scale']}x with {told['release']}: {told['precision']} in {told['runtime']}" + (
        f" (measured on 96x96 pixels: {measured})" if measured else ""
    )


def _in_words(result: dict[str, Any]) -> str:
    if "error" in result:
        words = f"failed: {result['source']}: {result['error']}"
        return f"{words}\n  hint: {result['hint']}" if result.get("hint") else words
    if "skipped" in result:
        return f"{result['destination']} exists already"
    (width, height), seconds = result["output_size"], result["seconds"]["total"]
    words = f"{result['destination']}  {width}x{height}  {seconds:.1f} s"
    if "frames" in result:
        words += f"  {result['frames']} frames, {result['fps']:.2f} per second"
    return "\n".join([words, *(f"  {note}" for note in result["notes"])])


def _video(
    upscaler: Upscaler, job: UpscaleJob, options: VideoOptions, request: Request, *, alone: bool
) -> dict[str, Any]:
    from aethernet.upscale.files import failure, is_named_video, is_video
    from aethernet.upscale.video import animation_to_video, is_finished, upscale_video, video_to_animation

    if (request.skip_existing or options.resume) and is_finished(job.destination):
        return {"source": str(job.source), "destination": str(job.destination), "skipped": "exists already"}
    with Bar(0, "frames") as bar:
        start: list[float] = []

        def on_frame(done: int, total: int | None) -> None:
            if not start:
                start.append(time.perf_counter())
                first.append(done)
            elapsed = time.perf_counter() - start[0]
            words = job.source.name
            if elapsed > 0 and done - first[0] >= _ENOUGH_FRAMES:
                fps = (done - first[0]) / elapsed
                words = f"{fps:.2f} fps" + (f", {_clock((total - done) / fps)} left" if total else "") + f"  {words}"
            bar.show(done, words, total=total)

        first: list[int] = []
        try:
            if not is_named_video(job.destination):
                result = video_to_animation(
                    upscaler, job.source, job.destination, options, quality=request.images.quality, on_frame=on_frame
                )
            else:
                make = upscale_video if is_video(job.source) else animation_to_video
                result = make(upscaler, job.source, job.destination, options, on_frame=on_frame)
        except Exception as error:  # the barrier: whatever a file holds, the others are done
            if isinstance(error, UsageError) and alone:
                raise
            result = failure(job, error)
        bar.message(_in_words(result))
    if result.get("interrupted"):
        raise KeyboardInterrupt
    return result


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}"


def _partners(request: Request) -> dict[str, Path]:
    """Stem -> original."""
    from aethernet.images.files import list_images

    if request.images.hr is None:
        return {}
    if request.images.compare is None:
        raise UsageError("expected --compare with --hr, found --hr alone: the originals are for the sheet")
    if request.images.hr.is_dir():
        return {path.stem: path for path in list_images(request.images.hr)}
    return {path.stem: request.images.hr for path in request.inputs}
