"""Animated images keep their images, delays, number of showings and transparency; TIFFs all their pages.

What was written is known beforehand; results are read by FFmpeg where it reads the format, else by Pillow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tifffile
from PIL import Image

from aethernet.errors import ImageError, UsageError
from aethernet.upscale import Upscaler
from aethernet.upscale.animation import animation_of, is_animated
from aethernet.upscale.files import plan_jobs
from aethernet.upscale.image_file import upscale_file
from aethernet.upscale.video import VideoOptions, animation_to_video, video_to_animation
from aethernet.upscale.video.conversion import _as_shown
from tests.support.upscaling import doubled
from tests.support.videos import make_video

HEIGHT, WIDTH = 10, 14
DELAYS = [70, 120, 40, 300]
SUFFIXES = ["gif", "png", "webp", "avif"]


def drawn(*, alpha: bool) -> list[np.ndarray]:
    """A few flat areas that move: few enough colours for a GIF."""
    images = []
    for index in range(len(DELAYS)):
        image = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        image[...] = (0, 0, 0, 0) if alpha else (20, 60, 90, 255)
        image[2:8, 2 + 2 * index : 7 + 2 * index] = (200, 40 + 50 * index, 60, 255)
        if alpha:  # libwebp takes an animation of opaque rectangles on a transparent canvas for opaque
            image[4:6, 4 + 2 * index : 5 + 2 * index] = 0
        images.append(image if alpha else image[..., :3])
    return images


def written(path: Path, images: list[np.ndarray], **options: Any) -> Path:
    first, *others = [Image.fromarray(image) for image in images]
    if path.suffix in (".webp",):
        options = {"lossless": True, "exact": True, **options}
    if path.suffix == ".gif" and images[0].shape[2] == 4:
        options = {"disposal": 2, **options}
    if path.suffix == ".avif":
        options = {"quality": 100, "subsampling": "4:4:4", **options}
    first.save(path, save_all=True, append_images=others, **{"duration": DELAYS, **options})
    return path


def expected(image: np.ndarray) -> np.ndarray:
    """[2H, 2W, 3]; the colours of an opaque image."""
    return np.stack([np.rint(doubled(image[..., c] / 255).clip(0, 1) * 255) for c in range(3)], axis=2)


def shown(path: Path) -> tuple[list[np.ndarray], list[int], Any]:
    """RGBA of every image, milliseconds, and how often it is shown, as Pillow has it."""
    with Image.open(path) as image:
        images, delays = [], []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            images.append(np.asarray(image.convert("RGBA")).astype(np.int64))
            delays.append(round(image.info.get("duration") or 0))
        return images, delays, image.info.get("loop")


@pytest.mark.parametrize("made", SUFFIXES)
@pytest.mark.parametrize("given", SUFFIXES)
def test_images_delays_and_showings_go_from_every_format_to_every_other(
    upscaler: Upscaler, tmp_path: Path, given: str, made: str
) -> None:
    loop = {} if given == "avif" else {"loop": 2}
    source = written(tmp_path / f"a.{given}", drawn(alpha=False), **loop)
    before, _, _ = shown(source)

    facts = upscale_file(upscaler, source, tmp_path / f"b.{made}", quality=None if made == "gif" else 100)

    images, delays, loops = shown(tmp_path / f"b.{made}")
    assert facts["images"] == len(DELAYS)
    assert delays == DELAYS
    plays = 0 if given == "avif" else 3 if given == "gif" else 2
    assert loops == {"gif": max(0, plays - 1), "png": plays, "webp": plays, "avif": None}[made]
    if made == "avif":
        assert any("for ever" in note for note in facts["notes"]) == (plays > 0)
    for found, image in zip(images, before, strict=True):
        assert np.abs(found[..., :3] - expected(image)).mean() < (3 if made == "avif" else 1.5)


def test_a_gif_that_is_shown_once_stays_so(upscaler: Upscaler, tmp_path: Path) -> None:
    source = written(tmp_path / "a.gif", drawn(alpha=False))

    for made in ("gif", "png"):
        upscale_file(upscaler, source, tmp_path / f"b.{made}")

    assert shown(tmp_path / "b.gif")[2] is None
    assert shown(tmp_path / "b.png")[2] == 1


@pytest.mark.parametrize("made", ["gif", "png"])
def test_ffmpeg_sees_the_same_animation(upscaler: Upscaler, tmp_path: Path, made: str) -> None:
    source = written(tmp_path / f"a.{made}", drawn(alpha=False), loop=0)

    upscale_file(upscaler, source, tmp_path / f"b.{made}")

    with av.open(str(tmp_path / f"b.{made}")) as container:
        frames = list(container.decode(video=0))
        times = [float(frame.pts * frame.time_base) for frame in frames]
        images = [frame.to_ndarray(format="rgb24").astype(np.int64) for frame in frames]
    assert np.diff(times) == pytest.approx(np.array(DELAYS[:-1]) / 1000)
    for found, image in zip(images, drawn(alpha=False), strict=True):
        assert np.abs(found - expected(image)).max() <= 1


@pytest.mark.parametrize("disposal", [[2, 2, 2, 2], [2, 3, 2, 3]], ids=["to background", "to what was before"])
@pytest.mark.parametrize("made", ["gif", "png", "webp", "avif"])
def test_transparent_images_replace_each_other(
    upscaler: Upscaler, tmp_path: Path, made: str, disposal: list[int]
) -> None:
    source = written(tmp_path / "a.gif", drawn(alpha=True), loop=0, disposal=disposal)
    before, _, _ = shown(source)

    upscale_file(upscaler, source, tmp_path / f"b.{made}")

    images, _, _ = shown(tmp_path / f"b.{made}")
    for found, image in zip(images, before, strict=True):
        visible = doubled(image[..., 3] / 255) * 255
        wanted = np.where(visible >= 127.5, 255, 0) if made == "gif" else visible
        assert np.abs(found[..., 3] - wanted).mean() < 4
    # The rectangle moves on: what it left must be gone.
    assert images[-1][6:14, 4:8, 3].max() < 40 < images[0][6:14, 6:8, 3].min()


def test_the_image_for_programs_without_animation_stays_in_png(upscaler: Upscaler, tmp_path: Path) -> None:
    source = written(tmp_path / "a.png", drawn(alpha=False), duration=DELAYS[1:], default_image=True)

    upscale_file(upscaler, source, tmp_path / "b.png")
    facts = upscale_file(upscaler, source, tmp_path / "b.webp", quality=100)

    with Image.open(tmp_path / "b.png") as image:
        assert image.default_image  # type: ignore[attr-defined]
    assert shown(tmp_path / "b.png")[1] == [0, *DELAYS[1:]]
    assert shown(tmp_path / "b.webp")[1] == DELAYS[1:]
    assert any("no animation" in note for note in facts["notes"])


def test_delays_too_short_for_browsers_stay_in_a_gif_and_are_a_tenth_elsewhere(
    upscaler: Upscaler, tmp_path: Path
) -> None:
    source = written(tmp_path / "a.gif", drawn(alpha=False), duration=10)

    upscale_file(upscaler, source, tmp_path / "b.gif")
    upscale_file(upscaler, source, tmp_path / "b.webp")

    assert shown(tmp_path / "b.gif")[1] == [10] * 4
    assert shown(tmp_path / "b.webp")[1] == [100] * 4


def test_a_damaged_animation_ends_before_the_damage_with_a_word(upscaler: Upscaler, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), np.uint8)
    data = written(tmp_path / "whole.png", list(noise)).read_bytes()
    at = data.rindex(b"fdAT") + 12
    (tmp_path / "a.png").write_bytes(data[:at] + bytes(40) + data[at + 40 :])

    facts = upscale_file(upscaler, tmp_path / "a.png", tmp_path / "b.png")

    assert len(shown(tmp_path / "b.png")[0]) == 3
    assert any("ends after 3 images" in note for note in facts["notes"])
    assert facts["images"] == 3


def test_formats_without_animation_get_the_first_image_and_say_so(upscaler: Upscaler, tmp_path: Path) -> None:
    source = written(tmp_path / "a.webp", drawn(alpha=False))

    facts = upscale_file(upscaler, source, tmp_path / "b.jpg")

    assert "only the first of 4 images in the file was upscaled" in facts["notes"]


def test_animated_gifs_stay_gifs_and_single_ones_become_png(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    written(tmp_path / "in" / "moving.gif", drawn(alpha=False))
    Image.fromarray(drawn(alpha=False)[0]).save(tmp_path / "in" / "still.gif")

    made = {job.source.name: job.destination.name for job in plan_jobs([tmp_path / "in"], tmp_path / "out")}

    assert made == {"moving.gif": "moving.gif", "still.gif": "still.png"}
    assert is_animated(tmp_path / "in" / "moving.gif")
    with pytest.raises(ImageError, match="found a single image"):
        animation_of(tmp_path / "in" / "still.gif")


def test_every_page_of_a_tiff_keeps_its_size_depth_and_metadata(upscaler: Upscaler, tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    deep = np.random.default_rng(1).integers(0, 65536, (7, 5), np.uint16)
    exif = Image.Exif()
    exif[0x013B] = "Somebody"
    exif.get_ifd(0x8769)[0x829A] = 0.5
    exif[0x8769] = exif.get_ifd(0x8769)
    Image.fromarray(rgb).save(tmp_path / "a.tif", exif=exif, dpi=(300, 300))
    tifffile.imwrite(tmp_path / "a.tif", deep, append=True, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([rgb, rgb[..., 0]]), append=True, extrasamples=["unassalpha"])

    facts = upscale_file(upscaler, tmp_path / "a.tif", tmp_path / "b.tif")

    assert facts["images"] == 3
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        pages = [page.asarray() for page in file.pages]
    assert [(page.shape, page.dtype.name) for page in pages] == [
        ((18, 24, 3), "uint8"),
        ((14, 10), "uint16"),
        ((18, 24, 4), "uint8"),
    ]
    assert np.abs(pages[0] - expected(rgb)).max() == 0
    wanted = np.rint(doubled((65535 - deep.astype(np.int64)) / 65535).clip(0, 1) * 65535)
    assert np.abs(pages[1] - wanted).max() <= 1
    with Image.open(tmp_path / "b.tif") as image:
        assert image.n_frames == 3  # type: ignore[attr-defined]
        assert image.getexif()[0x013B] == "Somebody"
        assert float(image.getexif().get_ifd(0x8769)[0x829A]) == 0.5


# --- to and from videos ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", SUFFIXES)
def test_an_animation_becomes_a_video_with_its_delays(upscaler: Upscaler, tmp_path: Path, given: str) -> None:
    source = written(tmp_path / f"a.{given}", drawn(alpha=given != "avif"))

    result = animation_to_video(upscaler, source, tmp_path / "b.mkv", VideoOptions(preset="ffv1", bits=8))

    with av.open(str(tmp_path / "b.mkv")) as container:
        frames = list(container.decode(video=0))
        times = [float(frame.pts * frame.time_base) for frame in frames]
        last = frames[-1].to_ndarray(format="rgb24").astype(np.int64)
    assert result["source"] == str(source)
    assert np.diff(times) == pytest.approx(np.array(DELAYS[:-1]) / 1000, abs=0.002)
    image = drawn(alpha=given != "avif")[-1].astype(np.int64)
    if given != "avif":
        image = np.where(image[..., 3:] > 0, image[..., :3], 255)
        assert any("on white" in note for note in result["notes"])
    assert np.abs(last - expected(image)).mean() < 4


def test_a_video_becomes_an_animation_with_its_times(upscaler: Upscaler, tmp_path: Path) -> None:
    make_video(tmp_path / "a.mkv", (0, 40, 80, 240, 280))

    for made in SUFFIXES:
        result = video_to_animation(upscaler, tmp_path / "a.mkv", tmp_path / f"b.{made}", VideoOptions())
        images, delays, _ = shown(tmp_path / f"b.{made}")
        assert result["frames"] == len(images) == 5
        assert images[0].shape == (48, 64, 4)
        assert delays[:4] == [40, 40, 160, 40]
        assert any("audio" in note for note in result["notes"])


def test_single_images_are_no_videos(tmp_path: Path) -> None:
    Image.fromarray(drawn(alpha=False)[0]).save(tmp_path / "a.gif")
    written(tmp_path / "b.gif", drawn(alpha=False))

    with pytest.raises(UsageError, match="no animation"):
        plan_jobs([tmp_path / "a.gif"], tmp_path / "c.mp4")
    (job,) = plan_jobs([tmp_path / "b.gif"], tmp_path / "c.mp4")
    assert job.destination.name == "c.mp4"
    make_video(tmp_path / "v.mkv", (0, 40))
    with pytest.raises(UsageError, match="animated image"):
        plan_jobs([tmp_path / "v.mkv"], tmp_path / "c.jpg")


@pytest.mark.parametrize("axes", ["kept", "swapped"])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_images_of_a_video_are_turned_and_mirrored_as_its_matrix_says(axes: str, signs: tuple[int, int]) -> None:
    image = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3, 1)
    one, other = (sign * 65536 for sign in signs)
    a, b, c, d = (one, 0, 0, other) if axes == "kept" else (0, one, other, 0)
    placed = {((a * x + c * y) // 65536, (b * x + d * y) // 65536): image[y, x, 0] for y in range(2) for x in range(3)}
    left, top = min(x for x, _ in placed), min(y for _, y in placed)

    turned = _as_shown(image, (a, b, 0, c, d, 0, 7, 7, 1 << 30))

    assert {(x - left, y - top): value for (x, y), value in placed.items()} == {
        (x, y): turned[y, x, 0] for y in range(turned.shape[0]) for x in range(turned.shape[1])
    }
