"""What is behind ``aethernet upscale``."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.artifact import atomic_path
from aethernet.cli.output import say
from aethernet.cli.progress import Bar
from aethernet.errors import ImageError, UsageError

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray
    from aethernet.upscale import Upscaler
    from aethernet.upscale.files import UpscaleJob
    from aethernet.upscale.video import VideoOptions

__all__ = ["Request", "parse_bytes", "run"]

_CROP, _ZOOM, _ROWS = 72, 2, 6
_ENOUGH_FRAMES = 2
_NAMED = 5
"""Files that are named before the rest is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything the command was asked."""

    inputs: Sequence[Path]
    output: Path
    bundle: str
    precision: str = "auto"
    runtime: str = "auto"
    tile: int | None = None
    overlap: int | None = None
    memory: int | None = None
    threads: int = 0
    format: str | None = None
    quality: int | None = None
    skip_existing: bool = False
    compare: Path | None = None
    hr: Path | None = None
    video: dict[str, Any] = field(default_factory=dict)
    """Options of :class:`aethernet.upscale.video.VideoOptions`."""


def parse_bytes(text: str) -> int:
    """``1500M`` or ``8G`` in bytes.

    Raises:
        UsageError: Something else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"expected an amount of memory such as 1500M or 8G, found '{text}'")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def run(request: Request) -> dict[str, Any]:
    """Upscale everything; the result is what ``--json`` prints.

    Raises:
        AethernetError: The call as a whole makes no sense; what fails for one file is in the result.
    """
    from aethernet.upscale import Upscaler
    from aethernet.upscale.files import is_video, passed_over, plan_jobs, upscale_files

    start = time.perf_counter()
    jobs = plan_jobs(request.inputs, request.output, request.format)
    left = passed_over(request.inputs, request.output)
    if left:
        say(f"{len(left)} passed over: {', '.join(left[:_NAMED])}{', …' if len(left) > _NAMED else ''}")
    videos = [job for job in jobs if is_video(job.source)]
    images = [job for job in jobs if not is_video(job.source)]
    if request.compare is not None and (not images or request.compare.suffix.lower() != ".png"):
        raise UsageError(f"expected an image to upscale and a sheet called .png, found {request.compare}")
    options = _video_options(request) if videos else None
    partners = _partners(request)
    runtime, precision = _choice(request, videos)
    with Upscaler(
        _bundle_folder(request.bundle),
        precision,
        runtime,
        tile=request.tile,
        overlap=request.overlap,
        memory=request.memory,
        threads=request.threads,
        frame=_frame(request.runtime, videos, images),
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
                    upscaler, images, quality=request.quality, skip_existing=request.skip_existing, on_done=on_done
                )
        for job in videos:
            results.append(_video(upscaler, job, options, request.skip_existing, alone=len(jobs) == 1))  # type: ignore[arg-type]
        if request.compare is not None:
            _write_sheet(request.compare, results, partners, upscaler.scale)
            say(f"wrote {request.compare}")
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

    asked = request.runtime, request.precision
    if request.video.get("resume") and len(videos) == 1 and (before := remembered_choice(videos[0].destination)):
        asked = tuple(old if new == "auto" else new for new, old in zip(asked, before, strict=True))  # type: ignore[assignment]
    return asked


def _frame(runtime: str, videos: Sequence[UpscaleJob], images: Sequence[UpscaleJob]) -> tuple[int, int] | None:
    """Height and width of everything there is to do, where that is one video and an engine may be built for it."""
    from aethernet.upscale.video.source import look_at

    if len(videos) != 1 or images or not runtime.startswith("tensorrt"):
        return None
    facts = look_at(videos[0].source)
    return facts.height, facts.width


def _video_options(request: Request) -> VideoOptions:
    from aethernet.upscale.video import VideoOptions

    return VideoOptions(**request.video)


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
    upscaler: Upscaler, job: UpscaleJob, options: VideoOptions, skip_existing: bool, *, alone: bool
) -> dict[str, Any]:
    from aethernet.upscale.files import failure
    from aethernet.upscale.video import is_finished, upscale_video

    if (skip_existing or options.resume) and is_finished(job.destination):
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
            result = upscale_video(upscaler, job.source, job.destination, options, on_frame=on_frame)
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


# --- the sheet -------------------------------------------------------------------------------------------------------


def _partners(request: Request) -> dict[str, Path]:
    """Stem -> original."""
    from aethernet.images.files import list_images

    if request.hr is None:
        return {}
    if request.compare is None:
        raise UsageError("expected --compare with --hr, found --hr alone: the originals are for the sheet")
    if request.hr.is_dir():
        return {path.stem: path for path in list_images(request.hr)}
    return {path.stem: request.hr for path in request.inputs}


def _write_sheet(path: Path, results: Sequence[dict[str, Any]], partners: dict[str, Path], scale: int) -> None:
    """The liveliest part of each image: nearest, bicubic, ours and the original where there is one."""
    from aethernet.release.sheet import comparison_sheet, liveliest_window
    from aethernet.upscale.files import is_video
    from aethernet.upscale.reading import read_still

    rows = []
    made = [one for one in results if "error" not in one and not is_video(Path(one["source"]))]
    for result in made[:_ROWS]:
        low, ours = (_shown(read_still(result[key])) for key in ("source", "destination"))
        top, left, height, width = liveliest_window(low, _CROP)
        crop = low[..., top : top + height, left : left + width]
        window = (
            ...,
            slice(top * scale, (top + height) * scale),
            slice(left * scale, (left + width) * scale),
        )
        row = [
            (f"nearest: {Path(result['source']).name}", crop.repeat(scale, axis=2).repeat(scale, axis=3)),
            ("bicubic", _bicubic(low, scale, (top, left, height, width))),
            ("this network", ours[window]),
        ]
        if (original := partners.get(Path(result["source"]).stem)) is not None:
            high = _shown(read_still(original))
            if high.shape != ours.shape:
                raise ImageError(
                    f"expected an original of {ours.shape[3]}x{ours.shape[2]} pixels, found {high.shape[3]}x"
                    f"{high.shape[2]}: {original}"
                )
            row.append(("original", high[window]))
        rows.append(row)
    if not rows:
        raise ImageError("expected at least one upscaled image for the sheet, found none")
    with atomic_path(path) as temporary:
        comparison_sheet(rows, _ZOOM).save(temporary, format="PNG")


def _shown(still: Any) -> ImageArray:
    """[1, 3, H, W] float32 in [0, 1]; transparency is not shown."""
    colour = still.as_rgb().colour
    levels = colour.astype(np.float32) / np.iinfo(colour.dtype).max
    planes: ImageArray = np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3)).transpose(2, 0, 1)[None])
    return planes


def _bicubic(low: ImageArray, scale: int, window: tuple[int, int, int, int]) -> ImageArray:
    from PIL import Image

    from aethernet.images.files import to_levels

    top, left, height, width = window
    image = Image.fromarray(to_levels(low)[0].transpose(1, 2, 0))
    enlarged = image.resize(
        (width * scale, height * scale), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
    )
    levels: ImageArray = np.asarray(enlarged, dtype=np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    return levels
