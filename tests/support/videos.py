"""Short videos with everything a video can have, and a way to read what is in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

__all__ = ["STAMPS", "Contents", "contents", "make_video", "moving_image"]

RATE = 8000
STAMPS = (0, 40, 80, 160, 200, 333, 400, 440, 480, 700, 740, 780, 820, 960)
"""Milliseconds at which the images of a video of variable frame rate begin."""


def moving_image(index: int, height: int = 24, width: int = 32) -> np.ndarray:
    """[H, W, 3] uint8, smooth, different for every index."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 100 * np.sin((x * (1 + c) + y * 2) / 12 + index * 0.7 + c) for c in range(3)]
    return np.rint(np.stack(planes, axis=2)).astype(np.uint8)


def _as_yuv420(rgb: np.ndarray, weights: tuple[float, float]) -> Any:
    """Limited range, by the definition in ITU-R BT.601 and BT.709; chroma on even columns, between rows."""
    red, green, blue = (rgb[..., channel] / 255 for channel in range(3))
    kr, kb = weights
    y = kr * red + (1 - kr - kb) * green + kb * blue
    planes = [16 + 219 * y]
    for part in ((blue - y) / 2 / (1 - kb), (red - y) / 2 / (1 - kr)):
        wide = np.pad(part, ((0, 0), (1, 1)), mode="edge")
        row = wide[:, :-2:2] / 4 + wide[:, 1:-1:2] / 2 + wide[:, 2::2] / 4
        planes.append(128 + 224 * (row[::2] + row[1::2]) / 2)
    return av.VideoFrame.from_ndarray(
        np.concatenate([np.rint(p).astype(np.uint8).ravel() for p in planes]).reshape(-1, rgb.shape[1]),
        format="yuv420p",
    )


def make_video(
    path: Path,
    stamps: Sequence[int] = STAMPS,
    *,
    size: tuple[int, int] = (24, 32),
    extras: bool = True,
    codec: str = "libx264",
    matrix: int = 5,
    rotation: int = 0,
) -> Path:
    """A video with images at ``stamps`` (ms); with ``extras`` two sounds, subtitles, chapters, attachment, titles.

    Args:
        path: ``.mkv`` or ``.mp4``.
        stamps: Milliseconds.
        size: Height and width.
        extras: Everything beside the images.
        codec: Of the images.
        matrix: H.273 number of the colour matrix it says it has.
        rotation: Degrees players are asked to turn it by.
    """
    tick = Fraction(1, 1000)
    weights = (0.2126, 0.0722) if matrix == 1 else (0.299, 0.114)
    with av.open(str(path), "w") as video:
        images = video.add_stream(codec, rate=25, options={"qp": "0", "preset": "ultrafast", "bf": "2"})
        images.height, images.width = size
        images.pix_fmt = "yuv420p"
        images.time_base = images.codec_context.time_base = tick
        images.codec_context.colorspace, images.codec_context.color_range = matrix, 1
        images.codec_context.color_primaries, images.codec_context.color_trc = 1, 1
        if rotation:
            images.set_display_rotation(rotation)
        sounds, words = [], None
        if extras:
            for language, title in (("deu", "Ton"), ("eng", "Commentary")):
                sound = video.add_stream("aac", rate=RATE, layout="mono")
                sound.metadata.update({"language": language, "title": title})
                sounds.append(sound)
            sounds[1].disposition = av.stream.Disposition.comment
            if path.suffix == ".mkv":
                words = video.add_mux_stream("subrip", time_base=tick)
                words.metadata.update({"language": "eng"})
                video.add_attachment("font.ttf", "font/ttf", b"not really a font")
            video.metadata["title"] = "A video"
            video.set_chapters(
                [
                    {"id": 1, "start": 0, "end": 400, "time_base": tick, "metadata": {"title": "One"}},
                    {"id": 2, "start": 400, "end": 1000, "time_base": tick, "metadata": {"title": "Two"}},
                ]
            )
        for index, stamp in enumerate(stamps):
            frame = _as_yuv420(moving_image(index, *size), weights)
            frame.pts, frame.time_base = stamp, tick
            video.mux(images.encode(frame))
        video.mux(images.encode(None))
        for number, sound in enumerate(sounds):
            wave = np.sin(np.arange(RATE) * (0.1 + 0.1 * number)).astype(np.float32)[None]
            for start in range(0, wave.shape[1], 1024):
                part = av.AudioFrame.from_ndarray(wave[:, start : start + 1024], format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = RATE, start, Fraction(1, RATE)
                video.mux(sound.encode(part))
            video.mux(sound.encode(None))
        if words is not None:
            for start, text in ((100, b"Hello"), (600, b"Goodbye")):
                packet = av.Packet(text)
                packet.stream, packet.time_base = words, tick
                packet.pts = packet.dts = start
                packet.duration = 200
                video.mux(packet)
    return path


@dataclass(frozen=True)
class Contents:
    """What a reader finds in a video."""

    streams: tuple[tuple[str, str, str | None], ...]
    """Type, codec, language."""
    stamps: tuple[Fraction, ...]
    """Seconds at which images begin."""
    packets: dict[int, tuple[tuple[Fraction, bytes], ...]]
    """Copied streams by index: times and content."""
    chapters: tuple[tuple[str, Fraction, Fraction], ...]
    metadata: dict[str, str]
    attachments: tuple[tuple[str, bytes], ...]
    colours: tuple[int, int, int, int]
    """Matrix, range, primaries, transfer, as the decoder gives them."""
    pixel_format: str
    size: tuple[int, int]
    rotation: int
    frames: tuple[Any, ...]
    """Decoded."""


def contents(path: Path) -> Contents:
    """Read a whole video."""
    with av.open(str(path)) as video:
        streams = tuple(
            (one.type, one.codec_context.name if one.codec_context else "", one.metadata.get("language"))
            for one in video.streams
        )
        chapters = tuple(
            (one["metadata"].get("title", ""), one["start"] * one["time_base"], one["end"] * one["time_base"])
            for one in video.chapters()
        )
        attachments = tuple((one.name or "", bytes(one.data)) for one in video.streams if one.type == "attachment")
        metadata = dict(video.metadata)
        copied: dict[int, list[tuple[Fraction, bytes]]] = {}
        others = [one for one in video.streams if one.type in ("audio", "subtitle")]
        for packet in video.demux(*others) if others else ():
            if packet.size:
                copied.setdefault(packet.stream.index, []).append((packet.pts * packet.time_base, bytes(packet)))
    with av.open(str(path)) as video:
        frames = tuple(video.decode(video=0))
    first = frames[0]
    return Contents(
        streams=streams,
        stamps=tuple(frame.pts * frame.time_base for frame in frames),
        packets={index: tuple(found) for index, found in copied.items()},
        chapters=chapters,
        metadata=metadata,
        attachments=attachments,
        colours=(int(first.colorspace), int(first.color_range), int(first.color_primaries), int(first.color_trc)),
        pixel_format=first.format.name,
        size=(first.height, first.width),
        rotation=int(first.rotation),
        frames=frames,
    )
