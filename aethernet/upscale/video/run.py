"""Upscaling a video from its first frame to the finished file, or from where an earlier run was stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
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
from aethernet.errors import StoreError, UsageError, VideoError
from aethernet.upscale.prefetch import ahead
from aethernet.upscale.reading import Still
from aethernet.upscale.statistics import UpscaleStatistics
from aethernet.upscale.video.assembly import Interval, OtherDamage, assemble, container_format
from aethernet.upscale.video.colour import to_rgb, to_rgba
from aethernet.upscale.video.encoder import Encoder, Segment, UpscaledFrame, VideoFormat
from aethernet.upscale.video.libraries import library
from aethernet.upscale.video.options import ENCODER_PRESETS, VideoOptions
from aethernet.upscale.video.source import Damage, Frame, VideoFacts, frames, look_at, open_video
from aethernet.upscale.video.streams import Other, plan_others

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aethernet.upscale.upscaler import Upscaler

__all__ = ["is_finished", "remembered_choice", "upscale_video"]

_JOB = "job.json"
_LONGEST_NAME = 240
"""Bytes of a file name that leave room for what is written beside it."""
_TRIED = 64
"""Packets of other streams that are put into the container before the first image is upscaled."""


def parts_folder(destination: Path) -> Path:
    """Where a video's segments are kept until it is finished."""
    name = destination.name
    if len(os.fsencode(name)) > _LONGEST_NAME:  # names end at 255 bytes
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return destination.with_name(f".{name}.parts")


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
    name = container_format(destination)
    facts = look_at(source)
    start, end = options.interval
    width, height = facts.width * upscaler.scale, facts.height * upscaler.scale
    pixel_format = options.pixel_format(width, height, alpha=facts.alpha)
    kept_alpha = facts.alpha and pixel_format in ENCODER_PRESETS[options.preset].alpha_formats.values()
    video = VideoFormat(
        width=width,
        height=height,
        pixel_format=pixel_format,
        time_base=facts.time_base,
        rate=facts.rate,
        aspect=facts.aspect,
        colours=facts.colours,
        alpha=kept_alpha,
        light=facts.light,
    )
    with open_video(source) as given:
        others, left_out = plan_others(given, facts, name, destination.suffix, ENCODER_PRESETS[options.preset].codec)
    _try_out(source, destination, facts, video, options, others)
    per_segment = max(1, round(facts.rate * Fraction(options.segment_seconds)))
    folder = parts_folder(destination)
    done = _take_up(folder, _job(upscaler, source, options, per_segment), resume=options.resume)
    total = _frames_expected(facts, start, end)
    statistics = UpscaleStatistics()
    damage = Damage()
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
            damage,
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
        beginning + start if start or facts.starts_anywhere else Fraction(0),
    )
    beside = assemble(source, destination, facts, video, folder, segments, interval, others)
    if not interrupted:
        shutil.rmtree(folder, ignore_errors=True)
    count = sum(segment.frames for segment in segments)
    notes = [*facts.notes, *_changes(facts, options, kept_alpha=kept_alpha), *left_out]
    if statistics.redone_in_fp32:
        notes.append(f"{statistics.redone_in_fp32} tiles were not finite and were redone in fp32")
    if statistics.halved:
        notes.append(f"memory ran out; went on with tiles of {statistics.halved[-1][1]}x{statistics.halved[-1][0]}")
    missing = 0 if interrupted or options.start or options.end else _missing(facts, count)
    last = segments[-1]
    end_of_images = (last.last_pts + (last.last_duration or round(1 / facts.rate / facts.time_base))) * facts.time_base
    whole = not (interrupted or options.start or options.end)
    cut = _cut_off(facts, max(end_of_images, beside.end)) if whole and not missing else ""
    damaged = (
        len(damage.packets)
        or missing
        or damage.concealed
        or int(bool(cut))
        or beside.packets
        or int(bool(damage.broken_off or beside.broken_off))
    )
    notes += damages(facts, damage, beside, count, missing)
    notes += [cut] if cut else []
    if interrupted:
        notes.append(f"stopped after {count} frames; the video plays up to there; --resume goes on")
    return {
        "source": str(source),
        "destination": str(destination),
        "input_size": [facts.width, facts.height],
        "output_size": [width, height],
        "frames": count,
        "damaged": damaged,
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


def _try_out(
    source: Path,
    destination: Path,
    facts: VideoFacts,
    video: VideoFormat,
    options: VideoOptions,
    others: list[Other],
) -> None:
    """Make two black images into a video with the beginning of all other streams, and throw it away.

    Whatever the encoder or the container would refuse in the end, it refuses now.

    Raises:
        VideoError: The encoder or the container refuses something.
        StoreError: Nothing can be written there.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".aethernet-", dir=destination.parent) as name:
            folder = Path(name)
            encoder = Encoder(folder, video, options)
            try:
                encoder.begin("00000.nut")
                black = np.zeros((video.height, video.width, 4 if video.alpha else 3), np.uint16)
                first, step = round(facts.start_time / facts.time_base), max(1, round(1 / facts.rate / facts.time_base))
                for index in range(2):
                    encoder.add(UpscaledFrame(black, first + index * step, step))
                encoder.finish(folder / "00000.json")
                encoder.close()
            except BaseException:
                encoder.stop()
                raise
            interval = Interval(None, None, Fraction(0))
            made = folder / destination.name  # messages name it
            segments = [Segment.read(folder / "00000.json")]
            assemble(source, made, facts, video, folder, segments, interval, others, packets_at_most=_TRIED)
    except OSError as error:
        raise StoreError(
            f"could not write {destination}: {error.strerror or error}", hint="free space or choose another folder"
        ) from error


def _changes(facts: VideoFacts, options: VideoOptions, *, kept_alpha: bool) -> list[str]:
    """What is otherwise in the new images than in the old ones, apart from their size."""
    notes = []
    if facts.alpha and not kept_alpha:
        notes.append("transparency was left out, as --drop-alpha says")
    if options.deinterlace == "bwdif" or (options.deinterlace == "auto" and facts.interlaced):
        notes.append(
            "the video was deinterlaced with bwdif, one image for every two fields; --deinterlace off leaves it"
        )
    elif facts.interlaced:
        notes.append("the video is interlaced: both fields were upscaled as one image")
    if facts.light and ENCODER_PRESETS[options.preset].light is None:
        notes.append(
            f"what the video says about its mastering display and light level was left out: {options.preset} cannot "
            "take it; x264, x265 and svtav1 can"
        )
    if facts.light.dynamic:
        notes.append(f"what {' and '.join(facts.light.dynamic)} says image by image was left out")
    return notes


def damages(facts: VideoFacts, damage: Damage, beside: OtherDamage, count: int, missing: int) -> list[str]:
    """Words for all that was damaged in a video of which ``count`` images could be decoded."""
    notes = []
    if damage.packets:
        few = len(damage.packets)
        said = (
            "1 packet of the video is damaged: its image is"
            if few == 1
            else f"{few} packets of the video are damaged: their images are"
        )
        notes.append(f"{said} missing, the rest is whole")
    if damage.concealed:
        notes.append(f"{damage.concealed} images are damaged; the decoder mended them from their neighbours")
    if damage.broken_off:
        notes.append(f"the video cannot be read on after {count} images: {damage.broken_off}")
    if beside.leapt:
        notes.append(f"{beside.leapt} images seem to be missing: the times of a constant rate leap over them")
    if beside.packets:
        notes.append(f"{beside.packets} damaged packets of other streams were left out")
    if beside.broken_off:
        notes.append(f"the other streams cannot be read to their end: {beside.broken_off}")
    if missing:
        notes.append(f"the video was cut off: its index lists {facts.indexed_frames} images, {count} could be decoded")
    if damage.flattened:
        notes.append(f"transparency was left out of {damage.flattened} images: the first ones of the video had none")
    if damage.moved:
        notes.append(f"{damage.moved} images had times that did not go up; they were put behind the one before")
    return notes


def _cut_off(facts: VideoFacts, end: Fraction) -> str:
    """A note where a file ends before its head says, or ""."""
    if facts.stated_end is None:
        return ""
    length = facts.stated_end - facts.start_time
    # Sound begins and ends with what its encoder needs and nobody hears; some count it, some do not.
    if facts.stated_end - end <= max(Fraction(1, 4), 3 / facts.rate, length / 100):
        return ""
    return (
        f"the video was cut off: its head says {float(length):.2f} s, {float(end - facts.start_time):.2f} s are there"
    )


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
        "deinterlace": options.deinterlace,
        "drop_alpha": options.drop_alpha,
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
    damage: Damage,
    on_frame: Callable[[int], None],
) -> tuple[list[Segment], bool, float]:
    """All segments, whether Ctrl-C ended it, and seconds the network waited for frames.

    Decoding runs ahead in a thread, encoding follows in another; both queues are short.
    """
    start, end = options.interval
    count = sum(segment.frames for segment in done)
    # Decoding again is cheap beside upscaling, and starts where the first run started: the same frames for certain.
    coming = (
        (frame, (to_rgba if video.alpha else to_rgb)(frame.image, facts.colours))
        for frame in islice(frames(source, facts, start, end, damage, options.deinterlace), count, None)
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
