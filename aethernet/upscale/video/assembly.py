"""The finished film: the new picture stream from its segments, every other stream copied."""

from __future__ import annotations

import heapq
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from aethernet.artifact import atomic_path
from aethernet.errors import FilmError, UsageError
from aethernet.upscale.video.encoder import Segment, VideoFormat, tag
from aethernet.upscale.video.source import FilmFacts, library, open_film

__all__ = ["CONTAINERS", "Interval", "assemble", "container_format", "require_copyable"]

CONTAINERS = {
    ".mkv": "matroska",
    ".webm": "webm",
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".avi": "avi",
    ".ts": "mpegts",
    ".nut": "nut",
}
"""File ending -> FFmpeg's name of the container."""

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
)


@dataclass(frozen=True, slots=True)
class Interval:
    """Part of the film that is kept, in seconds of its own time; ``shift`` is taken from every time stamp."""

    start: Fraction | None
    end: Fraction | None
    shift: Fraction


def container_format(path: Path) -> str:
    """The container a file name asks for.

    Raises:
        UsageError: None that is known.
    """
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError:
        raise UsageError(f"expected a film called {', '.join(CONTAINERS)}, found {path.name}") from None


def require_copyable(source: Path, destination: Path, facts: FilmFacts, codec: str) -> None:
    """Find out before any work whether the output's container can hold everything.

    Raises:
        UsageError: It cannot; the message names the streams.
    """
    av = library()
    name = container_format(destination)
    refused = []
    with open_film(source) as given, av.open(os.devnull, "w", format=name) as trial:
        try:
            trial.add_stream(codec, rate=25)
        except ValueError:
            refused.append(f"pictures in {codec}")
        for stream in _others(given, facts):
            try:
                trial.add_stream_from_template(stream)
            except ValueError:
                described = stream.codec_context.name if stream.codec_context else ""
                refused.append(f"{stream.type} stream {stream.index} ({described or 'unknown'})")
    if refused:
        own = source.suffix.lower()
        other = own if destination.suffix.lower() == ".mkv" and own in CONTAINERS else ".mkv"
        raise UsageError(
            f"expected streams that {destination.suffix} can hold, found {', '.join(refused)}", hint=f"write {other}"
        )


def _others(container: Any, facts: FilmFacts) -> list[Any]:
    attached = library().stream.Disposition.attached_pic
    return [
        stream
        for stream in container.streams
        if stream.index != facts.video_index
        and stream.type in ("audio", "subtitle", "attachment", "data", "video")
        and (stream.type != "video" or stream.disposition & attached)
        and (stream.type != "data" or stream.codec_context is not None)
    ]


def assemble(
    source: Path,
    destination: Path,
    facts: FilmFacts,
    video: VideoFormat,
    folder: Path,
    segments: Sequence[Segment],
    interval: Interval,
) -> None:
    """Write the film in one step.

    Args:
        source: Where everything but the pictures comes from.
        destination: Replaced when the new film is complete.
        facts: Of ``source``.
        video: Of the new pictures.
        folder: Where the segments lie.
        segments: In order, without gaps.
        interval: What to keep of the other streams.

    Raises:
        FilmError: The container refuses something.
        StoreError: The disk is full or cannot be written.
    """
    av = library()
    shown = [pts for segment in segments for pts, _ in _packets(folder, segment, video)]
    stamps = sorted(shown)
    # How many pictures decoding has to be ahead of showing.
    delay = max(count - (bisect_right(stamps, pts) - 1) for count, pts in enumerate(shown))
    end_of_video = (stamps[-1] + (segments[-1].last_duration or 1)) * video.time_base
    if interval.end is None or end_of_video < interval.end:
        interval = Interval(interval.start, end_of_video if _cut_short(facts, end_of_video) else None, interval.shift)
    name = container_format(destination)
    # Bit for bit the same film from the same segments: no random numbers, no version of the tool.
    options = {"fflags": "+bitexact"} | ({"movflags": "+faststart"} if name in ("mp4", "mov") else {})
    try:
        with (
            atomic_path(destination) as temporary,
            open_film(source) as given,
            av.open(str(folder / segments[0].name)) as pattern,
            av.open(str(temporary), "w", format=name, options=options) as made,
        ):
            made.metadata.update(_kept(given.metadata))
            pictures = made.add_stream_from_template(pattern.streams.video[0], opaque=True)
            old = given.streams[facts.video_index]
            pictures.time_base = video.time_base
            pictures.metadata.update(_kept(old.metadata))
            pictures.disposition = old.disposition
            tag(pictures.codec_context, video)
            if video.aspect:
                pictures.codec_context.sample_aspect_ratio = video.aspect
            if facts.rotation:
                pictures.set_display_rotation(facts.rotation)
            copies = {}
            for stream in _others(given, facts):
                copy = made.add_stream_from_template(stream)
                copy.metadata.update(_kept(stream.metadata))
                copy.disposition = stream.disposition
                copies[stream.index] = copy
            made.set_chapters(_chapters(given.chapters(), interval))
            made.start_encoding()
            moved = int(interval.shift / video.time_base)
            streams = [
                _new_pictures(folder, segments, video, stamps, delay, pictures, moved),
                _copied(given, copies, interval),
            ]
            for _, packet in heapq.merge(*streams, key=lambda entry: entry[0]):
                made.mux_one(packet)
    except av.FFmpegError as error:
        raise FilmError(f"the film cannot be put together as {destination.name}: {error}") from error


def _cut_short(facts: FilmFacts, end: Fraction) -> bool:
    """Whether the pictures stop before the film does, so that sound beyond them would play over nothing."""
    return facts.frames is not None and end - facts.start_time < (facts.frames - 2) / facts.rate


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if not key.lower().startswith(_STALE)}


def _packets(folder: Path, segment: Segment, video: VideoFormat) -> Iterator[tuple[int, Any]]:
    """Packets in the order of decoding, with the time of showing in the film's own time base."""
    with library().open(str(folder / segment.name)) as container:
        for packet in container.demux(container.streams.video[0]):
            if packet.size:
                yield round(packet.pts * packet.time_base / video.time_base) - video.headroom, packet


def _new_pictures(
    folder: Path,
    segments: Sequence[Segment],
    video: VideoFormat,
    stamps: Sequence[int],
    delay: int,
    stream: Any,
    moved: int,
) -> Iterator[tuple[Fraction, Any]]:
    """Packets with decoding times that fit over all segments.

    An encoder that starts anew does not know how late the one before let its last pictures be decoded. The times of
    showing, sorted and put off by the deepest reordering there is, always fit.
    """
    count = 0
    for segment in segments:
        for pts, packet in _packets(folder, segment, video):
            place = bisect_right(stamps, pts)
            following = stamps[place] if place < len(stamps) else pts + (segments[-1].last_duration or 1)
            index = count - delay
            decoded = stamps[index] if index >= 0 else stamps[0] + index
            packet.time_base = video.time_base
            packet.pts, packet.dts, packet.duration = pts - moved, decoded - moved, following - pts
            packet.stream = stream
            count += 1
            yield packet.dts * packet.time_base, packet


def _copied(container: Any, copies: dict[int, Any], interval: Interval) -> Iterator[tuple[Fraction, Any]]:
    """Packets of all other streams, inside the interval, as they are."""
    # Attachments and cover pictures travel in the header or as single packets; only what has packets is read.
    streams = [container.streams[index] for index in copies if container.streams[index].type != "attachment"]
    if not streams:
        return
    attached = library().stream.Disposition.attached_pic
    latest = Fraction(0)
    for packet in container.demux(*streams):
        if not packet.size:
            continue
        source, tick = packet.stream, packet.time_base
        stamp = packet.pts if packet.pts is not None else packet.dts
        cover = source.type == "video" and source.disposition & attached
        if stamp is not None and not cover:
            time = stamp * tick
            if interval.start is not None and time < interval.start:
                continue
            if interval.end is not None and time >= interval.end:
                continue
            moved = round(interval.shift / tick)
            packet.pts = packet.pts - moved if packet.pts is not None else None
            packet.dts = packet.dts - moved if packet.dts is not None else packet.pts
            latest = max(latest, packet.dts * tick)
        packet.stream = copies[source.index]
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
