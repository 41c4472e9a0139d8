"""Reading films: frames as RGB with exact time stamps, and what is known about their colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from aethernet.errors import FilmError, MissingDependencyError

__all__ = ["Colours", "FilmFacts", "Frame", "frames", "library", "look_at", "open_film"]

# Numbers of ITU-T H.273, which FFmpeg uses too.
_RGB, _BT709, _UNSPECIFIED, _BT470BG, _SMPTE170M = 0, 1, 2, 5, 6
_LIMITED, _FULL = 1, 2
_HDR = (16, 18)
_KNOWN = (1, 4, 5, 6, 7, 9, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Colours:
    """How values of a film mean colours."""

    matrix: int
    """H.273 matrix coefficients; 0 is RGB."""
    full_range: bool
    primaries: int
    transfer: int
    assumed: tuple[str, ...] = ()
    """What the film does not say, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmFacts:
    """What is known about a film before decoding it."""

    video_index: int
    """Of the stream that is upscaled."""
    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    """Average frames per second."""
    frames: int | None
    """As far as the file says."""
    start_time: Fraction
    """Of the container, in seconds."""
    aspect: Fraction | None
    """Of a pixel."""
    rotation: int
    """Degrees the player is asked to turn pictures by."""
    colours: Colours
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture, as the decoder gives it."""

    pts: int
    """In the stream's time base."""
    duration: int
    """The same; 0 where the film does not say."""
    picture: Any


def library() -> Any:
    """PyAV. Its logging stays off: with it on, a decoding thread may wait for ever for the interpreter's lock."""
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("av", extra="video") from error
    return av


def open_film(path: Path) -> Any:
    """An input container.

    Raises:
        FilmError: It cannot be read as a film.
    """
    av = library()
    try:
        return av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise FilmError(f"expected a film at {path}, found something that cannot be read: {error}") from error


def look_at(path: Path) -> FilmFacts:
    """Facts of the stream that will be upscaled: the first that is no cover picture.

    Raises:
        FilmError: It is no film, or has no picture stream.
    """
    av = library()
    with open_film(path) as container:
        attached = av.stream.Disposition.attached_pic
        streams = [one for one in container.streams.video if not one.disposition & attached]
        if not streams:
            raise FilmError(f"expected a film with pictures, found none in {path}")
        stream = streams[0]
        first = next(_decoded(container, stream), None)
        if first is None:
            raise FilmError(f"expected a film with pictures, found none that can be decoded in {path}")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = Fraction(container.duration, av.time_base) if container.duration else None
        notes = []
        if len(streams) > 1:
            notes.append(f"only the first of {len(streams)} picture streams was upscaled; the others were left out")
        unknown = [one.index for one in container.streams if one.type == "data" and one.codec_context is None]
        if unknown and not ("mp4" in container.format.name and container.chapters()):  # there it holds the chapters
            notes.append(f"data streams {', '.join(map(str, unknown))} were left out")
        if first.interlaced_frame:
            notes.append("the film is interlaced: both fields were upscaled as one picture; deinterlace it first")
        colours = _colours(first)
        notes += colours.assumed
        if colours.transfer in _HDR:
            notes.append(
                "the film is HDR: its transfer is tagged, what it says about the mastering display is not copied"
            )
        return FilmFacts(
            video_index=stream.index,
            width=first.width,
            height=first.height,
            time_base=stream.time_base,
            rate=rate,
            frames=stream.frames or (round(seconds * rate) if seconds else None),
            start_time=Fraction(container.start_time or 0, av.time_base),
            aspect=stream.codec_context.sample_aspect_ratio or None,
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
            f"the film does not say its colour matrix: BT.{709 if matrix == _BT709 else 601} by its size, and tagged so"
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


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    stream.thread_type = "AUTO"
    yield from container.decode(stream)


def frames(path: Path, facts: FilmFacts, start: Fraction, end: Fraction | None) -> Iterator[Frame]:
    """Decoded pictures in [start, end), seconds from the film's beginning, in the order they are shown.

    Raises:
        FilmError: A picture cannot be decoded, or the size changes on the way.
    """
    av = library()
    tick = facts.time_base
    first = _ticks(facts.start_time + start, tick) if start else None
    last = _ticks(facts.start_time + end, tick) if end is not None else None
    with open_film(path) as container:
        stream = container.streams[facts.video_index]
        if first is not None:
            container.seek(first, stream=stream)  # to the key frame before
        following: int | None = None
        try:
            for frame in _decoded(container, stream):
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
                    raise FilmError(
                        f"expected pictures of {facts.width}x{facts.height} throughout, found "
                        f"{frame.width}x{frame.height} at {float(pts * tick):.2f} s"
                    )
                yield Frame(pts, duration, frame)
        except av.FFmpegError as error:
            raise FilmError(f"{path} cannot be decoded to its end: {error}") from error


def _ticks(seconds: Fraction, tick: Fraction) -> int:
    return -int(-seconds // tick)  # the first tick that is not before
