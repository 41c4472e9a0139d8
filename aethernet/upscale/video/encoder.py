"""Frames into segments: files that hold a few seconds of the new picture stream each."""

from __future__ import annotations

import json
import queue
import threading
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aethernet.artifact import atomic_path
from aethernet.errors import FilmError
from aethernet.upscale.video.colour import to_frame
from aethernet.upscale.video.options import ENCODER_PRESETS, FilmOptions
from aethernet.upscale.video.source import Colours, library

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Encoder", "Segment", "UpscaledFrame", "VideoFormat", "tag"]

_CONTAINER = "nut"
"""Keeps any codec and any time base as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFormat:
    """Everything an encoder has to be told."""

    width: int
    height: int
    pixel_format: str
    time_base: Fraction
    rate: Fraction
    aspect: Fraction | None
    colours: Colours

    @property
    def headroom(self) -> int:
        """Ticks that are added to time stamps inside segments, whose container moves those that would be negative."""
        return round(60 / self.time_base)


@dataclass(frozen=True, slots=True)
class UpscaledFrame:
    """An upscaled frame."""

    rgb: NDArray[np.uint16]
    pts: int
    duration: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A finished piece of the stream; its record is written after its file, and so vouches for it."""

    name: str
    """File name beside the record."""
    frames: int
    first_pts: int
    last_pts: int
    last_duration: int

    def write(self, path: Path) -> None:
        """Put the record down."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Segment:
        """The record at ``path``."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Encoder:
    """Encodes in a thread of its own; at most a few pictures wait for it.

    Args:
        folder: Where segments are put.
        video: What to encode to.
        options: With which encoder.
    """

    def __init__(self, folder: Path, video: VideoFormat, options: FilmOptions, *, depth: int = 3) -> None:
        self.folder, self.video, self.options = folder, video, options
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="encode", daemon=True)
        self._thread.start()

    def begin(self, name: str) -> None:
        """From here on pictures belong to segment ``name``."""
        self._put("begin", name)

    def add(self, picture: UpscaledFrame) -> None:
        """Queue one picture."""
        self._put("add", picture)

    def finish(self, record: Path) -> None:
        """The segment is complete: close its file and write its record."""
        self._put("finish", record)

    def close(self) -> None:
        """Wait until everything queued is on disk.

        Raises:
            FilmError: The encoder failed.
        """
        self._put("end", None)
        self._thread.join()
        self._check()

    def stop(self) -> None:
        """Throw away what is queued and end."""
        self._stopped.set()
        self._thread.join()

    def _put(self, what: str, value: Any) -> None:
        while True:
            self._check()
            try:
                return self._queue.put((what, value), timeout=0.1)
            except queue.Full:
                continue

    def _check(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            if isinstance(error, OSError | library().FFmpegError):
                raise FilmError(
                    f"the film cannot be encoded with {self.options.preset}: {error}",
                    hint="look at --encoder-option, and at the free space of the disk",
                ) from error
            raise error

    def _run(self) -> None:
        writer: _SegmentWriter | None = None
        try:
            while not self._stopped.is_set():
                try:
                    what, value = self._queue.get(timeout=0.1)
                except queue.Empty:
                    continue
                if what == "begin":
                    writer = _SegmentWriter(self.folder / value, self.video, self.options)
                elif what == "add" and writer is not None:
                    writer.add(value)
                elif what == "finish" and writer is not None:
                    writer.finish().write(value)
                    writer = None
                elif what == "end":
                    break
        except BaseException as error:  # noqa: BLE001 (it is raised again where the next picture is added)
            self._error = error
        finally:
            if writer is not None:
                writer.abandon()


class _SegmentWriter:
    """One segment; under a temporary name until it is finished."""

    def __init__(self, path: Path, video: VideoFormat, options: FilmOptions) -> None:
        av = library()
        self.path, self.video = path, video
        self.temporary = path.with_name(f"{path.name}.part")
        self.frames, self.first, self.last, self.last_duration = 0, 0, 0, 0
        self.container = av.open(str(self.temporary), "w", format=_CONTAINER)
        preset = ENCODER_PRESETS[options.preset]
        try:
            stream = self.container.add_stream(preset.codec, rate=video.rate, options=options.encoder_options)
        except Exception as error:
            raise FilmError(
                f"expected FFmpeg libraries with the encoder {preset.codec}, found none: {error}",
                hint="choose another --preset",
            ) from error
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, video.pixel_format
        stream.time_base = context.time_base = video.time_base
        if video.aspect:
            context.sample_aspect_ratio = video.aspect
        tag(context, video)
        self.stream = stream

    def add(self, picture: UpscaledFrame) -> None:
        frame = to_frame(picture.rgb, self.video.pixel_format, self.video.colours)
        frame.pts, frame.time_base = picture.pts + self.video.headroom, self.video.time_base
        if not self.frames:
            self.first = picture.pts
        self.frames += 1
        self.last, self.last_duration = picture.pts, picture.duration
        self.container.mux(self.stream.encode(frame))

    def finish(self) -> Segment:
        self.container.mux(self.stream.encode(None))
        self.container.close()
        self.temporary.replace(self.path)
        return Segment(
            name=self.path.name,
            frames=self.frames,
            first_pts=self.first,
            last_pts=self.last,
            last_duration=self.last_duration,
        )

    def abandon(self) -> None:
        self.container.close()
        self.temporary.unlink(missing_ok=True)


def tag(context: Any, video: VideoFormat) -> None:
    """Say in the stream how its values mean colours."""
    colours = video.colours
    rgb = video.pixel_format in ("gbrp10le", "bgr0")
    context.colorspace = 0 if rgb else colours.matrix or 1
    context.color_range = 2 if rgb or colours.full_range else 1
    context.color_primaries = colours.primaries
    context.color_trc = colours.transfer
