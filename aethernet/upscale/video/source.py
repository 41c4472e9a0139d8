"""Reading videos: frames as RGB with exact time stamps, and what is known about their colours."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from aethernet.errors import VideoError
from aethernet.upscale.video.hdr import Light, light_of
from aethernet.upscale.video.libraries import library, url
from aethernet.upscale.video.stamps import ByOrder, may_jump, mended_packets, packets

__all__ = ["Colours", "Damage", "Frame", "VideoFacts", "frames", "is_transparent", "look_at", "open_video"]

# Numbers of ITU-T H.273, which FFmpeg uses too.
_RGB, _BT709, _UNSPECIFIED, _BT470BG, _SMPTE170M = 0, 1, 2, 5, 6
_LIMITED, _FULL = 1, 2
_HDR = (16, 18)
_KNOWN = (1, 4, 5, 6, 7, 9, 10)
_FASTEST = 1000
"""Images per second beyond which a stated rate is only the unit that time is counted in."""
_LOOKED_AT = 12
"""Images that are looked at for interlacing."""
_TRANSPARENT = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Codecs whose transparency only another decoder gives."""


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
    stated_end: Fraction | None
    """Of the longest stream as the file's head says, in seconds; None where the head says nothing."""
    aspect: Fraction | None
    """Of a pixel."""
    display_matrix: tuple[int, ...] | None
    """How the player is asked to turn and mirror images, in FFmpeg's layout; lengths are pixels times 65536."""
    colours: Colours
    alpha: bool
    """Whether pixels have transparency; of palettes and GIF, whether the first images use it."""
    decoder: str | None
    """FFmpeg's name of the decoder, where it is not the one that it takes by itself."""
    interlaced: bool
    light: Light
    starts_anywhere: bool
    """Whether the container's clock may begin at any time, as that of a recording does."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded image, as the decoder gives it."""

    pts: int
    """In the stream's time base."""
    duration: int
    """The same; 0 where the video does not say."""
    image: Any


@dataclass(slots=True)
class Damage:
    """What was found to be damaged while decoding."""

    packets: list[int | None] = field(default_factory=list)
    """Time stamp of every packet that could not be decoded."""
    concealed: int = 0
    """Images that the decoder mended from their neighbours."""
    broken_off: str = ""
    """Why the file could not be read on, in FFmpeg's words."""
    flattened: int = 0
    """Images that are transparent in a video that began without."""
    moved: int = 0
    """Images whose time stamps did not go up."""


def open_video(path: Path) -> Any:
    """An input container.

    Raises:
        VideoError: It cannot be read as a video.
    """
    av = library()
    try:
        return av.open(url(path), metadata_errors="replace")
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
        if stream.codec_context is None:
            raise VideoError(
                f"expected a video that can be decoded at {path}, found one that does not say how its images are coded",
                hint="if it was copied or recorded only in part, its index may be missing: repair it, or copy it again",
            )
        decoder = _other_decoder(stream)
        try:
            images = list(islice(_decoded(container, stream, decoder=decoder), _LOOKED_AT))
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(
                f"expected a video that can be decoded at {path}, found: {error}",
                hint="if it was copied or recorded only in part, its index may be missing: repair it, or copy it again",
            ) from error
        if not images:
            raise VideoError(f"expected a video with images, found none that can be decoded in {path}")
        first = images[0]
        if not first.width or not first.height:
            raise VideoError(f"expected images with a width and a height, found none in {path}")
        rate = next((one for one in (stream.average_rate, stream.guessed_rate) if one and 0 < one <= _FASTEST), None)
        rate = rate or Fraction(25)
        seconds = Fraction(container.duration, av.time_base) if (container.duration or 0) > 0 else None
        notes = []
        if len(streams) > 1:
            notes.append(f"only the first of {len(streams)} image streams was upscaled; the others were left out")
        colours = _colours(first)
        notes += colours.assumed
        return VideoFacts(
            video_index=stream.index,
            width=first.width,
            height=first.height,
            time_base=stream.time_base or Fraction(1, 1000),
            rate=rate,
            frames=stream.frames or (round(seconds * rate) if seconds else None),
            # AVI's counts images that stand for "the same again", too.
            indexed_frames=None if container.format.name == "avi" else stream.frames or None,
            start_time=Fraction(container.start_time or 0, av.time_base),
            stated_end=_stated_end(container),
            aspect=stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or None,
            display_matrix=_display_matrix(first),
            colours=colours,
            alpha=_says_alpha(stream, first) or any(is_transparent(image) for image in images),
            decoder=decoder,
            interlaced=any(image.interlaced_frame for image in images),
            light=light_of(first),
            starts_anywhere=may_jump(container),
            notes=tuple(notes),
        )


def _stated_end(container: Any) -> Fraction | None:
    if may_jump(container) or not container.duration or container.duration < 0:
        return None
    return Fraction((container.start_time or 0) + container.duration, library().time_base)


def _other_decoder(stream: Any) -> str | None:
    name = stream.codec_context.codec.name if stream.codec_context else ""
    other = _TRANSPARENT.get("vp9" if "vp9" in name else name)
    tagged = any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
    return other if tagged and other in library().codecs_available else None


def _says_alpha(stream: Any, image: Any) -> bool:
    """Whether pixels have transparency, used or not. Palettes and GIF always could, and mostly do not."""
    return stream.codec_context.name != "gif" and any(component.is_alpha for component in image.format.components)


def is_transparent(image: Any) -> bool:
    """Whether any pixel of an image lets something through."""
    if not image.format.has_palette and not any(component.is_alpha for component in image.format.components):
        return False
    return bool((image.to_ndarray(format="rgba")[..., 3] < 255).any())


def _display_matrix(image: Any) -> tuple[int, ...] | None:
    for index in range(len(image.side_data)):
        one = image.side_data[index]
        if one.type.name == "DISPLAYMATRIX":
            return struct.unpack("=9i", bytes(one)[:36])
    return None


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


def _decoded(container: Any, stream: Any, damage: Damage | None = None, decoder: str | None = None) -> Iterator[Any]:
    """Images of a stream. What cannot be decoded is passed over, as FFmpeg does, and noted in ``damage``."""
    av = library()
    damage = damage if damage is not None else Damage()
    if decoder is None:
        context = stream.codec_context
        stream.thread_type = "AUTO"
    else:
        context = av.CodecContext.create(decoder, "r")
        context.extradata = stream.codec_context.extradata
    order, begun = ByOrder(container), False
    coming = packets(container, [stream])
    while True:
        try:
            packet = next(coming, None)
        except av.FFmpegError as error:
            damage.broken_off = str(error.strerror or error)
            packet = None
        try:
            if packet is None:
                images = context.decode(None)
            else:
                order.entered(packet)
                images = context.decode(packet) if packet.size else []
        except av.error.EOFError:
            return
        except av.FFmpegError:
            if packet is None:
                return
            order.lost(packet)
            damage.packets.append(packet.pts if packet.pts is not None else packet.dts)
            continue
        for image in images:
            if packet is not None and image.time_base is None:
                image.time_base = packet.time_base
            pts = order.time(image.pts)
            if pts != image.pts:
                image.pts = pts
            # Before the first whole image they are what a cut between key frames leaves, and nothing is damaged.
            begun = begun or not image.is_corrupt
            damage.concealed += begun and bool(image.is_corrupt)
            yield image
        if packet is None:
            return


def _deinterlaced(images: Iterator[Any], facts: VideoFacts, which: str) -> Iterator[Any]:
    """One image of full height for every two fields, by the Bob Weaver filter; ``which`` is "all" or "interlaced"."""
    av = library()
    graph = av.filter.Graph()
    for image in images:
        if not graph.configured:
            source = graph.add_buffer(
                width=image.width, height=image.height, format=image.format, time_base=facts.time_base
            )
            bob = graph.add("bwdif", f"mode=send_frame:deint={which}")
            graph.link_nodes(source, bob, graph.add("buffersink")).configure()
        image.time_base = facts.time_base
        graph.vpush(image)
        yield from _pulled(graph, facts.time_base)
    if graph.configured:
        graph.vpush(None)
        yield from _pulled(graph, facts.time_base)


def _pulled(graph: Any, tick: Fraction) -> Iterator[Any]:
    av = library()
    while True:
        try:
            image = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        if image.pts is not None and image.time_base is not None:  # the filter counts in halves
            image.pts = round(image.pts * image.time_base / tick)
            image.duration = round((image.duration or 0) * image.time_base / tick)
            image.time_base = tick
        yield image


def _has_jumps(path: Path) -> bool:
    """Whether time stamps begin anew somewhere; reads the whole file."""
    with open_video(path) as container:
        streams = [stream for stream in container.streams if stream.type in ("audio", "video")]
        stamps: list[int | None] = []

        def noted() -> Iterator[Any]:
            for packet in container.demux(*streams):
                stamps.append(packet.dts)
                yield packet

        return any(packet.dts != stamps[-1] for packet in mended_packets(noted()))


def frames(
    path: Path,
    facts: VideoFacts,
    start: Fraction,
    end: Fraction | None,
    damage: Damage | None = None,
    deinterlace: str = "off",
) -> Iterator[Frame]:
    """Decoded images in [start, end), seconds from the video's beginning, in the order they are shown.

    What cannot be decoded is passed over and noted in ``damage``. Time stamps always go up: one that does not is put
    behind the one before it.

    Args:
        path: The video.
        facts: Of it.
        start: Seconds.
        end: Seconds; None is the end.
        damage: Gets what was damaged.
        deinterlace: ``auto`` (images that are marked as interlaced), ``bwdif`` (all) or ``off``.

    Raises:
        VideoError: The size changes on the way.
    """
    damage = damage if damage is not None else Damage()
    tick = facts.time_base
    usual = max(1, round(1 / facts.rate / tick))
    first = _ticks(facts.start_time + start, tick) if start else None
    last = _ticks(facts.start_time + end, tick) if end is not None else None
    with open_video(path) as container:
        stream = container.streams[facts.video_index]
        if first is not None and not (may_jump(container) and _has_jumps(path)):
            container.seek(first, stream=stream)  # to the key frame before
        images = _decoded(container, stream, damage, facts.decoder)
        if deinterlace == "bwdif" or (deinterlace == "auto" and facts.interlaced):
            images = _deinterlaced(images, facts, "all" if deinterlace == "bwdif" else "interlaced")
        following: int | None = None
        shown: int | None = None
        for image in images:
            pts = image.pts if image.pts is not None else following
            if pts is None:
                pts = 0
            duration = int(image.duration or 0)
            if shown is not None and pts <= shown:
                damage.moved += 1
                pts = max(shown + 1, following or 0)
            damage.flattened += not facts.alpha and is_transparent(image)
            shown, following = pts, pts + (duration or usual)
            if first is not None and pts < first:
                continue
            if last is not None and pts >= last:
                return
            if (image.width, image.height) != (facts.width, facts.height):
                raise VideoError(
                    f"expected images of {facts.width}x{facts.height} throughout, found "
                    f"{image.width}x{image.height} at {float(pts * tick):.2f} s",
                    hint="cut the video there with --end and --start, or scale it to one size first",
                )
            yield Frame(pts, duration, image)


def _ticks(seconds: Fraction, tick: Fraction) -> int:
    return -int(-seconds // tick)  # the first tick that is not before
