"""Everything in a video beside its images: what the new container holds, what is converted, what is left out."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from aethernet.errors import UsageError
from aethernet.upscale.video.libraries import library
from aethernet.upscale.video.source import VideoFacts

__all__ = ["Other", "TextConverter", "attach", "plan_others"]

_TEXT = {"mov_text", "subrip", "srt", "ass", "ssa", "webvtt", "text"}
_TEXT_OF = {"matroska": "subrip", "mp4": "mov_text", "mov": "mov_text", "webm": "webvtt"}
"""Container -> subtitles it holds whatever they were."""
_TURNING = ("matroska", "webm", "mp4", "mov")
"""Containers that say how images are turned and mirrored."""
_WITHOUT_CHAPTERS = ("mpegts",)
_STYLED = ("ass", "ssa")
_COVERS_IN = {"mp4": ("mjpeg", "png", "bmp")}
_COVER_ENDINGS = {"mjpeg": ".jpg", "png": ".png", "bmp": ".bmp", "gif": ".gif", "webp": ".webp", "tiff": ".tif"}


@dataclass(frozen=True, slots=True)
class Other:
    """What becomes of one stream."""

    index: int
    action: Literal["copy", "attach", "convert"]
    codec: str = ""
    """Of converted subtitles."""


def plan_others(
    container: Any, facts: VideoFacts, name: str, suffix: str, images: str
) -> tuple[list[Other], list[str]]:
    """Decide for every stream but the images.

    Args:
        container: The video, open.
        facts: Of it.
        name: FFmpeg's name of the new container.
        suffix: Of the new file, for messages.
        images: The encoder of the new images.

    Returns:
        What is kept, and what a user should be told about the rest.

    Raises:
        UsageError: The container cannot hold the images, a sound, or subtitles that are images; the message names them.
    """
    av = library()
    attached = av.stream.Disposition.attached_pic
    kept: list[Other] = []
    notes: list[str] = []
    refused: list[str] = []
    with av.open(os.devnull, "w", format=name) as trial:
        try:
            trial.add_stream(images, rate=25)
        except ValueError as error:
            if "does not support" in str(error):
                refused.append(f"images in {images}")
        for stream in container.streams:
            if stream.index == facts.video_index:
                continue
            codec = stream.codec_context.name if stream.codec_context else ""
            told = f"{stream.type} stream {stream.index} ({codec or getattr(stream, 'name', None) or 'unknown'})"
            if stream.type == "video" and stream.disposition & attached:
                if codec in _COVERS_IN.get(name, ()):
                    kept.append(Other(stream.index, "copy"))
                elif name == "matroska" and codec in _COVER_ENDINGS:
                    kept.append(Other(stream.index, "attach"))
                else:
                    notes.append(f"the cover image (stream {stream.index}, {codec}) was left out: {suffix} holds none")
            elif stream.type == "video":
                continue  # facts.notes has it
            elif stream.type == "attachment":
                if name == "matroska":
                    kept.append(Other(stream.index, "copy"))
                else:
                    notes.append(f"the attachment {stream.name or stream.index} was left out: {suffix} holds none")
            elif stream.type == "data" and stream.codec_context is None:
                note = _data(stream, container)
                notes += [note] if note else []
            elif _holds(trial, stream):
                kept.append(Other(stream.index, "copy"))
            elif codec in _TEXT and name in _TEXT_OF:
                kept.append(Other(stream.index, "convert", _TEXT_OF[name]))
                lost = ", without their styles" if codec in _STYLED else ""
                notes.append(f"the subtitles in stream {stream.index} became {_TEXT_OF[name]}{lost}; they were {codec}")
            else:
                refused.append(told)
    if facts.display_matrix and not _stands(facts.display_matrix) and name not in _TURNING:
        notes.append(f"how players shall turn or mirror the video was left out: {suffix} cannot say it")
    if name in _WITHOUT_CHAPTERS and container.chapters():
        notes.append(f"{len(container.chapters())} chapters were left out: {suffix} holds none")
    if refused:
        hint = "write .mkv" if name != "matroska" else "take .mov or .nut, or another --preset"
        raise UsageError(f"expected streams that {suffix} can hold, found {', '.join(refused)}", hint=hint)
    return kept, notes


def _stands(matrix: Sequence[int]) -> bool:
    return matrix[0] == matrix[4] > 0 and matrix[1] == matrix[3] == 0


def _holds(trial: Any, stream: Any) -> bool:
    try:
        trial.add_stream_from_template(stream)
    except ValueError:
        return False
    return True


def _data(stream: Any, container: Any) -> str:
    """What to say about a data stream, which is never copied; "" where nothing is lost."""
    mp4 = "mp4" in container.format.name
    if mp4 and "timecode" in {key.lower() for key in stream.metadata}:
        return ""  # the tag of the images says the same, and makes a new track where the container has such
    if mp4 and container.chapters() and (stream.name in (None, "bin_data")):
        return ""  # there it holds the chapters
    return f"data stream {stream.index} ({stream.name or 'unknown'}) was left out"


def attach(made: Any, packet: bytes, stream: Any) -> None:
    """Put a cover image into a container as the attachment that Matroska wants."""
    ending = _COVER_ENDINGS[stream.codec_context.name]
    metadata = {key.lower(): value for key, value in stream.metadata.items()}
    name = metadata.get("filename", f"cover{ending}")
    kind = metadata.get("mimetype") or mimetypes.guess_type(f"cover{ending}")[0] or "image/jpeg"
    made.add_attachment(name, kind, packet)


class TextConverter:
    """Subtitles of one kind of text into another.

    Args:
        stream: Where they come from.
        made: The new container; it gets a stream for them.
        codec: Of the new stream.
    """

    def __init__(self, stream: Any, made: Any, codec: str) -> None:
        self.decoder = stream.codec_context
        self.decoder.open(strict=False)  # it knows the styles from then on
        self.stream = made.add_stream(codec)
        self.encoder = self.stream.codec_context
        self.encoder.time_base = Fraction(1, 1000)
        self.stream.time_base = Fraction(1, 1000)
        self.encoder.subtitle_header = self.decoder.subtitle_header

    def convert(self, packet: Any) -> Any | None:
        """The same words as a packet of the new stream, or None where there are none or they cannot be read."""
        av = library()
        pts, duration, tick = packet.pts, packet.duration, packet.time_base
        try:
            words = self.decoder.decode2(packet)
            if words is None or not len(words):
                return None
            new = self.encoder.encode_subtitle(words)
        except (av.FFmpegError, ValueError):
            return None
        new.time_base = tick
        new.pts = new.dts = pts
        shown = words.end_display_time - words.start_display_time
        new.duration = duration or round(Fraction(shown, 1000) / tick)
        new.stream = self.stream
        return new
