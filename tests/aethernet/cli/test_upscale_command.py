"""``aethernet upscale``, as a user calls it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aethernet.cli.progress import Bar
from aethernet.cli.upscaling import parse_bytes
from aethernet.errors import UsageError
from tests.support.commands import Call, Called
from tests.support.upscaling import smoothing_bundle
from tests.support.videos import contents, make_video


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smoothing_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def call(call: Call, bundle: Path) -> Call:
    """``aethernet upscale`` with the bundle."""

    def run(*arguments: object, runtime: str = "onnxruntime") -> Called:
        return call("upscale", *arguments, "--bundle", bundle, "--runtime", runtime)

    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index, name in enumerate(("a", "b")):
        noise = np.random.default_rng(index).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    return folder


def test_a_folder_of_images(call: Call, images: Path, tmp_path: Path) -> None:
    called = call(images, "-o", tmp_path / "out")

    assert called.code == 0
    assert called.out.split() == [str(tmp_path / "out" / name) for name in ("a.png", "b.png")]
    assert "onnxruntime-cpu" in called.err
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (60, 40)


def test_json_tells_what_was_chosen_and_how_long_each_stage_took(call: Call, images: Path, tmp_path: Path) -> None:
    called = call(images, "-o", tmp_path / "out", "--json")

    told = json.loads(called.out)
    assert told["upscaler"]["precision"] == "fp32"
    assert told["failed"] == 0
    for seconds in (one["seconds"] for one in told["results"]):
        assert seconds["read"] + seconds["network"] + seconds["write"] > 0
        assert max(seconds["network"], seconds["write"]) < seconds["total"]


def test_one_bad_file_does_not_stop_the_others(call: Call, images: Path, tmp_path: Path) -> None:
    (images / "aa.png").write_text("words")

    called = call(images, "-o", tmp_path / "out")

    assert called.code == 1
    assert "aa.png" in called.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_existing_results_are_skipped_when_asked(call: Call, images: Path, tmp_path: Path) -> None:
    call(images, "-o", tmp_path / "out")

    called = call(images, "-o", tmp_path / "out", "--skip-existing", "--json")

    assert all("skipped" in one for one in json.loads(called.out)["results"])


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
@pytest.mark.parametrize("as_json", [False, True])
def test_every_name_comes_out_whatever_stdout_can_show(
    bundle: Path, tmp_path: Path, encoding: str, as_json: bool
) -> None:
    names = [b"caf\xe9.png", "ö漢🙂.png".encode(), b"esc\x1b[31m.png", b"plain.png"]
    (tmp_path / "in").mkdir()
    for name in names:
        Image.new("RGB", (8, 6), "teal").save(tmp_path / "in" / os.fsdecode(name))
    command = [sys.executable, "-m", "aethernet", "upscale", "in", "-o", "out", "-b", str(bundle)]
    command += ["--runtime", "onnxruntime", *(["--json"] if as_json else [])]

    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert sorted(os.fsencode(one.name) for one in (tmp_path / "out").iterdir()) == sorted(names)
    assert b"\x1b" not in done.stderr, "a name must not steer the terminal"
    if as_json:
        found = {Path(one["destination"]).name for one in json.loads(done.stdout.decode(encoding))["results"]}
        assert found == {os.fsdecode(name) for name in names}
    else:
        lines = {line.rpartition(b"/")[2] for line in done.stdout.splitlines()}
        assert {b"caf\xe9.png", b"plain.png"} < lines, "bytes that are no text come out as they are"
        assert ("ö漢🙂.png".encode() in lines) == (encoding == "utf-8")


def test_format_and_quality_are_kept_to(call: Call, images: Path, tmp_path: Path) -> None:
    sizes = {}
    for quality in (20, 95):
        call(images / "a.png", "-o", tmp_path / str(quality), "--format", "webp", "--quality", quality)
        sizes[quality] = (tmp_path / str(quality) / "a.webp").stat().st_size

    assert sizes[20] < sizes[95]


def test_the_sheet_shows_four_versions_with_an_original(call: Call, images: Path, tmp_path: Path) -> None:
    high = tmp_path / "high"
    high.mkdir()
    Image.new("RGB", (60, 40), "red").save(high / "a.png")

    called = call(images / "a.png", "-o", tmp_path / "a2.png", "--compare", tmp_path / "sheet.png", "--hr", high)

    assert called.code == 0, called.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 4 * 120 + 5 * 8
        assert sheet.getpixel((sheet.width - 20, sheet.height - 20)) == (255, 0, 0)


def test_a_video(call: Call, tmp_path: Path) -> None:
    video = make_video(tmp_path / "video.mkv")

    called = call(video, "-o", tmp_path / "larger.mkv", "--preset", "x264", "--encoder-option", "preset=ultrafast")

    assert called.code == 0, called.err
    assert contents(tmp_path / "larger.mkv").size == (48, 64)
    assert "14 frames" in called.err


def test_a_video_that_cannot_be_made_does_not_stop_the_others(call: Call, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    make_video(tmp_path / "videos" / "a.mov")
    make_video(tmp_path / "videos" / "b.mkv")

    called = call(tmp_path / "videos", "-o", tmp_path / "out", "--preset", "ffv1")

    assert called.code == 1
    assert "a.mov" in called.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.mkv"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["missing.png", "-o", "out"], "nothing at"),
        (["a.png", "-o", "out", "--precision", "int8"], "int8"),
        (["a.png", "-o", "out", "--memory", "much"], "much"),
        (["a.png", "-o", "out", "--hr", "a.png"], "--compare"),
        (["a.png", "-o", "out", "--tile", "3"], "at least"),
        (["a.png", "-o", "a2.mkv"], "an image"),
    ],
    ids=["missing", "precision", "memory", "hr alone", "tile", "video of an image"],
)
def test_misuse_ends_with_two_and_says_why(
    call: Call, images: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(images)

    called = call(*arguments)

    assert called.code == 2
    assert told in called.err
    assert "Traceback" not in called.err


@pytest.mark.parametrize(("text", "amount"), [("1500M", 1500 * 2**20), ("8G", 2**33), ("0.5GiB", 2**29), ("77", 77)])
def test_memory_is_read_as_people_write_it(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


def test_memory_needs_a_number() -> None:
    with pytest.raises(UsageError, match="1500M or 8G"):
        parse_bytes("lots")


@pytest.mark.parametrize("columns", [8, 20, 200])
def test_the_bar_fits_into_any_window(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")

    with Bar(3, "images") as bar:
        bar.show(1, "a name that is far longer than a narrow window is wide.png")

    plain = terminal.getvalue()
    assert plain
    import re

    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", plain))
    assert max(len(line.rstrip()) for line in lines) <= columns


def test_no_bar_is_drawn_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(3, "images") as bar:
        bar.show(1, "image.png")
        bar.message("done")

    assert capsys.readouterr().err == "done\n"


@pytest.mark.slow
def test_terminated_it_leaves_nothing_half_written(bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (3000, 2000), "orange").save(tmp_path / "large.png")
    out = tmp_path / "out"
    start = [sys.executable, "-c", "from aethernet.cli.main import main; main()", "upscale"]
    options = ["-o", out / "larger.png", "--bundle", bundle, "--runtime", "onnxruntime", "--tile", "64"]

    with subprocess.Popen([*start, tmp_path / "large.png", *options], stderr=subprocess.PIPE, text=True) as run:
        while run.poll() is None and not list(out.glob(".*.part")):
            time.sleep(0.01)
        run.send_signal(signal.SIGTERM)
        _, told = run.communicate(timeout=60)

    assert run.returncode == 143, told
    assert list(out.iterdir()) == []
    assert "Traceback" not in told


def test_a_damaged_video_ends_with_one_and_with_nought_where_that_is_asked(call: Call, tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mkv", range(0, 2400, 40), extras=False, codec="ffv1")
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])

    said = call(cut, "-o", tmp_path / "b.mkv", "--preset", "ffv1", "--json")
    kept_going = call(cut, "-o", tmp_path / "c.mkv", "--preset", "ffv1", "--keep-going")
    sound = call(whole, "-o", tmp_path / "d.mkv", "--preset", "ffv1")

    (told,) = json.loads(said.out)["results"]
    assert (said.code, kept_going.code, sound.code) == (1, 0, 0)
    assert told["damaged"] > 0
    assert "cut off" in said.err
    assert "cut off" in kept_going.err
    assert "cut off" not in sound.err
    assert len(contents(tmp_path / "c.mkv").stamps) == told["frames"] < 60


def test_a_folder_goes_on_behind_videos_that_cannot_be_made(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    make_video(folder / "b.mkv", extras=False)
    (folder / "a.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom" + bytes(500))

    called = call(folder, "-o", tmp_path / "out", "--preset", "ffv1", "--keep-going", "--json")

    told = json.loads(called.out)
    assert called.code == 1
    assert told["failed"] == 1
    assert [Path(one["source"]).name for one in told["results"] if "error" in one] == ["a.mp4"]
    assert (tmp_path / "out" / "b.mkv").exists()
