"""Reading videos: frames as RGB with exact time stamps, and what is known about their colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from aethernet.errors import MissingDependencyError, VideoError

__all__ = ["Colours", "Frame", "VideoFacts", "frames", "library", "look_at", "open_video"]

# Numbers of ITU-T H.273, which FFmpeg uses too.
_RGB, _BT709, _UNSPECIFIED, _BT470BG, _SMPTE170M = 0, 1, 2, 5, 6
_LIMITED, _FULL = 1, 2
_HDR = (16, 18)
_KNOWN = (1, 4, 5, 6, 7, 9, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Colours:
    """How values of a video mean colours."""

    matrix: int
    """H.273 matrix coefficients; 0 is RGB."""
    full_range: bool
    primaries: int
    transfer: int
    assumed: tuple[str, ...] = ()
    """What the video does not say, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """What is known about a video before decoding it."""

    video_index: int
    """Of the stream that is upscaled."""
    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    """Average frames per second."""
    frames: int | None
    """As far as the file says."""
    indexed_frames: int | None
    """As its index lists them; None where it has none."""
    start_time: Fraction
    """Of the container, in seconds."""
    aspect: Fraction | None
    """Of a pixel."""
    rotation: int
    """Degrees the player is asked to turn images by."""
    colours: Colours
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded image, as the decoder gives it."""

    pts: int
    """In the stream's time base."""
    duration: int
    """The same; 0 where the video does not say."""
    image: Any


def library() -> Any:
    """PyAV. Its logging stays off: with it on, a decoding thread may wait for ever for the interpreter's lock."""
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("av", extra="video") from error
    return av


def open_video(path: Path) -> Any:
    """An input container.

    Raises:
        VideoError: It cannot be read as a video.
    """
    av = library()
    try:
        return av.open(f"file:{path}", metadata_errors="replace")  # a colon makes no protocol
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"expected a video at {path}, found something that cannot be read: {error}") from error


def look_at(path: Path) -> VideoFacts:
    """Facts of the stream that will be upscaled: the first that is no cover image.

    Raises:
        VideoError: It is no video, or has no image stream.
    """
    av = library()
    with open_video(path) as container:
        attached = av.stream.Disposition.attached_pic
        streams = [one for one in container.streams.video if not one.disposition & attached]
        if not streams:
            raise VideoError(f"expected a video with images, found none in {path}")
        stream = streams[0]
        try:
            first = next(_decoded(container, stream), None)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(
                f"expected a video that can be decoded at {path}, found: {error}",
                hint="if it was copied or recorded only in part, its index may be missing: repair it, or copy it again",
            ) from error
        if first is None:
            raise VideoError(f"expected a video with images, found none that can be decoded in {path}")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = Fraction(container.duration, av.time_base) if container.duration else None
        notes = []
        if len(streams) > 1:
            notes.append(f"only the first of {len(streams)} image streams was upscaled; the others were left out")
        unknown = [one.index for one in container.streams if one.type == "data" and one.codec_context is None]
        if unknown and not ("mp4" in container.format.name and container.chapters()):  # there it holds the chapters
            notes.append(f"data streams {', '.join(map(str, unknown))} were left out")
        if first.interlaced_frame:
            notes.append("the video is interlaced: both fields were upscaled as one image; deinterlace it first")
        colours = _colours(first)
        notes += colours.assumed
        if colours.transfer in _HDR:
            notes.append(
                "the video is HDR: its transfer is tagged, what it says about the mastering display is not copied"
            )
        return VideoFacts(
            video_index=stream.index,
            width=first.width,
            height=first.height,
            time_base=stream.time_base,
            rate=rate,
            frames=stream.frames or (round(seconds * rate) if seconds else None),
            indexed_frames=stream.frames or None,
            start_time=Fraction(container.start_time or 0, av.time_base),
            aspect=stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or None,
            rotation=int(first.rotation),
            colours=colours,
            notes=tuple(notes),
        )


def _colours(frame: Any) -> Colours:
    assumed = []
    name = frame.format.name
    rgb = frame.format.is_rgb
    matrix, range_ = int(frame.colorspace), int(frame.color_range)
    if rgb:
        matrix = _RGB
    elif matrix not in _KNOWN:
        matrix = _BT709 if frame.height >= 720 else _BT470BG if frame.height == 576 else _SMPTE170M
        assumed.append(
            f"the video does not say its colour matrix: BT.{709 if matrix == _BT709 else 601} by its size; tagged so"
        )
    if range_ not in (_LIMITED, _FULL):
        range_ = _FULL if rgb or name.startswith(("yuvj", "gray", "pal")) else _LIMITED
    return Colours(
        matrix=matrix,
        full_range=range_ == _FULL,
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        assumed=tuple(assumed),
    )


def _decoded(container: Any, stream: Any, lost: list[int | None] | None = None) -> Iterator[Any]:
    """Images of a stream. Packets that cannot be decoded are passed over, as FFmpeg does, and counted in ``lost``."""
    stream.thread_type = "AUTO"
    av = library()
    for packet in container.demux(stream):
        try:
            images = packet.decode()
        except av.error.InvalidDataError:
            if lost is not None:
                lost.append(packet.pts if packet.pts is not None else packet.dts)
            continue
        yield from images


def frames(
    path: Path, facts: VideoFacts, start: Fraction, end: Fraction | None, lost: list[int | None] | None = None
) -> Iterator[Frame]:
    """Decoded images in [start, end), seconds from the video's beginning, in the order they are shown.

    Packets that cannot be decoded are passed over; ``lost`` gets the time stamp of each.

    Raises:
        VideoError: An image cannot be decoded, or the size changes on the way.
    """
    av = library()
    tick = facts.time_base
    first = _ticks(facts.start_time + start, tick) if start else None
    last = _ticks(facts.start_time + end, tick) if end is not None else None
    with open_video(path) as container:
        stream = container.streams[facts.video_index]
        if first is not None:
            container.seek(first, stream=stream)  # to the key frame before
        following: int | None = None
        try:
            for frame in _decoded(container, stream, lost):
                pts = frame.pts if frame.pts is not None else following
                if pts is None:
                    pts = 0
                duration = int(frame.duration or 0)
                following = pts + (duration or max(1, round(1 / facts.rate / tick)))
                if first is not None and pts < first:
                    continue
                if last is not None and pts >= last:
                    return
                if (frame.width, frame.height) != (facts.width, facts.height):
                    raise VideoError(
                        f"expected images of {facts.width}x{facts.height} throughout, found "
                        f"{frame.width}x{frame.height} at {float(pts * tick):.2f} s"
                    )
                yield Frame(pts, duration, frame)
        except av.FFmpegError as error:
            raise VideoError(f"{path} cannot be decoded to its end: {error}") from error


def _ticks(seconds: Fraction, tick: Fraction) -> int:
    return -int(-seconds // tick)  # the first tick that is not before
