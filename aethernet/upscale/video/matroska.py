"""The shape of pixels in a Matroska header. FFmpeg's muxer writes it, but its Python binding gives no way to say it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from aethernet.errors import VideoError

__all__ = ["ROOM", "set_aspect"]

ROOM = " " * 40
"""Goes behind the title of the stream; :func:`set_aspect` takes it away again and uses its place."""

_SEGMENT, _TRACKS, _TRACK, _VIDEO, _CRC = 0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0xBF
_NAME, _VOID = 0x536E, 0xEC
_WIDTH, _HEIGHT, _UNIT = 0x54B0, 0x54BA, 0x54B2
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xB0, 0xBA
_PIXELS, _RATIO = 0, 3
_HEAD = 1 << 22


@dataclass(frozen=True, slots=True)
class _Element:
    identity: int
    start: int
    """Of the content."""
    end: int


def set_aspect(path: Path, aspect: Fraction) -> None:
    """Say that a pixel of the first video track is ``aspect`` times as wide as high. The file keeps its length.

    Raises:
        VideoError: The header is not as FFmpeg writes it, or has no :data:`ROOM`.
    """
    with path.open("r+b") as file:
        data = file.read(_HEAD)
        try:
            segment = next(one for one in _elements(data, 0, len(data)) if one.identity == _SEGMENT)
            tracks = next(one for one in _elements(data, segment.start, len(data)) if one.identity == _TRACKS)
            made = _with_aspect(data[tracks.start : tracks.end], aspect)
        except (StopIteration, IndexError):
            raise VideoError(f"expected a Matroska header with room for the shape of pixels in {path}") from None
        file.seek(tracks.start)
        file.write(made)


def _with_aspect(tracks: bytes, aspect: Fraction) -> bytes:
    parts, done = [], False
    for one in _elements(tracks, 0, len(tracks)):
        content = tracks[one.start : one.end]
        if one.identity == _CRC:
            continue
        inner = list(_elements(content, 0, len(content))) if one.identity == _TRACK else []
        if not done and any(part.identity == _VIDEO for part in inner):
            content, done = _track(content, inner, aspect), True
        parts.append(_written(one.identity, content))
    body = b"".join(parts)
    has_sum = next(_elements(tracks, 0, len(tracks))).identity == _CRC
    length = len(tracks) - (6 if has_sum else 0)
    body += _void(length - len(body))
    return (_written(_CRC, zlib.crc32(body).to_bytes(4, "little")) if has_sum else b"") + body


def _track(content: bytes, inner: list[_Element], aspect: Fraction) -> bytes:
    made = []
    for one in inner:
        value = content[one.start : one.end]
        if one.identity == _NAME:
            if value := value.removesuffix(ROOM.encode()):
                made.append(_written(_NAME, value))
        elif one.identity == _VIDEO:
            made.append(_written(_VIDEO, _video(value, aspect)))
        else:
            made.append(_written(one.identity, value))
    return b"".join(made)


def _video(content: bytes, aspect: Fraction) -> bytes:
    inner = {one.identity: content[one.start : one.end] for one in _elements(content, 0, len(content))}
    width, height = (int.from_bytes(inner[key], "big") for key in (_PIXEL_WIDTH, _PIXEL_HEIGHT))
    shown = width * aspect
    unit = _PIXELS
    if shown.denominator != 1:  # no whole number of pixels: only the shape is said
        ratio = shown / height
        shown, height, unit = Fraction(ratio.numerator), ratio.denominator, _RATIO
    told = {_WIDTH: int(shown), _HEIGHT: height, _UNIT: unit}
    kept = [_written(key, value) for key, value in inner.items() if key not in told]
    new = [_written(key, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")) for key, value in told.items()]
    return b"".join([*kept, *new])


def _elements(data: bytes, place: int, end: int) -> Iterator[_Element]:
    while place < end:
        length = 9 - data[place].bit_length()
        identity = int.from_bytes(data[place : place + length], "big")
        place += length
        length = 9 - data[place].bit_length()
        size = int.from_bytes(data[place : place + length], "big") & ((1 << 7 * length) - 1)
        place += length
        yield _Element(identity, place, place + size)
        place += size


def _written(identity: int, content: bytes, length: int = 0) -> bytes:
    size = len(content)
    length = length or next(n for n in range(1, 9) if size < (1 << 7 * n) - 1)
    name = identity.to_bytes((identity.bit_length() + 7) // 8, "big")
    return name + (size | 1 << 7 * length).to_bytes(length, "big") + content


def _void(room: int) -> bytes:
    """An element of ``room`` bytes that says nothing."""
    if room == 0:
        return b""
    if room < 2:
        raise IndexError(room)
    length = 1 if room < 120 else 8
    return _written(_VOID, bytes(room - 1 - length), length)
