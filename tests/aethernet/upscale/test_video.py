"""A video comes out larger, with everything else it had."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from aethernet.errors import UsageError, VideoError
from aethernet.upscale import Upscaler
from aethernet.upscale.video import ENCODER_PRESETS, VideoOptions, is_finished, remembered_choice, upscale_video
from aethernet.upscale.video.colour import to_rgb
from aethernet.upscale.video.options import parse_time
from aethernet.upscale.video.source import _colours, look_at
from tests.support.videos import STAMPS, contents, make_video, moving_image

LOSSLESS = VideoOptions(preset="ffv1", segment_seconds=0.2)
FAST = {"x264": ("preset=ultrafast",), "x265": ("preset=ultrafast",), "svtav1": ("preset=13",), "ffv1": ()}
"""Presets that run on a CPU, with what makes them quick."""


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Variable frame rate, two sounds, subtitles, chapters, an attachment, titles."""
    return make_video(tmp_path_factory.mktemp("film") / "video.mkv")


def one_by_one(upscaler: Upscaler, video: Path) -> list[np.ndarray]:
    """What upscaling the video's images by themselves gives, as levels of 10 bits."""
    colours = look_at(video).colours
    images = [to_rgb(frame, colours) for frame in contents(video).frames]
    return [np.rint(upscaler.upscale(image) * np.float32(1023 / 65535)) for image in images]


def levels(video: Path) -> list[np.ndarray]:
    """[H, W, 3] of 10 bits."""
    return [frame.to_ndarray(format="gbrp10le") for frame in contents(video).frames]


@pytest.mark.parametrize("preset", FAST)
def test_everything_in_the_video_is_kept(upscaler: Upscaler, video: Path, tmp_path: Path, preset: str) -> None:
    options = VideoOptions(preset=preset, options=FAST[preset], segment_seconds=0.2)

    result = upscale_video(upscaler, video, tmp_path / "larger.mkv", options)

    before, after = contents(video), contents(tmp_path / "larger.mkv")
    assert result["frames"] == len(STAMPS)
    assert after.stamps == before.stamps
    assert after.streams[1:] == before.streams[1:]
    assert after.packets == before.packets
    assert after.chapters == before.chapters
    assert after.attachments == before.attachments
    assert after.metadata["title"] == "A video"
    assert after.size == (48, 64)
    assert after.pixel_format == ENCODER_PRESETS[preset].formats[10]
    assert after.colours == ((0, 2, 1, 1) if preset == "ffv1" else before.colours)
    assert not list(tmp_path.glob(".*"))


def test_frames_are_those_of_upscaling_the_images_one_by_one(upscaler: Upscaler, video: Path, tmp_path: Path) -> None:
    upscale_video(upscaler, video, tmp_path / "larger.mkv", LOSSLESS)

    found, expected = levels(tmp_path / "larger.mkv"), one_by_one(upscaler, video)
    assert len(found) == len(expected)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert not np.array_equal(found[0], expected[1])


@pytest.mark.parametrize(("preset", "off", "matrix"), [("x264", 3, 1), ("x265", 3, 5), ("svtav1", 8, 1)])
def test_colours_survive_encoding(upscaler: Upscaler, tmp_path: Path, preset: str, off: float, matrix: int) -> None:
    video = make_video(tmp_path / "video.mkv", STAMPS[:3], extras=False, matrix=matrix)

    upscale_video(upscaler, video, tmp_path / "larger.mkv", VideoOptions(preset=preset, options=FAST[preset]))

    made = contents(tmp_path / "larger.mkv")
    assert made.colours[0] == matrix
    shown = to_rgb(made.frames[0], look_at(tmp_path / "larger.mkv").colours) / 257
    wanted = upscaler.upscale(moving_image(0))
    assert np.abs(shown - wanted).mean() < off
    assert np.abs((shown - wanted).mean(axis=(0, 1))).max() < 1.5


def test_a_video_without_a_colour_matrix_is_tagged_with_the_one_assumed(upscaler: Upscaler, tmp_path: Path) -> None:
    video = make_video(tmp_path / "video.mkv", STAMPS[:2], extras=False, matrix=2)

    result = upscale_video(upscaler, video, tmp_path / "larger.mkv", VideoOptions(preset="x264"))

    assert contents(tmp_path / "larger.mkv").colours[0] == 6
    assert any("BT.601" in note for note in result["notes"])


def test_mp4_keeps_time_stamps_sounds_chapters_and_rotation(upscaler: Upscaler, tmp_path: Path) -> None:
    video = make_video(tmp_path / "video.mp4", rotation=90)

    upscale_video(upscaler, video, tmp_path / "larger.mp4", VideoOptions(preset="x264", segment_seconds=0.3))

    before, after = contents(video), contents(tmp_path / "larger.mp4")
    assert after.stamps == before.stamps
    assert after.packets == before.packets
    assert after.chapters == before.chapters
    assert after.rotation == before.rotation == 90


def test_odd_sizes_keep_full_chroma(upscaler: Upscaler, tmp_path: Path) -> None:
    assert VideoOptions(preset="x265").pixel_format(33, 20) == "yuv444p10le"
    with pytest.raises(UsageError, match="even"):
        VideoOptions(preset="svtav1").pixel_format(33, 20)


def test_part_of_a_video_begins_at_zero(upscaler: Upscaler, video: Path, tmp_path: Path) -> None:
    options = VideoOptions(preset="ffv1", start="0.2", end="0:00.75")

    upscale_video(upscaler, video, tmp_path / "part.mkv", options)

    whole, part = contents(video), contents(tmp_path / "part.mkv")
    first, last = Fraction(1, 5), Fraction(3, 4)
    assert part.stamps == tuple(stamp - first for stamp in whole.stamps if first <= stamp < last)
    assert part.chapters == (("One", 0, Fraction(1, 5)), ("Two", Fraction(1, 5), Fraction(11, 20)))
    assert [start for start, _ in part.packets[3]] == [Fraction(2, 5)]
    assert part.packets[1] == tuple((t - first, data) for t, data in whole.packets[1] if first <= t < last)
    assert np.array_equal(levels(tmp_path / "part.mkv")[0], one_by_one(upscaler, video)[4])


# --- interrupted -----------------------------------------------------------------------------------------------------


@dataclass
class Stop:
    """Raises at a certain frame, as Ctrl-C or a crash would."""

    at: int
    error: type[BaseException]

    def __call__(self, done: int, total: int | None) -> None:
        if done == self.at:
            raise self.error


def test_stopping_leaves_a_video_that_plays_and_resuming_completes_it(
    upscaler: Upscaler, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscale_video(upscaler, video, tmp_path / "whole.mkv", LOSSLESS)
    real, calls = Upscaler.bands, 0

    def interrupted(self: Upscaler, *arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise KeyboardInterrupt
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Upscaler, "bands", interrupted)
    stopped = upscale_video(upscaler, video, tmp_path / "larger.mkv", LOSSLESS)
    monkeypatch.undo()
    partial = contents(tmp_path / "larger.mkv")
    resumed = upscale_video(
        upscaler, video, tmp_path / "larger.mkv", VideoOptions(preset="ffv1", segment_seconds=0.2, resume=True)
    )

    assert stopped["interrupted"]
    assert [round(stamp * 1000) for stamp in partial.stamps] == list(STAMPS[:8])
    assert max(start for start, _ in partial.packets[1]) < Fraction(48, 100)
    assert resumed["resumed_after"] > 0
    assert (tmp_path / "larger.mkv").read_bytes() != b""
    assert contents(tmp_path / "larger.mkv").stamps == contents(video).stamps
    assert all(
        np.array_equal(one, other)
        for one, other in zip(levels(tmp_path / "larger.mkv"), levels(tmp_path / "whole.mkv"), strict=True)
    )
    assert not list(tmp_path.glob(".*"))


def test_a_crash_leaves_no_video_and_resuming_completes_it(upscaler: Upscaler, video: Path, tmp_path: Path) -> None:
    target = tmp_path / "larger.mkv"
    upscale_video(upscaler, video, tmp_path / "whole.mkv", LOSSLESS)

    with pytest.raises(RuntimeError):
        upscale_video(upscaler, video, target, LOSSLESS, on_frame=Stop(9, RuntimeError))
    assert not target.exists()
    assert remembered_choice(target) == ("onnxruntime-cpu", "fp32")
    with pytest.raises(UsageError, match="interrupted run"):
        upscale_video(upscaler, video, target, LOSSLESS)
    with pytest.raises(UsageError, match="preset was 'ffv1' and is 'x264'"):
        upscale_video(upscaler, video, target, VideoOptions(preset="x264", segment_seconds=0.2, resume=True))
    result = upscale_video(upscaler, video, target, VideoOptions(preset="ffv1", segment_seconds=0.2, resume=True))

    assert result["resumed_after"] == 5
    assert is_finished(target)
    assert target.read_bytes() == (tmp_path / "whole.mkv").read_bytes()


# --- what cannot be done ---------------------------------------------------------------------------------------------


def no_video(path: Path) -> None:
    path.write_text("words")


def only_sound(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        part = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        part.sample_rate = 8000
        container.mux(stream.encode(part))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("make", [no_video, only_sound], ids=["words", "sound"])
def test_files_without_images_are_refused(upscaler: Upscaler, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "video.mkv")

    with pytest.raises(VideoError, match=r"video\.mkv"):
        upscale_video(upscaler, tmp_path / "video.mkv", tmp_path / "larger.mkv", LOSSLESS)

    assert not list(tmp_path.glob(".*"))


def test_streams_the_container_cannot_hold_are_named_before_any_work(
    upscaler: Upscaler, video: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"libx264, audio stream 1 \(aac\), audio stream 2"):
        upscale_video(upscaler, video, tmp_path / "larger.webm", VideoOptions(preset="x264"))
    with pytest.raises(UsageError, match=r"larger\.avi"):
        upscale_video(upscaler, video, tmp_path / "larger.avi", VideoOptions(preset="x264"))

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"preset": "vhs"}, "vhs"),
        ({"bits": 9}, "9"),
        ({"preset": "h264-nvenc", "bits": 10}, "8 bits"),
        ({"options": ("crf",)}, "crf"),
        ({"start": "noon"}, "noon"),
        ({"start": "2", "end": "1"}, "after the start"),
    ],
    ids=["preset", "bits", "bits of preset", "option", "time", "interval"],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        VideoOptions(**options)  # type: ignore[arg-type]


def test_a_run_that_fails_at_once_leaves_nothing_to_resume(upscaler: Upscaler, video: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="x264"):
        upscale_video(upscaler, video, tmp_path / "a.mkv", VideoOptions(preset="x264", options=("profile=nonsense",)))

    assert not list(tmp_path.iterdir())


def test_encoder_options_reach_the_encoder(upscaler: Upscaler, video: Path, tmp_path: Path) -> None:
    for crf in (5, 45):
        options = VideoOptions(preset="x264", options=("preset=ultrafast", f"crf={crf}"))
        upscale_video(upscaler, video, tmp_path / f"{crf}.mkv", options)

    assert (tmp_path / "5.mkv").stat().st_size > 1.3 * (tmp_path / "45.mkv").stat().st_size


@pytest.mark.parametrize(("text", "seconds"), [("90.5", 90.5), ("1:30", 90), ("1:00:01.25", 3601.25), ("0", 0)])
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_time(text) == Fraction(seconds)


# --- ten seconds, through the command, killed ------------------------------------------------------------------------


def command(bundle: Path, video: Path, output: Path, *more: str) -> list[str]:
    start = "from aethernet.cli.main import main; main()"
    places = [str(video), "-o", str(output), "--bundle", str(bundle), "--runtime", "onnxruntime-cpu"]
    return [sys.executable, "-c", start, "upscale", *places, "--preset", "ffv1", "--segment", "2", "--json", *more]


@pytest.mark.long
def test_ten_seconds_killed_and_resumed_come_out_the_same(bundle: Path, tmp_path: Path) -> None:
    beats = np.random.default_rng(0).choice([20, 40, 60, 100], 900).cumsum()
    stamps = (0, *(int(beat) for beat in beats if beat < 10_000))
    video = make_video(tmp_path / "video.mkv", stamps, size=(72, 96))
    whole, target = tmp_path / "whole.mkv", tmp_path / "larger.mkv"
    subprocess.run(command(bundle, video, whole), check=True, capture_output=True, timeout=120)

    with subprocess.Popen(command(bundle, video, target), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None and not (tmp_path / ".larger.mkv.parts" / "00000.json").exists():
            time.sleep(0.01)
        os.kill(run.pid, signal.SIGKILL)
    assert not target.exists()
    resumed = command(bundle, video, target, "--resume")
    # Whoever started the tests may have told its children to ignore Ctrl-C, as shells do in the background.
    interruptible = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        resumed, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=interruptible
    ) as run:
        while run.poll() is None and not (tmp_path / ".larger.mkv.parts" / "00002.json").exists():
            time.sleep(0.01)
        os.kill(run.pid, signal.SIGINT)
        ended = run.wait(timeout=60)
    partial = contents(target)
    assert ended == 130
    assert 0 < len(partial.stamps) < len(stamps)
    done = subprocess.run(
        command(bundle, video, target, "--resume"), check=True, capture_output=True, text=True, timeout=120
    )

    (result,) = json.loads(done.stdout)["results"]
    assert 0 < result["resumed_after"] < result["frames"] == len(stamps)
    assert target.read_bytes() == whole.read_bytes()
    before, after = contents(video), contents(target)
    assert after.stamps == before.stamps
    assert after.packets == before.packets
    assert after.chapters == before.chapters
    with Upscaler(bundle, "fp32", "onnxruntime-cpu") as upscaler:
        expected = one_by_one(upscaler, video)
    assert all(np.array_equal(one, other) for one, other in zip(levels(target), expected, strict=True))


# --- what people really have -----------------------------------------------------------------------------------------


def test_every_pixel_format_that_libav_writes_is_read() -> None:
    wanted = moving_image(3, 16, 16).astype(np.int64)
    image = av.VideoFrame.from_ndarray(moving_image(3, 16, 16), format="rgb24")
    read, close, failed = 0, 0, []
    for name in sorted(av.video.format.names):
        try:
            given = image.reformat(format=name)
        except (ValueError, av.FFmpegError):
            continue  # lives on a graphics card, or is made by cameras only
        try:
            rgb = to_rgb(given, _colours(given))
        except Exception as error:
            failed.append((name, error))
            continue
        assert rgb.shape == (16, 16, 3), name
        assert rgb.dtype == np.uint16, name
        read += 1
        close += bool(np.abs(rgb.astype(np.float64) / 257 - wanted).mean() < 12)

    # FFmpeg's scaler reads no images of two pixels a byte, and no decoder makes any.
    assert {name for name, _ in failed} <= {"bgr4", "rgb4"}
    assert read > 100
    assert close > 60


def test_a_colon_in_a_name_is_no_protocol(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "plain.mkv", extras=False).rename(tmp_path / "Alien: Covenant.mkv")

    facts = upscale_video(upscaler, source, tmp_path / "larger.mkv", LOSSLESS)

    assert facts["frames"] == len(STAMPS)


def test_a_damaged_packet_is_passed_over_and_counted(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "video.mkv", extras=False, codec="ffv1")
    with av.open(str(source)) as video:
        packets = [packet for packet in video.demux(video=0) if packet.size]
        place = source.read_bytes().find(bytes(packets[5])[:40])
    with open(source, "r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 40)

    facts = upscale_video(upscaler, source, tmp_path / "larger.mkv", LOSSLESS)

    # Images that refer to the damaged one cannot be decoded either.
    assert 1 <= facts["damaged"] < len(STAMPS)
    assert facts["frames"] + facts["damaged"] == len(STAMPS)
    assert any("packets of the video are damaged" in note for note in facts["notes"])


def test_a_video_that_was_cut_off_says_so(upscaler: Upscaler, tmp_path: Path) -> None:
    source = make_video(tmp_path / "video.mp4", range(0, 4000, 40), extras=False)
    whole = upscale_video(upscaler, source, tmp_path / "whole.mkv", LOSSLESS)
    with (
        av.open(str(source)) as given,
        av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as made,
    ):
        copy = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                made.mux(packet)
    data = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])

    facts = upscale_video(upscaler, tmp_path / "cut.mp4", tmp_path / "larger.mkv", LOSSLESS)

    assert whole["damaged"] == 0
    assert facts["frames"] < 100
    assert facts["damaged"] > 0
    assert any("cut off" in note or "damaged" in note for note in facts["notes"])


def test_a_video_without_its_index_is_refused_in_words(upscaler: Upscaler, tmp_path: Path) -> None:
    data = make_video(tmp_path / "video.mp4", extras=False).read_bytes()
    (tmp_path / "trunc.mp4").write_bytes(data[: data.find(b"moov") - 4])

    with pytest.raises(VideoError):
        upscale_video(upscaler, tmp_path / "trunc.mp4", tmp_path / "larger.mkv", LOSSLESS)
