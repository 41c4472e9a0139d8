"""Frames into segments: files that hold a few seconds of the new image stream each."""

from __future__ import annotations

import json
import queue
import threading
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aethernet.artifact import atomic_path
from aethernet.errors import VideoError
from aethernet.upscale.video.colour import to_frame
from aethernet.upscale.video.hdr import Light
from aethernet.upscale.video.libraries import library, url
from aethernet.upscale.video.options import ENCODER_PRESETS, VideoOptions
from aethernet.upscale.video.source import Colours

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Encoder", "Segment", "UpscaledFrame", "VideoFormat", "tag"]


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
    alpha: bool = False
    """Whether the pixel format has transparency."""
    light: Light = field(default_factory=Light)

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
    stamps: list[int] | None = None
    """Times of showing, where the segment's container does not keep them."""

    def write(self, path: Path) -> None:
        """Put the record down."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Segment:
        """The record at ``path``."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Encoder:
    """Encodes in a thread of its own; at most a few images wait for it.

    Args:
        folder: Where segments are put.
        video: What to encode to.
        options: With which encoder.
    """

    def __init__(self, folder: Path, video: VideoFormat, options: VideoOptions, *, depth: int = 3) -> None:
        self.folder, self.video, self.options = folder, video, options
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="encode", daemon=True)
        self._thread.start()

    def begin(self, name: str) -> None:
        """From here on images belong to segment ``name``."""
        self._put("begin", name)

    def add(self, image: UpscaledFrame) -> None:
        """Queue one image."""
        self._put("add", image)

    def finish(self, record: Path) -> None:
        """The segment is complete: close its file and write its record."""
        self._put("finish", record)

    def close(self) -> None:
        """Wait until everything queued is on disk.

        Raises:
            VideoError: The encoder failed.
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
                raise VideoError(
                    f"the video cannot be encoded with {self.options.preset}: {error}",
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
        except BaseException as error:  # noqa: BLE001 (it is raised again where the next image is added)
            self._error = error
        finally:
            if writer is not None:
                writer.abandon()


class _SegmentWriter:
    """One segment; under a temporary name until it is finished."""

    def __init__(self, path: Path, video: VideoFormat, options: VideoOptions) -> None:
        av = library()
        self.path, self.video = path, video
        self.temporary = path.with_name(f"{path.name}.part")
        self.frames, self.first, self.last, self.last_duration = 0, 0, 0, 0
        preset = ENCODER_PRESETS[options.preset]
        # NUT keeps any time base as it is, Matroska only milliseconds; there, images are counted.
        self.stamps: list[int] | None = None if preset.container == "nut" else []
        self.container = av.open(url(self.temporary), "w", format=preset.container)
        given = options.encoder_options(video.light)
        try:
            stream = self.container.add_stream(preset.codec, rate=video.rate, options=given)
        except Exception as error:
            raise VideoError(
                f"expected FFmpeg libraries with the encoder {preset.codec}, found none: {error}",
                hint="choose another --preset",
            ) from error
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, video.pixel_format
        stream.time_base = context.time_base = video.time_base if self.stamps is None else 1 / video.rate
        if video.alpha and preset.codec.startswith("libvpx"):
            stream.metadata["alpha_mode"] = "1"
        if video.aspect:
            context.sample_aspect_ratio = video.aspect
        tag(context, video)
        self.stream = stream

    def add(self, image: UpscaledFrame) -> None:
        frame = to_frame(image.rgb, self.video.pixel_format, self.video.colours)
        if self.stamps is None:
            frame.pts, frame.time_base = image.pts + self.video.headroom, self.video.time_base
        else:
            frame.pts, frame.time_base = self.frames, 1 / self.video.rate
            self.stamps.append(image.pts)
        if not self.frames:
            self.first = image.pts
        self.frames += 1
        self.last, self.last_duration = image.pts, image.duration
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
            stamps=self.stamps,
        )

    def abandon(self) -> None:
        self.container.close()
        self.temporary.unlink(missing_ok=True)


def tag(context: Any, video: VideoFormat) -> None:
    """Say in the stream how its values mean colours."""
    colours = video.colours
    rgb = video.pixel_format in ("gbrp10le", "gbrap10le", "bgr0", "bgra")
    context.colorspace = 0 if rgb else colours.matrix or 1
    context.color_range = 2 if rgb or colours.full_range else 1
    context.color_primaries = colours.primaries
    context.color_trc = colours.transfer
