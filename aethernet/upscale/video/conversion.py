"""Animated images into videos, and videos into animated images."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.artifact import atomic_path
from aethernet.upscale.animation import Animation, animation_of, on_white, write_animation
from aethernet.upscale.metadata import Metadata
from aethernet.upscale.reading import Still
from aethernet.upscale.statistics import UpscaleStatistics
from aethernet.upscale.video.assembly import OtherDamage
from aethernet.upscale.video.colour import to_rgb
from aethernet.upscale.video.libraries import library
from aethernet.upscale.video.options import VideoOptions
from aethernet.upscale.video.run import damages, upscale_video
from aethernet.upscale.video.source import Damage, Frame, VideoFacts, frames, look_at, open_video
from aethernet.upscale.writing import format_of, require_fit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aethernet.upscale.upscaler import Upscaler

__all__ = ["animation_to_video", "video_to_animation"]

_TICK = Fraction(1, 1000)


def animation_to_video(
    upscaler: Upscaler,
    source: Path,
    destination: Path,
    options: VideoOptions,
    *,
    on_frame: Callable[[int, int | None], None] = lambda *_: None,
) -> dict[str, Any]:
    """Enlarge an animated image into a video, each image for as long as it is shown.

    Args and result are those of :func:`~aethernet.upscale.video.run.upscale_video`.

    Raises:
        ImageError: It is no animation.
        VideoError: The video cannot be encoded or put together.
    """
    animation = animation_of(source)
    with tempfile.TemporaryDirectory(prefix="aethernet-") as folder:
        video = Path(folder) / f"{source.name}.mkv"
        _write_lossless(video, animation)
        # A run that was interrupted knows its source by name, size and time.
        state = source.stat()
        os.utime(video, ns=(state.st_atime_ns, state.st_mtime_ns))
        result = upscale_video(upscaler, video, destination, options, on_frame=on_frame)
    notes = [*animation.notes, *result["notes"]]
    if animation.alpha:
        notes.append("the video has no transparency: the images were put on white")
    if animation.plays:
        notes.append("a video does not say how often it is to be shown: the animation's number was dropped")
    return {**result, "source": str(source), "notes": notes}


def _write_lossless(path: Path, animation: Animation) -> None:
    """The animation as a video of RGB without loss."""
    av = library()
    delays = [max(delay, _TICK) for delay in animation.shown_delays()]
    rate = (len(delays) / sum(delays, Fraction(0))).limit_denominator(1001)
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=rate, options={"level": "3", "g": "1"})
        stream.width, stream.height = animation.size
        stream.pix_fmt = "bgr0"
        stream.time_base = stream.codec_context.time_base = _TICK
        shown = Fraction(0)
        for image, delay in zip(animation.images(), delays, strict=False):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(on_white(image)), format="rgb24")
            frame = frame.reformat(format="bgr0")
            frame.time_base, frame.pts = _TICK, round(shown / _TICK)
            frame.duration = round((shown + delay) / _TICK) - frame.pts
            container.mux(stream.encode(frame))
            shown += delay
        container.mux(stream.encode(None))


def video_to_animation(
    upscaler: Upscaler,
    source: Path,
    destination: Path,
    options: VideoOptions,
    *,
    quality: int | None = None,
    on_frame: Callable[[int, int | None], None] = lambda *_: None,
) -> dict[str, Any]:
    """Enlarge a video into an animated image, shown for ever; everything but its images is left out.

    The enlarged images are held in memory until the file is written: this is for short ones.

    Args and result are those of :func:`~aethernet.upscale.video.run.upscale_video`; ``quality`` is 1 to 100, for
    formats with loss.

    Raises:
        ImageError: The images do not fit the format.
        VideoError: The video cannot be read.
    """
    begun = time.perf_counter()
    target = format_of(destination)
    facts = look_at(source)
    width, height = facts.width * upscaler.scale, facts.height * upscaler.scale
    require_fit(target, width, height)
    start, end = options.interval
    statistics = UpscaleStatistics()
    shown: list[tuple[int, int]] = []
    damage = Damage()

    def enlarged() -> Iterator[NDArray[np.uint8]]:
        for frame in frames(source, facts, start, end, damage, options.deinterlace):
            shown.append((frame.pts, frame.duration))
            rgb = np.rint(_rgb(frame, facts) / np.float32(257)).astype(np.uint8)
            larger = np.concatenate(list(upscaler.bands(Still.of_array(rgb), statistics)))
            yield _as_shown(larger, facts.display_matrix)
            on_frame(len(shown), facts.frames)

    images = list(enlarged())
    notes = list(facts.notes)
    with atomic_path(destination) as temporary:
        notes += write_animation(
            temporary,
            target.name,
            images,
            _delays(shown, facts),
            plays=0,
            metadata=Metadata(),
            quality=quality if quality is not None else target.quality,
        )
    if facts.aspect not in (None, 1):
        notes.append(f"{target.name} has square pixels: the video's of {facts.aspect} were taken for square ones")
    if left := _left_out(source):
        notes.append(f"{target.name} holds images only: {', '.join(left)} were left out")
    notes += damages(facts, damage, OtherDamage(), len(shown), missing=0)
    return {
        "source": str(source),
        "destination": str(destination),
        "input_size": [facts.width, facts.height],
        "output_size": [images[0].shape[1], images[0].shape[0]],
        "frames": len(shown),
        "damaged": len(damage.packets) + damage.concealed + bool(damage.broken_off),
        "fps": round(len(shown) / max(time.perf_counter() - begun, 1e-9), 3),
        "seconds": {
            "network": round(statistics.network_seconds, 3),
            "total": round(time.perf_counter() - begun, 3),
        },
        "notes": notes,
    }


def _rgb(frame: Frame, facts: VideoFacts) -> NDArray[np.uint16]:
    return to_rgb(frame.image, facts.colours)


def _as_shown(image: NDArray[np.uint8], matrix: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """An image [H, W, C] turned and mirrored as the video asks its player to, to the nearest right angle."""
    if matrix is None:
        return image
    a, b, _, c, d = matrix[:5]  # a pixel at (x, y) goes to (a x + c y, b x + d y), y downwards
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return image.transpose(1, 0, 2)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]


def _delays(shown: list[tuple[int, int]], facts: VideoFacts) -> list[Fraction]:
    """Seconds from each image to the next; the last is shown as long as the video says, or as a usual one."""
    times = [pts * facts.time_base for pts, _ in shown]
    last = shown[-1][1] * facts.time_base if shown[-1][1] else 1 / facts.rate
    return [*(max(later - earlier, Fraction(0)) for earlier, later in itertools.pairwise(times)), last]


def _left_out(source: Path) -> list[str]:
    with open_video(source) as container:
        kinds = [stream.type for stream in container.streams]
    counted = {kind: kinds.count(kind) for kind in ("audio", "subtitle", "attachment")}
    return [f"{count} {kind} stream{'s' if count > 1 else ''}" for kind, count in counted.items() if count]
