"""Kinds of videos that people have: each comes out right, or with a word about what it lost."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from aethernet.errors import UsageError, VideoError
from aethernet.upscale import Upscaler
from aethernet.upscale.files import is_video
from aethernet.upscale.video import VideoOptions, upscale_video
from aethernet.upscale.video.colour import to_frame, to_rgba
from aethernet.upscale.video.hdr import Light
from aethernet.upscale.video.matroska import ROOM, set_aspect
from aethernet.upscale.video.source import Colours, _colours, frames, look_at
from aethernet.upscale.video.stamps import regular_times
from tests.support import video_fuzz as fuzz
from tests.support.videos import moving_image

QUICK = {
    "x264": ("preset=ultrafast",),
    "x265": ("preset=ultrafast",),
    "svtav1": ("preset=13",),
    "ffv1": (),
    "prores": (),
    "vp9": ("cpu-used=8",),
}
RATE = Fraction(25)


def larger(
    upscaler: Upscaler, source: Path, name: str, preset: str = "x264", **more: Any
) -> tuple[Path, dict[str, Any]]:
    """The video made of ``source`` beside it, and what is told about it."""
    made = source.with_name(name)
    bits = 8 if preset == "vp9" else 10
    options = VideoOptions(preset=preset, options=QUICK[preset], **{"bits": bits, "segment_seconds": 0.2, **more})
    return made, upscale_video(upscaler, source, made, options)


def video(
    path: Path,
    count: int = 12,
    *,
    codec: str = "libx264",
    form: str | None = None,
    pixels: str = "yuv420p",
    rate: Fraction = RATE,
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    matrix: Sequence[int] | None = None,
    metadata: dict[str, str] | None = None,
    alpha: float | None = None,
    sound: bool = False,
) -> Path:
    """A short video at a constant rate."""
    with av.open(f"file:{path}", "w", format=form) as made:
        stream = made.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 32, 24, pixels
        stream.codec_context.time_base = 1 / rate
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix:
            stream.set_display_matrix(matrix)
        stream.metadata.update(metadata or {})
        beat = made.add_stream("aac", rate=8000, layout="mono") if sound else None
        for index in range(count):
            rgb = moving_image(index)
            image = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            if alpha is not None:
                plane = np.full((24, 32, 1), round(255 * alpha), np.uint8)
                plane[:, 16:] = 255
                image = av.VideoFrame.from_ndarray(np.concatenate([rgb, plane], axis=2), format="rgba")
            image = image.reformat(format=pixels)
            image.pts, image.time_base = index, 1 / rate
            made.mux(stream.encode(image))
        made.mux(stream.encode(None))
        if beat is not None:
            for start in range(0, int(8000 * count / rate), 1024):
                part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = 8000, start, Fraction(1, 8000)
                made.mux(beat.encode(part))
            made.mux(beat.encode(None))
    return path


def stamps(path: Path) -> list[Fraction]:
    """When images are shown, as another reading of the file finds it."""
    with av.open(f"file:{path}") as opened:
        return [image.pts * image.time_base for image in opened.decode(video=0)]


def headers(path: Path) -> tuple[Fraction | None, Fraction | None, Fraction | None]:
    """Rate that the header states, rate that is found, shape of a pixel; by ffprobe where it is installed."""
    if shutil.which("ffprobe"):
        entries = "stream=avg_frame_rate,r_frame_rate,sample_aspect_ratio"
        command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", entries, "-of", "json", path]
        told = subprocess.run(command, check=True, capture_output=True).stdout
        (one,) = json.loads(told)["streams"]

        def number(text: str | None) -> Fraction | None:
            over, _, under = (text or "0/0").replace(":", "/").partition("/")
            return Fraction(int(over), int(under)) if int(under) else None

        return number(one["avg_frame_rate"]), number(one["r_frame_rate"]), number(one.get("sample_aspect_ratio"))
    with av.open(f"file:{path}") as opened:
        stream = opened.streams.video[0]
        return stream.average_rate, stream.base_rate, stream.sample_aspect_ratio


# --- turned, mirrored, stretched -------------------------------------------------------------------------------------

ONE = 65536
MATRICES = {
    "mirrored": (-ONE, 0, 0, 0, ONE, 0, 32 * ONE, 0, 1 << 30),
    "upside down": (ONE, 0, 0, 0, -ONE, 0, 0, 24 * ONE, 1 << 30),
    "turned": (0, ONE, 0, -ONE, 0, 0, 24 * ONE, 0, 1 << 30),
    "turned and mirrored": (0, ONE, 0, ONE, 0, 0, 0, 0, 1 << 30),
}


def shown_matrix(path: Path) -> list[int]:
    with av.open(str(path)) as opened:
        image = next(opened.decode(video=0))
        sides = [image.side_data[index] for index in range(len(image.side_data))]
        (found,) = [bytes(side) for side in sides if side.type.name == "DISPLAYMATRIX"]
    return np.frombuffer(found, np.int32).tolist()


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("ending", [".mp4", ".mov"])
def test_turned_and_mirrored_videos_stay_so(upscaler: Upscaler, tmp_path: Path, name: str, ending: str) -> None:
    source = video(tmp_path / f"a{ending}", 3, matrix=MATRICES[name])

    made, _ = larger(upscaler, source, f"b{ending}")

    given, found = shown_matrix(source), shown_matrix(made)
    assert found[:6] == given[:6] == list(MATRICES[name][:6])
    assert found[6:8] == [2 * value for value in given[6:8]]


@pytest.mark.parametrize("name", MATRICES)
def test_turned_and_mirrored_videos_stay_so_in_matroska(upscaler: Upscaler, tmp_path: Path, name: str) -> None:
    source = video(tmp_path / "a.mp4", 3, matrix=MATRICES[name])
    plain = video(tmp_path / "plain.mp4", 3)

    made, _ = larger(upscaler, source, "b.mkv")
    straight, _ = larger(upscaler, plain, "straight.mkv")
    _, told = larger(upscaler, source, "b.nut")
    _, told_straight = larger(upscaler, plain, "straight.nut")

    assert shown_matrix(made)[:5] == list(MATRICES[name][:5])
    assert any("turn or mirror" in note for note in told["notes"])
    assert not any("turn or mirror" in note for note in told_straight["notes"])
    with pytest.raises(ValueError, match="unpack"):
        shown_matrix(straight)


@pytest.mark.parametrize("aspect", [Fraction(32, 27), Fraction(16, 15), Fraction(1, 2)])
@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("b.mkv", "svtav1"),
        ("b.mkv", "ffv1"),
        ("b.mkv", "x264"),
        ("b.webm", "vp9"),
        ("b.mp4", "x264"),
        ("b.mov", "prores"),
    ],
)
def test_pixels_keep_their_shape(upscaler: Upscaler, tmp_path: Path, name: str, preset: str, aspect: Fraction) -> None:
    source = video(tmp_path / "a.mp4", 3, aspect=aspect)
    square = video(tmp_path / "square.mp4", 3)

    made, _ = larger(upscaler, source, name, preset)
    other, _ = larger(upscaler, square, f"square_{name}", preset)

    assert headers(made)[2] == aspect
    assert headers(other)[2] in (None, 1)


def test_the_shape_is_written_into_a_sound_header(upscaler: Upscaler, tmp_path: Path) -> None:
    source = video(tmp_path / "a.mp4", 3, aspect=Fraction(32, 27), metadata={"title": "A title"}, sound=True)
    source = source.rename(tmp_path / "source.mp4")

    made, _ = larger(upscaler, source, "b.mkv", "ffv1")

    with av.open(str(made)) as opened:
        assert ROOM not in opened.streams.video[0].metadata.get("title", "")
        assert len(list(opened.decode(video=0))) == 3
    if shutil.which("mkvmerge"):
        told = subprocess.run(["mkvmerge", "-J", made], check=True, capture_output=True).stdout
        assert json.loads(told)["errors"] == json.loads(told)["warnings"] == []
        assert json.loads(told)["tracks"][0]["properties"]["display_dimensions"] == "128x81"
    (tmp_path / "words.mkv").write_bytes(b"words" * 100)
    with pytest.raises(VideoError, match="room"):
        set_aspect(tmp_path / "words.mkv", Fraction(4, 3))


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60)])
@pytest.mark.parametrize("name", ["b.mkv", "b.mp4", "b.mov"])
@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_headers_say_the_rate_of_a_video(
    upscaler: Upscaler, tmp_path: Path, ending: str, name: str, rate: Fraction
) -> None:
    source = video(tmp_path / f"a{ending}", rate=rate, options={"bf": "2"})

    made, _ = larger(upscaler, source, name, segment_seconds=10.0)

    assert headers(made)[:2] == (rate, rate)
    assert all(abs(one - other) <= Fraction(1, 1000) for one, other in zip(stamps(made), stamps(source), strict=True))


def test_a_rate_that_varies_is_not_made_constant() -> None:
    tick = Fraction(1, 1000)

    assert regular_times([0, 42, 83, 125, 167], tick, Fraction(24000, 1001)) == [0, 1, 2, 3, 4]
    assert regular_times([0, 42, 125, 167], tick, Fraction(24000, 1001)) == [0, 1, 3, 4]
    assert regular_times([0, 42, 95, 125], tick, Fraction(24000, 1001)) is None
    assert regular_times([0, 5, 42], tick, Fraction(24000, 1001)) is None


def test_images_that_avi_stores_in_another_order_come_out_evenly(upscaler: Upscaler, tmp_path: Path) -> None:
    source = video(tmp_path / "a.avi", options={"bf": "3"})
    with av.open(str(source)) as opened:
        assert [image.pts for image in opened.decode(video=0)] != list(range(12))  # what the decoder says by itself

    made, told = larger(upscaler, source, "b.mkv")

    assert stamps(made) == [index / RATE for index in range(12)]
    assert told["damaged"] == 0


def test_images_that_are_missing_between_others_are_told(upscaler: Upscaler, tmp_path: Path) -> None:
    whole = video(tmp_path / "a.mkv", 40, codec="mpeg4", options={"g": "1"})
    with av.open(str(whole)) as given, av.open(str(tmp_path / "b.mkv"), "w") as made:
        copy = made.add_stream_from_template(given.streams.video[0], opaque=True)
        for index, packet in enumerate(given.demux(video=0)):
            if packet.size and not 10 <= index < 17:
                packet.stream = copy
                made.mux(packet)

    _, told = larger(upscaler, tmp_path / "b.mkv", "c.mkv")
    _, told_of_whole = larger(upscaler, whole, "d.mkv")

    assert told["frames"] == 33
    assert any("7 images seem to be missing" in note for note in told["notes"])
    assert not any("missing" in note for note in told_of_whole["notes"])


def test_joined_recordings_follow_each_other(upscaler: Upscaler, tmp_path: Path) -> None:
    one = video(tmp_path / "one.ts", 10, options={"bf": "2"}, sound=True)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one.read_bytes() * 3)
    alone, _ = larger(upscaler, one, "alone.mkv")

    made, told = larger(upscaler, joined, "b.mkv")

    found = stamps(made)
    steps = np.diff([float(stamp) for stamp in found])
    assert len(found) == told["frames"] == 30
    assert told["damaged"] == 0
    assert (steps > 0.03).all()
    assert steps.max() < 0.3
    assert found[:10] == stamps(alone)
    with av.open(str(made)) as opened:
        sounds = [packet.pts * packet.time_base for packet in opened.demux(audio=0) if packet.size]
    assert abs(float(max(sounds) - found[-1])) < 0.3
    with av.open(str(joined)) as opened:
        assert len(sounds) == sum(bool(packet.size) for packet in opened.demux(audio=0))


def test_a_part_of_joined_recordings_is_found_by_the_time_it_is_shown_at(upscaler: Upscaler, tmp_path: Path) -> None:
    one = video(tmp_path / "one.ts", 10)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one.read_bytes() * 2)

    made, told = larger(upscaler, joined, "b.mkv", start="0.48", end="0.68")

    assert told["frames"] == 5
    with av.open(str(joined)) as opened:
        wanted = list(opened.decode(video=0))[12].to_ndarray(format="rgb24")
    with av.open(str(made)) as opened:
        found = next(opened.decode(video=0)).to_ndarray(format="rgb24")[::2, ::2]
    assert np.abs(found.astype(float) - wanted).mean() < 25


# --- beside the images -----------------------------------------------------------------------------------------------

HEAD = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""
WORDS = ((100, 200, "Hello you"), (320, 150, "Bye"))


def with_words(path: Path, codec: str) -> Path:
    """A video with two subtitles."""
    plain = video(path.with_name("plain.mkv"))
    with av.open(str(plain)) as given, av.open(str(path), "w") as made:
        images = made.add_stream_from_template(given.streams.video[0], opaque=True)
        words = made.add_stream(codec)
        words.codec_context.subtitle_header = HEAD
        words.time_base = words.codec_context.time_base = Fraction(1, 1000)
        made.start_encoding()
        for start, length, text in WORDS:
            line = f"0,0,Default,,0,0,0,,{text}".encode()
            packet = words.codec_context.encode_subtitle(av.subtitles.subtitle.SubtitleSet.create(line, 0, length))
            packet.stream, packet.time_base = words, Fraction(1, 1000)
            packet.pts = packet.dts = start
            packet.duration = length
            made.mux(packet)
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = images
                made.mux(packet)
    return path


def words_in(path: Path) -> tuple[str, list[tuple[int, int, str]]]:
    """Codec, and (start, length, text) in milliseconds."""
    found = []
    with av.open(str(path)) as opened:
        stream = opened.streams.subtitles[0]
        for packet in opened.demux(stream):
            for rect in (stream.codec_context.decode2(packet) or ()) if packet.size else ():
                text = rect.ass.decode().rsplit(",,", 1)[-1]
                start, length = (round(ticks * packet.time_base * 1000) for ticks in (packet.pts, packet.duration))
                found.append((start, length, text))
        return stream.codec_context.name, found


@pytest.mark.parametrize(
    ("given", "name", "codec"),
    [
        (("mov_text", "a.mp4"), "b.mkv", "subrip"),
        (("mov_text", "a.mp4"), "b.mp4", "mov_text"),
        (("srt", "a.mkv"), "b.mp4", "mov_text"),
        (("ass", "a.mkv"), "b.mov", "mov_text"),
        (("webvtt", "a.mkv"), "b.mp4", "mov_text"),
        (("webvtt", "a.mkv"), "b.mkv", "webvtt"),
        (("srt", "a.mkv"), "b.webm", "webvtt"),
    ],
)
def test_subtitles_become_what_the_container_holds(
    upscaler: Upscaler, tmp_path: Path, given: tuple[str, str], name: str, codec: str
) -> None:
    source = with_words(tmp_path / given[1], given[0])

    made, told = larger(upscaler, source, name, "vp9" if name.endswith("webm") else "x264")

    found, lines = words_in(made)
    assert {"srt": "subrip"}.get(found, found) == codec
    assert lines == list(WORDS)
    changed = codec not in (given[0], {"srt": "subrip"}.get(given[0]))
    assert any("subtitles" in note and codec in note for note in told["notes"]) == changed


def with_cover(path: Path, codec: str) -> Path:
    """An MP4 with a cover image."""
    plain = video(path.with_name("plain.mp4"), 4)
    with av.open(str(plain)) as given, av.open(str(path), "w") as made:
        images = made.add_stream_from_template(given.streams.video[0], opaque=True)
        cover = made.add_stream(codec, rate=1)
        cover.width = cover.height = 16
        cover.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        image = av.VideoFrame.from_ndarray(moving_image(3, 16, 16), format="rgb24").reformat(format=cover.pix_fmt)
        image.pts, image.time_base = 0, Fraction(1)
        made.mux([*cover.encode(image), *cover.encode(None)])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = images
                made.mux(packet)
    return path


def covers(path: Path) -> list[bytes]:
    with av.open(str(path)) as opened:
        attached = av.stream.Disposition.attached_pic
        found = [stream for stream in opened.streams.video if stream.disposition & attached]
        return [bytes(packet) for packet in opened.demux(*found) if packet.size] if found else []


@pytest.mark.parametrize("codec", ["png", "mjpeg"])
def test_cover_images_are_kept_or_named(upscaler: Upscaler, tmp_path: Path, codec: str) -> None:
    source = with_cover(tmp_path / "a.mp4", codec)
    (picture,) = covers(source)

    in_matroska, _ = larger(upscaler, source, "b.mkv")
    in_mp4, told = larger(upscaler, source, "b.mp4")
    in_mov, told_of_mov = larger(upscaler, source, "b.mov")
    again, _ = larger(upscaler, in_matroska, "c.mkv")

    assert covers(in_matroska) == covers(in_mp4) == covers(again) == [picture]
    assert covers(in_mov) == []
    assert not any("cover" in note for note in told["notes"])
    assert any("cover image" in note and codec in note for note in told_of_mov["notes"])
    with av.open(str(in_matroska)) as opened:
        assert len(opened.streams.video) == 2


@pytest.mark.parametrize("name", ["b.mov", "b.mp4", "b.mkv"])
def test_a_time_code_is_kept(upscaler: Upscaler, tmp_path: Path, name: str) -> None:
    source = video(tmp_path / "a.mov", metadata={"timecode": "01:00:00:00"})
    with av.open(str(source)) as opened:
        assert [stream.type for stream in opened.streams] == ["video", "data"]

    made, told = larger(upscaler, source, name)

    with av.open(str(made)) as opened:
        tags = {key.lower(): value for key, value in opened.streams.video[0].metadata.items()}
        assert tags["timecode"] == "01:00:00:00"
        assert [stream.type for stream in opened.streams] == ["video", *([] if name.endswith("mkv") else ["data"])]
    assert not any("data stream" in note for note in told["notes"])


def test_what_a_container_refuses_is_found_out_before_the_first_image(
    upscaler: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = video(tmp_path / "a.mov")
    worked: list[int] = []
    real = Upscaler.bands
    monkeypatch.setattr(Upscaler, "bands", lambda *given: worked.append(1) or real(*given))

    with pytest.raises(VideoError, match=r"b\.mov"):
        larger(upscaler, source, "b.mov", "vp9")  # QuickTime knows VP9, and its writer refuses it
    with pytest.raises(VideoError, match="x264"):
        upscale_video(upscaler, source, tmp_path / "b.mov", VideoOptions(preset="x264", options=("profile=nonsense",)))
    assert worked == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.mov"]
    larger(upscaler, source, "b.mov")
    assert len(worked) == 12


# --- transparency ----------------------------------------------------------------------------------------------------


def alphas(path: Path) -> np.ndarray:
    """[frames, H, W], 0 to 1."""
    with av.open(str(path)) as opened:
        stream = opened.streams.video[0]
        tagged = any(key.lower() == "alpha_mode" for key in stream.metadata)
        decoder = av.CodecContext.create("libvpx-vp9", "r") if tagged else stream.codec_context
        found = [image for packet in opened.demux(stream) for image in decoder.decode(packet if packet.size else None)]
    return np.stack([image.to_ndarray(format="rgba")[..., 3] / 255 for image in found])


TRANSPARENT = {
    "argb.mov": ("qtrle", "argb"),
    "prores.mov": ("prores_ks", "yuva444p10le"),
    "vp9.webm": ("libvpx-vp9", "yuva420p"),
    "ffv1.mkv": ("ffv1", "gbrap12le"),
    "png.mov": ("png", "rgba"),
}


def transparent(path: Path) -> Path:
    codec, pixels = TRANSPARENT[path.name]
    metadata = {"alpha_mode": "1"} if codec == "libvpx-vp9" else {}
    return video(path, 4, codec=codec, pixels=pixels, alpha=0.5, metadata=metadata)


@pytest.mark.parametrize(("name", "preset"), [("b.mkv", "ffv1"), ("b.mov", "prores"), ("b.webm", "vp9")])
@pytest.mark.parametrize("given", TRANSPARENT)
def test_transparency_is_upscaled(upscaler: Upscaler, tmp_path: Path, given: str, name: str, preset: str) -> None:
    source = transparent(tmp_path / given)

    made, told = larger(upscaler, source, name, preset)

    found = alphas(made)
    assert found.shape == (4, 48, 64)
    assert np.abs(found[..., :24] - 0.5).max() < 0.03
    assert np.abs(found[..., 40:] - 1).max() < 0.03
    assert not any("transparen" in note for note in told["notes"])
    assert len(stamps(made)) == 4


@pytest.mark.parametrize("given", TRANSPARENT)
def test_transparency_is_never_lost_without_a_word(upscaler: Upscaler, tmp_path: Path, given: str) -> None:
    source = transparent(tmp_path / given)

    with pytest.raises(UsageError, match="transparency") as refused:
        larger(upscaler, source, "b.mkv", "x264")
    assert "--drop-alpha" in refused.value.hint
    made, told = larger(upscaler, source, "b.mkv", "x264", drop_alpha=True)

    assert any("transparency was left out" in note for note in told["notes"])
    with av.open(str(made)) as opened:
        assert not [key for key in opened.streams.video[0].metadata if key.lower() == "alpha_mode"]


def test_a_format_that_could_be_transparent_and_is_not_needs_no_option(upscaler: Upscaler, tmp_path: Path) -> None:
    source = video(tmp_path / "a.gif", 4, codec="gif", pixels="rgb8")

    _, told = larger(upscaler, source, "b.mkv")

    assert told["frames"] == 4


def test_frames_with_transparency_go_there_and_back() -> None:
    colours = Colours(matrix=1, full_range=False, primaries=1, transfer=1)
    rgba = np.random.default_rng(0).integers(0, 65536, (8, 8, 4)).astype(np.uint16)
    rgba[:4, :, 3] = 65535
    for pixels, off in (("gbrap10le", 33), ("bgra", 130), ("yuva444p10le", 33)):
        frame = to_frame(rgba, pixels, colours)
        back = to_rgba(frame, colours if "yuv" in pixels else _colours(frame))
        assert np.abs(back[..., 3].astype(int) - rgba[..., 3]).max() <= off
        assert (back[:4, :, 3] == 65535).all()
        assert np.abs(back.astype(int) - rgba).max() < 140


def test_every_pixel_format_with_transparency_that_libav_writes_is_read() -> None:
    rgb = moving_image(3, 16, 16)
    alpha = np.full((16, 16, 1), 128, np.uint8)
    alpha[:, 8:], alpha[:2] = 255, 0
    image = av.VideoFrame.from_ndarray(np.concatenate([rgb, alpha], axis=2), format="rgba")
    read = []

    for name in sorted(av.video.format.names):
        if not any(component.is_alpha for component in av.video.format.VideoFormat(name).components):
            continue
        try:
            given = image.reformat(format=name)
        except (ValueError, av.FFmpegError):
            continue  # FFmpeg's scaler does not make it
        found = to_rgba(given, _colours(given)) / 257
        assert np.abs(found[..., 3] - alpha[..., 0]).max() < 1.01, name
        assert (found[2:, 8:, 3] > 254.9).all(), name
        # Grey has no colours, and halved chroma is that of its neighbours.
        assert name.startswith("ya") or np.abs(found[..., :3] - rgb).mean() < 2, name
        read.append(name)

    assert len(read) > 40
    assert {"argb", "gbrap10le", "gbrap12le", "yuva420p", "yuva444p12le"} <= set(read)


# --- interlaced, HDR -------------------------------------------------------------------------------------------------


def interlaced(path: Path) -> Path:
    """A bright bar that jumps from field to field: combs."""
    with av.open(str(path), "w") as made:
        stream = made.add_stream("mpeg2video", rate=25, options={"flags": "+ilme+ildct", "qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        graph = av.filter.Graph()
        size = {
            "width": 64,
            "height": 48,
            "format": av.video.format.VideoFormat("yuv420p"),
            "time_base": Fraction(1, 25),
        }
        source = graph.add_buffer(**size)
        marked = graph.add("setfield", "tff")
        graph.link_nodes(source, marked, graph.add("buffersink")).configure()
        for index in range(8):
            rgb = np.full((48, 64, 3), 40, np.uint8)
            rgb[0::2, 4 + 4 * index : 20 + 4 * index] = 220
            rgb[1::2, 12 + 4 * index : 28 + 4 * index] = 220
            image = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p", interpolation="POINT")
            image.pts, image.time_base = index, Fraction(1, 25)
            graph.vpush(image)
            made.mux(stream.encode(graph.vpull()))
        made.mux(stream.encode(None))
    return path


def combs(source: Path, deinterlace: str) -> float:
    facts = look_at(source)
    found = [
        frame.image.to_ndarray(format="gray").astype(float)
        for frame in frames(source, facts, Fraction(0), None, None, deinterlace)
    ]
    assert len(found) == 8
    return float(np.mean([np.abs(one[2:] - 2 * one[1:-1] + one[:-2]).mean() for one in found[2:-2]]))


def test_interlaced_images_are_made_whole_unless_told_otherwise(upscaler: Upscaler, tmp_path: Path) -> None:
    source = interlaced(tmp_path / "a.mpg")

    left, whole, all_of_them = (combs(source, how) for how in ("off", "auto", "bwdif"))
    made, told = larger(upscaler, source, "b.mkv")
    _, told_off = larger(upscaler, source, "c.mkv", deinterlace="off")

    assert whole < left / 3
    assert all_of_them == pytest.approx(whole, rel=0.2)
    assert len(stamps(made)) == 8
    assert {round(float(step) * 1000) for step in np.diff(stamps(made))} == {40}
    assert any("bwdif" in note for note in told["notes"])
    assert any("interlaced" in note and "one image" in note for note in told_off["notes"])
    with pytest.raises(UsageError, match="sometimes"):
        VideoOptions(deinterlace="sometimes")


def test_whole_images_are_left_alone_by_auto(tmp_path: Path) -> None:
    source = video(tmp_path / "a.mpg", codec="mpeg2video")
    facts = look_at(source)

    plain, auto = (
        [frame.image.to_ndarray(format="gray") for frame in frames(source, facts, Fraction(0), None, None, how)]
        for how in ("off", "auto")
    )

    assert all(np.array_equal(one, other) for one, other in zip(plain, auto, strict=True))


MASTERED = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"


@pytest.mark.parametrize("preset", ["x264", "x265", "svtav1"])
def test_what_hdr_says_about_its_display_is_kept(upscaler: Upscaler, tmp_path: Path, preset: str) -> None:
    params = f"log-level=error:hdr10=1:colorprim=9:transfer=16:colormatrix=9:master-display={MASTERED}:max-cll=1000,400"
    source = video(tmp_path / "a.mkv", 4, codec="libx265", pixels="yuv420p10le", options={"x265-params": params})

    made, told = larger(upscaler, source, "b.mkv", preset)

    given, found = look_at(source).light, look_at(made).light
    assert given.x26x("display", "levels") == [f"display={MASTERED}", "levels=1000,400"]
    assert found.levels == (1000, 400)
    assert all(
        abs(one - other) < Fraction(1, 10_000) for one, other in zip(found.primaries, given.primaries, strict=True)
    )
    assert float(found.luminance[1]) == 1000
    assert float(found.luminance[0]) == pytest.approx(0.005, rel=0.01)
    assert not any("mastering" in note for note in told["notes"])


def test_an_encoder_that_cannot_take_it_says_so(upscaler: Upscaler, tmp_path: Path) -> None:
    params = f"log-level=error:hdr10=1:colorprim=9:transfer=16:colormatrix=9:master-display={MASTERED}:max-cll=1000,400"
    source = video(tmp_path / "a.mkv", 4, codec="libx265", pixels="yuv420p10le", options={"x265-params": params})
    plain = video(tmp_path / "plain.mkv", 4)

    made, told = larger(upscaler, source, "b.mkv", "ffv1")
    other, told_plain = larger(upscaler, plain, "c.mkv", "ffv1")

    assert any("mastering display" in note for note in told["notes"])
    assert not any("mastering display" in note for note in told_plain["notes"])
    assert not look_at(made).light
    assert look_at(other).light == Light()


# --- content, not the ending -----------------------------------------------------------------------------------------

ELSEWHERE = {
    "a.vob": ("mpeg2video", "vob"),
    "a.mts": ("libx264", "mpegts"),
    "a.3gp": ("mpeg4", "3gp"),
    "a.mxf": ("mpeg2video", "mxf"),
    "a.y4m": ("rawvideo", "yuv4mpegpipe"),
    "a.m2v": ("mpeg2video", "mpeg2video"),
    "a.asf": ("mpeg4", "asf"),
    "a.flv": ("flv", "flv"),
    "video": ("libx264", "matroska"),
    "really_avi.jpg": ("mpeg4", "avi"),
    "Alien:Covenant.mp4": ("libx264", "mp4"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_content_decides_what_is_a_video(upscaler: Upscaler, tmp_path: Path, name: str) -> None:
    codec, form = ELSEWHERE[name]
    source = video(tmp_path / name, codec=codec, form=form)

    made, told = larger(upscaler, source, f"{source.name}_2x.mkv")

    assert is_video(source)
    assert told["frames"] == 12
    assert len(stamps(made)) == 12


def test_an_image_is_no_video_whatever_its_ending(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "a.avif").write_bytes(b"\x00\x00\x00\x1cftypavif" + bytes(100))
    (tmp_path / "notes.ts").write_text("let a: number")

    assert not is_video(tmp_path / "a.mp4")
    assert not is_video(tmp_path / "a.avif")
    assert is_video(tmp_path / "not_there.mp4")


def test_names_as_long_as_names_can_be(upscaler: Upscaler, tmp_path: Path) -> None:
    source = video(tmp_path / "a.mkv", 3)

    made, told = larger(upscaler, source, "ü" * 125 + ".mkv")

    assert len(made.name.encode()) > 250
    assert told["frames"] == len(stamps(made)) == 3


# --- damaged ---------------------------------------------------------------------------------------------------------


def spoilt(path: Path, index: int) -> Path:
    """Overwrite the beginning of one packet of the images."""
    with av.open(str(path)) as opened:
        packets = [bytes(packet) for packet in opened.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    place = data.find(packets[index][:40])
    assert place > 0
    data[place : place + 40] = b"\xff" * 40
    path.write_bytes(data)
    return path


def test_images_that_the_decoder_had_to_mend_are_counted(upscaler: Upscaler, tmp_path: Path) -> None:
    source = video(tmp_path / "a.avi", 20, codec="mpeg4", options={"qscale": "2"})
    _, whole = larger(upscaler, source, "whole.mkv")
    with av.open(str(source)) as opened:
        packets = [bytes(packet) for packet in opened.demux(video=0) if packet.size]
    data = bytearray(source.read_bytes())
    place = data.find(packets[7]) + len(packets[7]) // 2
    data[place : place + 20] = b"\xff" * 20
    (tmp_path / "b.avi").write_bytes(data)

    _, told = larger(upscaler, tmp_path / "b.avi", "b.mkv")

    assert whole["damaged"] == 0
    assert told["damaged"] > 0
    assert any("mended" in note or "damaged" in note for note in told["notes"])


def test_resuming_a_damaged_video_comes_to_the_same(upscaler: Upscaler, tmp_path: Path) -> None:
    source = spoilt(video(tmp_path / "a.mkv", 30, options={"bf": "0"}, sound=True), 7)
    whole, told = larger(upscaler, source, "whole.mkv", "ffv1")

    def stop(done: int, total: int | None) -> None:
        if done == 20:
            raise RuntimeError("stopped")

    options = VideoOptions(preset="ffv1", segment_seconds=0.2)
    with pytest.raises(RuntimeError, match="stopped"):
        upscale_video(upscaler, source, tmp_path / "b.mkv", options, on_frame=stop)
    again, told_again = larger(upscaler, source, "b.mkv", "ffv1", resume=True)

    assert told["damaged"] == told_again["damaged"] >= 1
    assert told_again["resumed_after"] > 0
    assert again.read_bytes() == whole.read_bytes()
    assert len(stamps(whole)) == told["frames"] >= 28


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.flv"])
def test_a_video_that_ends_before_its_head_says_so(upscaler: Upscaler, tmp_path: Path, name: str) -> None:
    codec = "flv" if name.endswith("flv") else "mpeg4"
    whole = video(tmp_path / f"whole_{name}", 60, codec=codec, sound=not name.endswith("flv"))
    data = whole.read_bytes()
    if name.endswith("mp4"):
        with (
            av.open(str(whole)) as given,
            av.open(str(tmp_path / "f.mp4"), "w", options={"movflags": "faststart"}) as made,
        ):
            copy = made.add_stream_from_template(given.streams.video[0], opaque=True)
            for packet in given.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    made.mux(packet)
        data = (tmp_path / "f.mp4").read_bytes()
    cut = tmp_path / name
    cut.write_bytes(data[: len(data) // 2])

    _, told = larger(upscaler, whole, "whole.mkv")
    made, told_of_cut = larger(upscaler, cut, "cut.mkv")

    assert told["damaged"] == 0
    assert not any("cut off" in note for note in told["notes"])
    assert told_of_cut["damaged"] > 0
    assert any("cut off" in note for note in told_of_cut["notes"])
    assert 5 < len(stamps(made)) == told_of_cut["frames"] < 55


# --- bytes cut, flipped, swapped -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small videos with sound, by name."""
    folder = tmp_path_factory.mktemp("whole")
    made = {}
    for name, codec in (("a.mkv", "libx264"), ("a.mp4", "libx264"), ("a.ts", "mpeg2video"), ("a.avi", "mpeg4")):
        made[name] = video(folder / name, 40, codec=codec, sound=True).read_bytes()
    return made


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts", "a.avi"])
def test_whatever_happens_to_the_bytes_there_is_a_video_that_plays_or_a_word(
    upscaler: Upscaler, tmp_path: Path, whole_files: dict[str, bytes], name: str
) -> None:
    told = [
        fuzz.tried(upscaler, fuzz.spoilt(whole_files, name, seed), tmp_path, name, 40) for seed in range(fuzz.SEEDS)
    ]

    assert fuzz.tried(upscaler, whole_files[name], tmp_path, name, 40) == "whole"
    assert "damaged" in told or "refused" in told


def test_the_judge_of_spoilt_videos_sees_images_that_are_lost_without_a_word(
    upscaler: Upscaler, tmp_path: Path, whole_files: dict[str, bytes]
) -> None:
    with pytest.raises(AssertionError, match="without a word"):
        fuzz.tried(upscaler, whole_files["a.mkv"], tmp_path, "a.mkv", 50)
