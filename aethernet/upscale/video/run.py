"""Upscaling a video from its first frame to the finished file, or from where an earlier run was stopped."""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.artifact import atomic_path
from aethernet.errors import UsageError, VideoError
from aethernet.upscale.prefetch import ahead
from aethernet.upscale.reading import Still
from aethernet.upscale.statistics import UpscaleStatistics
from aethernet.upscale.video.assembly import Interval, assemble, container_format, require_copyable
from aethernet.upscale.video.colour import to_rgb
from aethernet.upscale.video.encoder import Encoder, Segment, UpscaledFrame, VideoFormat
from aethernet.upscale.video.options import ENCODER_PRESETS, VideoOptions
from aethernet.upscale.video.source import Frame, VideoFacts, frames, library, look_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aethernet.upscale.upscaler import Upscaler

__all__ = ["is_finished", "remembered_choice", "upscale_video"]

_JOB = "job.json"


def parts_folder(destination: Path) -> Path:
    """Where a video's segments are kept until it is finished."""
    return destination.with_name(f".{destination.name}.parts")


def is_finished(destination: Path) -> bool:
    """Whether a video stands there whole, and not what an interrupted run has left of it."""
    return destination.exists() and not parts_folder(destination).exists()


def remembered_choice(destination: Path) -> tuple[str, str] | None:
    """Runtime and precision of the interrupted run whose video this is, or None."""
    try:
        job = json.loads((parts_folder(destination) / _JOB).read_text(encoding="utf-8"))
        return job["runtime"], job["precision"]
    except (OSError, ValueError, KeyError):
        return None


def upscale_video(
    upscaler: Upscaler,
    source: Path,
    destination: Path,
    options: VideoOptions,
    *,
    on_frame: Callable[[int, int | None], None] = lambda *_: None,
) -> dict[str, Any]:
    """Enlarge a video.

    Ctrl-C ends with a playable video up to there; so does this function's ``KeyboardInterrupt``, which it turns into
    ``"interrupted": True``. The finished segments stay beside it for :attr:`VideoOptions.resume`.

    Args:
        upscaler: The network.
        source: Any video FFmpeg's libraries read.
        destination: Its ending chooses the container.
        options: Encoder, interval, resuming.
        on_frame: Told how many frames are done, of how many if that is known.

    Returns:
        Facts as JSON values: frames, frames per second, seconds per stage, notes.

    Raises:
        VideoError: The video cannot be read, encoded or put together.
        UsageError: The container cannot hold a stream, or the interrupted run was another one.
    """
    begun = time.perf_counter()
    library()
    container_format(destination)
    facts = look_at(source)
    start, end = options.interval
    width, height = facts.width * upscaler.scale, facts.height * upscaler.scale
    video = VideoFormat(
        width=width,
        height=height,
        pixel_format=options.pixel_format(width, height),
        time_base=facts.time_base,
        rate=facts.rate,
        aspect=facts.aspect,
        colours=facts.colours,
    )
    require_copyable(source, destination, facts, ENCODER_PRESETS[options.preset].codec)
    per_segment = max(1, round(facts.rate * Fraction(options.segment_seconds)))
    folder = parts_folder(destination)
    done = _take_up(folder, _job(upscaler, source, options, per_segment), resume=options.resume)
    total = _frames_expected(facts, start, end)
    statistics = UpscaleStatistics()
    lost: list[int | None] = []
    before = sum(segment.frames for segment in done)
    try:
        segments, interrupted, waiting = _upscale(
            upscaler,
            source,
            facts,
            video,
            options,
            folder,
            done,
            per_segment,
            statistics,
            lost,
            lambda n: on_frame(n, total),
        )
    finally:
        if not _finished(folder):
            shutil.rmtree(folder, ignore_errors=True)
    if not segments:
        between = f"between {options.start or 'the beginning'} and {options.end or 'the end'}"
        raise VideoError(f"expected images {between}, found none")
    made = time.perf_counter()
    beginning = facts.start_time
    interval = Interval(
        beginning + start if start else None,
        beginning + end if end is not None else None,
        beginning + start if start else Fraction(0),
    )
    assemble(source, destination, facts, video, folder, segments, interval)
    if not interrupted:
        shutil.rmtree(folder, ignore_errors=True)
    count = sum(segment.frames for segment in segments)
    notes = list(facts.notes)
    if statistics.redone_in_fp32:
        notes.append(f"{statistics.redone_in_fp32} tiles were not finite and were redone in fp32")
    if statistics.halved:
        notes.append(f"memory ran out; went on with tiles of {statistics.halved[-1][1]}x{statistics.halved[-1][0]}")
    if lost:
        notes.append(f"{len(lost)} packets of the video are damaged: their images are missing, the rest is whole")
    missing = 0 if interrupted or options.start or options.end else _missing(facts, count)
    if missing:
        notes.append(f"the video was cut off: its index lists {facts.indexed_frames} images, {count} could be decoded")
    if interrupted:
        notes.append(f"stopped after {count} frames; the video plays up to there; --resume goes on")
    return {
        "source": str(source),
        "destination": str(destination),
        "input_size": [facts.width, facts.height],
        "output_size": [width, height],
        "frames": count,
        "damaged": len(lost) or missing,
        "resumed_after": before,
        "fps": round((count - before) / max(made - begun, 1e-9), 3),
        "interrupted": interrupted,
        "seconds": {
            "network": round(statistics.network_seconds, 3),
            "waiting_for_frames": round(waiting, 3),
            "pictures": round(made - begun, 3),
            "assembly": round(time.perf_counter() - made, 3),
            "total": round(time.perf_counter() - begun, 3),
        },
        "notes": notes,
    }


def _missing(facts: VideoFacts, count: int) -> int:
    """Images that the file's index lists and that are not there; edit lists leave a few out on purpose."""
    missing = (facts.indexed_frames or 0) - count
    return missing if missing > max(2, count // 100) else 0


def _frames_expected(facts: VideoFacts, start: Fraction, end: Fraction | None) -> int | None:
    if facts.frames is None:
        return None
    last = facts.frames if end is None else min(facts.frames, round(end * facts.rate))
    return max(1, last - round(start * facts.rate))


# --- interrupted runs ------------------------------------------------------------------------------------------------


def _job(upscaler: Upscaler, source: Path, options: VideoOptions, per_segment: int) -> dict[str, Any]:
    """What has to be the same for a run to go on with another's segments."""
    state = source.stat()
    return {
        "film": source.name,
        "size": state.st_size,
        "modified": state.st_mtime_ns,
        "release": upscaler.bundle.manifest.identity,
        "runtime": upscaler.runtime,
        "precision": upscaler.precision.value,
        "preset": options.preset,
        "options": list(options.options),
        "bits": options.bits,
        "start": options.start,
        "end": options.end,
        "frames_per_segment": per_segment,
        "ffmpeg": library().ffmpeg_version_info,
    }


def _take_up(folder: Path, job: dict[str, Any], *, resume: bool) -> list[Segment]:
    """The finished segments of an interrupted run; the folder is ready afterwards.

    Raises:
        UsageError: There is another run's work here, or nothing said to go on with it.
    """
    found = _finished(folder)
    if not found:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with atomic_path(folder / _JOB) as temporary:
            temporary.write_text(json.dumps(job, indent=2), encoding="utf-8")
        return []
    if not resume:
        raise UsageError(
            f"expected no interrupted run, found one in {folder}",
            hint="go on with --resume, or delete that folder to begin anew",
        )
    before = json.loads((folder / _JOB).read_text(encoding="utf-8"))
    if differing := [key for key in job if before.get(key) != job[key]]:
        told = "; ".join(f"{key} was {before.get(key)!r} and is {job[key]!r}" for key in differing)
        raise UsageError(
            f"expected the same video and options as the interrupted run, found {told}",
            hint=f"repeat that command, or delete {folder} to begin anew",
        )
    # A short one is what there was when the run was stopped; it is made anew in full.
    return [segment for segment in found if segment.frames == job["frames_per_segment"]]


def _finished(folder: Path) -> list[Segment]:
    """Segments from the first to the first gap."""
    found: list[Segment] = []
    while (record := folder / f"{len(found):05}.json").exists() and record.with_suffix(".nut").exists():
        found.append(Segment.read(record))
    return found


# --- the pipeline ----------------------------------------------------------------------------------------------------


def _upscale(
    upscaler: Upscaler,
    source: Path,
    facts: VideoFacts,
    video: VideoFormat,
    options: VideoOptions,
    folder: Path,
    done: list[Segment],
    per_segment: int,
    statistics: UpscaleStatistics,
    lost: list[int | None],
    on_frame: Callable[[int], None],
) -> tuple[list[Segment], bool, float]:
    """All segments, whether Ctrl-C ended it, and seconds the network waited for frames.

    Decoding runs ahead in a thread, encoding follows in another; both queues are short.
    """
    start, end = options.interval
    count = sum(segment.frames for segment in done)
    # Decoding again is cheap beside upscaling, and starts where the first run started: the same frames for certain.
    coming = (
        (frame, to_rgb(frame.image, facts.colours))
        for frame in islice(frames(source, facts, start, end, lost), count, None)
    )
    encoder = Encoder(folder, video, options)
    names: list[str] = []
    open_frames, interrupted, waiting = 0, False, 0.0
    on_frame(count)
    try:
        # Two frames at a time: while one is in the network, the other is prepared or rounded.
        with ahead(coming, depth=3) as decoded, ThreadPoolExecutor(2, thread_name_prefix="upscale") as pool:
            begun: deque[tuple[Frame, Future[NDArray[Any]]]] = deque()
            try:
                while True:
                    asked = time.perf_counter()
                    got = next(decoded, None)
                    waiting += time.perf_counter() - asked
                    if got is not None:
                        begun.append((got[0], pool.submit(_enlarged, upscaler, got[1], statistics)))
                        if len(begun) < 2:
                            continue
                    if not begun:
                        break
                    frame, enlarged = begun.popleft()
                    rgb = enlarged.result()
                    if not open_frames:
                        names.append(f"{len(done) + len(names):05}")
                        encoder.begin(f"{names[-1]}.nut")
                    encoder.add(UpscaledFrame(rgb, frame.pts, frame.duration))
                    open_frames += 1
                    count += 1
                    if open_frames == per_segment:
                        encoder.finish(folder / f"{names[-1]}.json")
                        open_frames = 0
                    on_frame(count)
            except KeyboardInterrupt:
                interrupted = True
        if open_frames:
            encoder.finish(folder / f"{names[-1]}.json")
        encoder.close()
    except BaseException:
        encoder.stop()
        raise
    return [*done, *(Segment.read(folder / f"{name}.json") for name in names)], interrupted, waiting


def _enlarged(upscaler: Upscaler, rgb: NDArray[np.uint16], statistics: UpscaleStatistics) -> NDArray[Any]:
    return np.concatenate(list(upscaler.bands(Still.of_array(rgb), statistics)))
