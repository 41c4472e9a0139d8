"""The finished video: the new image stream from its segments, every other stream copied."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from aethernet.artifact import atomic_path
from aethernet.errors import UsageError, VideoError
from aethernet.upscale.video.encoder import Segment, VideoFormat, tag
from aethernet.upscale.video.libraries import library, url
from aethernet.upscale.video.matroska import ROOM, set_aspect
from aethernet.upscale.video.source import VideoFacts, open_video
from aethernet.upscale.video.stamps import may_jump, packets, regular_times
from aethernet.upscale.video.streams import Other, TextConverter, attach

__all__ = ["CONTAINERS", "Interval", "OtherDamage", "assemble", "container_format"]

CONTAINERS = {
    ".mkv": "matroska",
    ".webm": "webm",
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".ts": "mpegts",
    ".nut": "nut",
}
"""File ending -> FFmpeg's name of the container."""

_MANY_AT_ONCE = ("matroska", "webm")
"""Containers in which two packets of a stream may have the same time."""

# Facts about the container that was, and about streams that change.
_STALE = (
    "encoder",
    "major_brand",
    "minor_version",
    "compatible_brands",
    "duration",
    "bps",
    "number_of_",
    "_statistics",
    "alpha_mode",
)


@dataclass(frozen=True, slots=True)
class Interval:
    """Part of the video that is kept, in seconds of its own time; ``shift`` is taken from every time stamp."""

    start: Fraction | None
    end: Fraction | None
    shift: Fraction


@dataclass(slots=True)
class OtherDamage:
    """What was found to be damaged while everything was put together."""

    packets: int = 0
    """Left out."""
    broken_off: str = ""
    """Why the file could not be read on, in FFmpeg's words."""
    end: Fraction = Fraction(0)
    """Of the last packet, in seconds of the file."""
    leapt: int = 0
    """Images that times of a constant rate leap over, in a few places."""


def container_format(path: Path) -> str:
    """The container a file name asks for.

    Raises:
        UsageError: None that is known.
    """
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError:
        hint = "AVI stores no times of showing; take .mkv" if path.suffix.lower() == ".avi" else ""
        raise UsageError(f"expected a video called {', '.join(CONTAINERS)}, found {path.name}", hint=hint) from None


def assemble(
    source: Path,
    destination: Path,
    facts: VideoFacts,
    video: VideoFormat,
    folder: Path,
    segments: Sequence[Segment],
    interval: Interval,
    others: Sequence[Other],
    *,
    packets_at_most: int | None = None,
) -> OtherDamage:
    """Write the video in one step.

    Args:
        source: Where everything but the images comes from.
        destination: Replaced when the new video is complete.
        facts: Of ``source``.
        video: Of the new images.
        folder: Where the segments lie.
        segments: In order, without gaps.
        interval: What to keep of the other streams.
        others: What becomes of them.
        packets_at_most: Of the other streams together; None is all.

    Returns:
        What was damaged in the other streams, and seems to be missing in the images.

    Raises:
        VideoError: The container refuses something.
        StoreError: The disk is full or cannot be written.
    """
    av = library()
    shown = [pts for segment in segments for pts, _ in _packets(folder, segment, video)]
    stamps = sorted(shown)
    # How many images decoding has to be ahead of showing.
    delay = max(count - (bisect_right(stamps, pts) - 1) for count, pts in enumerate(shown))
    usual = max(1, round(1 / facts.rate / video.time_base))
    last_duration = segments[-1].last_duration or usual
    end_of_video = (stamps[-1] + last_duration) * video.time_base
    if interval.end is None or end_of_video < interval.end:
        interval = Interval(interval.start, end_of_video if _cut_short(facts, end_of_video) else None, interval.shift)
    name = container_format(destination)
    # Bit for bit the same video from the same segments: no random numbers, no version of the tool.
    options = {"fflags": "+bitexact"} | ({"movflags": "+faststart"} if name in ("mp4", "mov") else {})
    numbers = regular_times(stamps, video.time_base, facts.rate)
    # Times in whole milliseconds, as Matroska rounds them, would make a constant rate look variable in MP4.
    exact = numbers is not None and name in ("mp4", "mov") and (1 / facts.rate / video.time_base).denominator != 1
    clock = _Clock(video.time_base)
    if exact and numbers is not None:
        clock = _Clock(
            1 / Fraction(facts.rate.numerator), dict(zip(stamps, numbers, strict=True)), facts.rate.denominator
        )
        clock.begin = round(stamps[0] * video.time_base * facts.rate.numerator)
    shaped = name in ("matroska", "webm") and video.aspect not in (None, 1)
    damage = OtherDamage(leapt=_leapt(numbers))
    try:
        with atomic_path(destination) as temporary:
            with (
                open_video(source) as given,
                av.open(url(folder / segments[0].name)) as pattern,
                av.open(url(temporary), "w", format=name, options=options) as made,
            ):
                made.metadata.update(_kept(given.metadata))
                images = made.add_stream_from_template(pattern.streams.video[0], opaque=True)
                old = given.streams[facts.video_index]
                images.time_base = clock.tick
                # A header states one rate; where there is none, nothing is better than the unit of time.
                timecode = any(key.lower() == "timecode" for key in old.metadata)
                images.codec_context.framerate = facts.rate if numbers is not None or timecode else Fraction(0)
                images.metadata.update(_kept(old.metadata))
                if video.alpha and pattern.streams.video[0].codec_context.name.endswith("vp9"):
                    images.metadata["alpha_mode"] = "1"
                if shaped:
                    images.metadata["title"] = images.metadata.get("title", "") + ROOM
                images.disposition = old.disposition
                tag(images.codec_context, video)
                if video.aspect:
                    images.codec_context.sample_aspect_ratio = video.aspect
                if facts.display_matrix:
                    images.set_display_matrix(_enlarged(facts.display_matrix, Fraction(video.width, facts.width)))
                copies = _add_others(made, given, others)
                made.set_chapters(_chapters(given.chapters(), interval))
                made.start_encoding()
                streams = [
                    _new_images(folder, segments, video, stamps, delay, images, interval.shift, clock, last_duration),
                    islice(_copied(given, copies, interval, damage, strict=name not in _MANY_AT_ONCE), packets_at_most),
                ]
                for _, packet in heapq.merge(*streams, key=lambda entry: entry[0]):
                    made.mux_one(packet)
            if shaped and video.aspect:
                set_aspect(temporary, video.aspect)
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"the video cannot be put together as {destination.name}: {error}") from error
    return damage


@dataclass(slots=True)
class _Clock:
    """From the time stamps of the images to those that the new stream gets."""

    tick: Fraction
    numbers: dict[int, int] | None = None
    """At a constant rate: time stamp -> number of the image."""
    step: int = 1
    """Between images at a constant rate, in ticks."""
    begin: int = 0
    """Of the first image."""

    def time(self, stamp: int) -> int:
        return stamp if self.numbers is None else self.begin + self.numbers[stamp] * self.step


def _enlarged(matrix: Sequence[int], factor: Fraction) -> list[int]:
    """A display matrix whose shifts are those of a larger image."""
    return [round(value * factor) if place in (6, 7) else value for place, value in enumerate(matrix)]


def _add_others(made: Any, given: Any, others: Sequence[Other]) -> dict[int, Any]:
    """Streams of the new container, by the old ones' index."""
    copies: dict[int, Any] = {}
    for other in others:
        stream = given.streams[other.index]
        if other.action == "attach":
            if picture := next((bytes(packet) for packet in _first_packets(given.name, other.index)), None):
                attach(made, picture, stream)
            continue
        if other.action == "convert":
            copy = copies[other.index] = TextConverter(stream, made, other.codec)
            new = copy.stream
        else:
            new = copies[other.index] = made.add_stream_from_template(stream)
        new.metadata.update(_kept(stream.metadata))
        new.disposition = stream.disposition
    return copies


def _first_packets(name: str, index: int) -> Iterator[Any]:
    with library().open(name) as container:
        yield from (packet for packet in container.demux(container.streams[index]) if packet.size)


def _leapt(numbers: Sequence[int] | None) -> int:
    """Images that are missing between others. Where many are, they were left out on purpose, as screen recorders do."""
    leaps = [after - before - 1 for before, after in pairwise(numbers or ()) if after - before > 1]
    return sum(leaps) if numbers and len(leaps) <= max(3, len(numbers) // 100) else 0


def _cut_short(facts: VideoFacts, end: Fraction) -> bool:
    """Whether the images stop before the video does, so that sound beyond them would play over nothing."""
    return facts.frames is not None and end - facts.start_time < (facts.frames - 2) / facts.rate


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not key.lower().startswith(_STALE)}


def _packets(folder: Path, segment: Segment, video: VideoFormat) -> Iterator[tuple[int, Any]]:
    """Packets in the order of decoding, with the time of showing in the video's own time base."""
    count = 0
    with library().open(url(folder / segment.name)) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.size and segment.stamps is not None:
                yield segment.stamps[count], packet
                count += 1
            elif packet.size:
                yield round(packet.pts * packet.time_base / video.time_base) - video.headroom, packet


def _new_images(
    folder: Path,
    segments: Sequence[Segment],
    video: VideoFormat,
    stamps: Sequence[int],
    delay: int,
    stream: Any,
    shift: Fraction,
    clock: _Clock,
    last_duration: int,
) -> Iterator[tuple[Fraction, Any]]:
    """Packets with decoding times that fit over all segments.

    An encoder that starts anew does not know how late the one before let its last images be decoded. The times of
    showing, sorted and put off by the deepest reordering there is, always fit.
    """
    count = 0
    moved = round(shift / clock.tick)
    times = [clock.time(stamp) for stamp in stamps]
    ends = [*times[1:], times[-1] + (clock.step if clock.numbers else last_duration)]
    for segment in segments:
        for stamp, packet in _packets(folder, segment, video):
            place = bisect_right(stamps, stamp) - 1
            index = count - delay
            decoded = times[index] if index >= 0 else times[0] + index
            packet.time_base = clock.tick
            packet.pts, packet.dts = times[place] - moved, decoded - moved
            packet.duration = ends[place] - times[place]
            packet.stream = stream
            count += 1
            yield packet.dts * packet.time_base, packet


def _copied(
    container: Any, copies: dict[int, Any], interval: Interval, damage: OtherDamage, *, strict: bool
) -> Iterator[tuple[Fraction, Any]]:
    """Packets of all other streams, inside the interval: as they are, or as other words.

    Damaged ones are left out, and where the file cannot be read on, they end; ``damage`` is told.
    """
    # Attachments travel in the header; only what has packets is read.
    streams = [container.streams[index] for index in copies if container.streams[index].type != "attachment"]
    if not streams:
        return
    av = library()
    attached = av.stream.Disposition.attached_pic
    latest = Fraction(0)
    earliest: dict[int, int] = {}
    coming = packets(container, streams)
    while True:
        try:
            packet = next(coming, None)
        except av.FFmpegError as error:
            damage.broken_off = str(error.strerror or error)
            return
        if packet is None:
            return
        if not packet.size:
            continue
        if packet.is_corrupt and not may_jump(container):  # there the mark may mean only that recordings were joined
            damage.packets += 1
            continue
        source, tick = packet.stream, packet.time_base
        if packet.pts is not None and source.type != "video":
            damage.end = max(damage.end, (packet.pts + (packet.duration or 0)) * tick)
        stamp = packet.pts if packet.pts is not None else packet.dts
        cover = source.type == "video" and source.disposition & attached
        copy = copies[source.index]
        if isinstance(copy, TextConverter):
            packet = copy.convert(packet)
            if packet is None or stamp is None:
                continue
            tick = packet.time_base
        else:
            packet.stream = copy
        if stamp is not None and not cover:
            time = stamp * tick
            if interval.start is not None and time < interval.start:
                continue
            if interval.end is not None and time >= interval.end:
                continue
            moved = round(interval.shift / tick)
            packet.pts = packet.pts - moved if packet.pts is not None else None
            packet.dts = packet.dts - moved if packet.dts is not None else packet.pts
            # What goes back, no container takes; FFmpeg does the same.
            if packet.dts < (least := earliest.get(source.index, packet.dts)):
                packet.dts, packet.pts = least, max(packet.pts if packet.pts is not None else least, least)
            earliest[source.index] = packet.dts + strict
            latest = max(latest, packet.dts * tick)
        yield latest, packet


def _chapters(chapters: Sequence[Any], interval: Interval) -> list[Any]:
    """Chapters inside the interval, moved with it."""
    kept = []
    for chapter in chapters:
        tick = chapter["time_base"] or Fraction(1, 1000)
        start, end = chapter["start"] * tick, chapter["end"] * tick
        if (interval.end is not None and start >= interval.end) or (
            interval.start is not None and end <= interval.start
        ):
            continue
        start = max(start, interval.start) if interval.start is not None else start
        end = min(end, interval.end) if interval.end is not None else end
        moved = {"start": round((start - interval.shift) / tick), "end": round((end - interval.shift) / tick)}
        kept.append({**chapter, **moved, "time_base": tick})
    return kept
