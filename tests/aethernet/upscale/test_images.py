"""Image files of every kind come out larger, with everything about them kept.

The network is known (tests/support/upscaling.py), so what has to be in the result is computed here from the pixels that
were written, without the library's own reader.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from aethernet.errors import ImageError, MissingDependencyError, UsageError
from aethernet.upscale import Upscaler
from aethernet.upscale.files import passed_over, plan_jobs, upscale_files
from aethernet.upscale.image_file import upscale_file
from aethernet.upscale.reading import read_still
from tests.support.upscaling import doubled, smoothing_bundle

Write = Callable[[Path, np.ndarray], None]
HEIGHT, WIDTH = 11, 14
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = bytes(16) + b"GRAY" + bytes(16) + b"acsp" + bytes(92)
CMYK_PROFILE = bytes(16) + b"CMYK" + bytes(16) + b"acsp" + bytes(92)


def gradient(channels: int, dtype: Any = np.uint8) -> np.ndarray:
    """[H, W, C], smooth, different in every channel, using the whole range."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [(y * (3 + c) + x * (7 - c) + 20 * c) % 100 for c in range(channels)]
    smooth = [np.minimum(plane, 100 - plane) / 50 for plane in planes]
    levels = np.rint(np.stack(smooth, axis=2) * np.iinfo(dtype).max).astype(dtype)
    levels[..., -1] = np.maximum(levels[..., -1], 1)  # as alpha: colours nobody sees are replaced
    return levels


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """What the network makes of it, as levels."""
    top = np.iinfo(pixels.dtype).max
    channels = [doubled(pixels[..., index] / top) for index in range(pixels.shape[2])]
    return np.rint(np.clip(np.stack(channels, axis=2), 0, 1) * top)


def pillow(mode: str, **options: Any) -> Write:
    """Writes [H, W, C] with Pillow, in that mode."""

    def write(path: Path, pixels: np.ndarray) -> None:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        if mode == "CMYK":
            image = Image.fromarray(pixels, mode="CMYK")
        image.convert(mode).save(path, **options)

    return write


def turned(orientation: int, **options: Any) -> Write:
    """Stores the image so that only its orientation tag makes it upright."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }

    def write(path: Path, pixels: np.ndarray) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010F] = "A camera"
        image = Image.fromarray(pixels)
        image = image.transpose(back[orientation]) if orientation in back else image
        image.save(path, exif=exif, **options)

    return write


def png16(path: Path, pixels: np.ndarray) -> None:
    path.write_bytes(imagecodecs.png_encode(pixels.squeeze()))


def tiff(**options: Any) -> Write:
    def write(path: Path, pixels: np.ndarray) -> None:
        planar = options.get("planarconfig") == "separate"
        tifffile.imwrite(path, np.moveaxis(pixels, -1, 0) if planar else pixels.squeeze(), **options)

    return write


def palette(**options: Any) -> Write:
    def write(path: Path, pixels: np.ndarray) -> None:
        image = Image.fromarray((np.arange(HEIGHT * WIDTH) % 4).reshape(HEIGHT, WIDTH).astype(np.uint8), mode="P")
        image.putpalette(pixels[0, :4].tobytes())
        image.save(path, **options)

    return write


def from_palette(pixels: np.ndarray) -> np.ndarray:
    return pixels[0, :4][(np.arange(HEIGHT * WIDTH) % 4).reshape(HEIGHT, WIDTH)]


def bilevel(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels[..., 0] > 127).save(path)


def animation(path: Path, pixels: np.ndarray) -> None:
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)


def exif_of(**facts: Any) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif.get_ifd(0x8769)[0x829A] = 0.5  # exposure time
    exif.get_ifd(0x8769)[0xA002] = WIDTH
    exif[0x8769] = exif.get_ifd(0x8769)
    return exif


@dataclass(frozen=True)
class Variant:
    """One kind of input."""

    name: str
    """File name; before the first dash it is only a label."""
    write: Write
    channels: int = 3
    dtype: Any = np.uint8
    output: str = ""
    """Ending of the result; the input's own where empty."""
    mode: str = "RGB"
    """Pillow's mode of the result."""
    off: float = 0
    """Mean difference to the expected levels that a lossy format may have."""
    seen: Callable[[np.ndarray], np.ndarray] = field(default=lambda pixels: pixels)
    """What the written pixels look like when shown."""
    info: dict[str, Any] = field(default_factory=dict)
    """What Pillow must find in the result's info."""


def solid_black_on_white(pixels: np.ndarray) -> np.ndarray:
    alpha = enlarged(pixels)[..., 3:] / 255
    return enlarged(pixels)[..., :3] * alpha + 255 * (1 - alpha)


VARIANTS = [
    Variant("rgb.png", pillow("RGB")),
    Variant("grey.png", pillow("L"), 1, mode="L"),
    Variant("grey-alpha.png", pillow("LA"), 2, mode="LA"),
    Variant("rgba.png", pillow("RGBA"), 4, mode="RGBA"),
    Variant("bilevel.png", bilevel, 1, mode="L", seen=lambda p: np.where(p > 127, 255, 0).astype(np.uint8)),
    Variant("palette.png", palette(), seen=from_palette),
    Variant("palette.gif", palette(), output=".png", seen=from_palette),
    Variant("rgb.bmp", pillow("RGB"), output=".png"),
    Variant("rgb.ppm", pillow("RGB"), output=".png"),
    Variant("grey.pgm", pillow("L"), 1, output=".png", mode="L"),
    Variant("rgb.tga", pillow("RGB"), output=".png"),
    Variant("rgb16.png", png16, dtype=np.uint16, mode="RGB"),
    Variant("rgba16.png", png16, 4, dtype=np.uint16, mode="RGBA"),
    Variant("grey16.png", png16, 1, dtype=np.uint16, mode="I;16"),
    Variant("grey-alpha16.png", png16, 2, dtype=np.uint16, mode="RGBA"),
    Variant("profile.png", pillow("RGB", icc_profile=SRGB), info={"icc_profile": SRGB}),
    Variant("grey-profile.png", pillow("L", icc_profile=GREY_PROFILE), 1, mode="L", info={"icc_profile": GREY_PROFILE}),
    Variant("wrong-profile.png", pillow("RGB", icc_profile=CMYK_PROFILE), info={"icc_profile": None}),
    Variant("dpi.png", pillow("RGB", dpi=(300, 300)), info={"dpi": pytest.approx((300, 300), abs=0.1)}),
    Variant("exif.png", pillow("RGB", exif=exif_of())),
    Variant("transparent-colour.png", pillow("RGB", transparency=(1, 2, 3)), mode="RGBA",
            seen=lambda p: np.dstack([p, np.full(p.shape[:2], 255, np.uint8)])),
    Variant("rgb.jpg", pillow("RGB", quality=100, subsampling=0), off=2),
    Variant("rgb.jpeg", pillow("RGB", quality=100, subsampling=0), off=2),
    Variant("grey.jpg", pillow("L", quality=100), 1, mode="L", off=2),
    Variant("progressive.jpg", pillow("RGB", quality=100, subsampling=0, progressive=True), off=2),
    Variant("profile.jpg", pillow("RGB", quality=100, subsampling=0, icc_profile=SRGB), off=2,
            info={"icc_profile": SRGB}),
    Variant("exif.jpg", pillow("RGB", quality=100, subsampling=0, exif=exif_of()), off=2),
    Variant("xmp.jpg", pillow("RGB", quality=100, subsampling=0, xmp=b"<x:xmpmeta/>"), off=2,
            info={"xmp": b"<x:xmpmeta/>"}),
    Variant("cmyk.jpg", pillow("CMYK", quality=100, subsampling=0), 4, mode="CMYK", off=3),
    Variant("cmyk-profile.jpg", pillow("CMYK", quality=100, subsampling=0, icc_profile=CMYK_PROFILE), 4, mode="CMYK",
            off=3, info={"icc_profile": CMYK_PROFILE}),
    *(Variant(f"turned-{n}.jpg", turned(n, quality=100, subsampling=0), off=2) for n in range(1, 9)),
    Variant("turned-6.png", turned(6)),
    Variant("turned-8.tif", turned(8)),
    Variant("turned-3.webp", turned(3, lossless=True), off=4),
    Variant("turned-5.avif", turned(5, quality=100, subsampling="4:4:4"), off=4),
    Variant("rgb.webp", pillow("RGB", lossless=True), off=4),
    Variant("rgba.webp", pillow("RGBA", lossless=True, exact=True), 4, mode="RGBA", off=4),
    Variant("animated.webp", animation, off=4),
    Variant("rgb.avif", pillow("RGB", quality=100, subsampling="4:4:4"), off=4),
    Variant("rgba.avif", pillow("RGBA", quality=100, subsampling="4:4:4"), 4, mode="RGBA", off=4),
    Variant("rgb.tif", tiff()),
    Variant("deflated.tif", tiff(compression="zlib", predictor=True)),
    Variant("lzw.tiff", pillow("RGB", compression="tiff_lzw")),
    Variant("grey.tif", tiff(), 1, mode="L"),
    Variant("rgba.tif", tiff(photometric="rgb", extrasamples=["unassalpha"]), 4, mode="RGBA"),
    Variant("rgb16.tif", tiff(photometric="rgb"), dtype=np.uint16),
    Variant("rgb16-deflated.tif", tiff(photometric="rgb", compression="zlib", predictor=True), dtype=np.uint16),
    Variant("rgb16-lzw.tif", tiff(photometric="rgb", compression="lzw"), dtype=np.uint16),
    Variant("rgb16-planes.tif", tiff(photometric="rgb", planarconfig="separate"), dtype=np.uint16),
    Variant("rgba16.tif", tiff(photometric="rgb", extrasamples=["unassalpha"]), 4, dtype=np.uint16, mode="RGBA"),
    Variant("grey16.tif", tiff(), 1, dtype=np.uint16, mode="I;16"),
    Variant("cmyk.tif", tiff(photometric="separated"), 4, mode="CMYK"),
    Variant("profile.tif", tiff(photometric="rgb", iccprofile=SRGB), info={"icc_profile": SRGB}),
    Variant("bigendian16.tif", tiff(photometric="rgb", byteorder=">"), dtype=np.uint16),
    # other formats out
    Variant("rgba-to.jpg.png", pillow("RGBA"), 4, output=".jpg", off=3, seen=solid_black_on_white),
    Variant("rgb16-to.jpg.png", png16, dtype=np.uint16, output=".jpg", off=2, seen=lambda p: enlarged(p) / 257),
    Variant("rgb-to.webp.png", pillow("RGB"), output=".webp", off=4),
    Variant("grey-to.webp.png", pillow("L"), 1, output=".webp", off=4, seen=lambda p: p.repeat(3, axis=2)),
    Variant("rgb-to.avif.png", pillow("RGB"), output=".avif", off=4),
    Variant("rgb16-to.tif.png", png16, dtype=np.uint16, output=".tif"),
    Variant("cmyk-to.png.jpg", pillow("CMYK", quality=100, subsampling=0), 4, output=".png", off=6,
            seen=lambda p: enlarged(np.asarray(Image.fromarray(p, mode="CMYK").convert("RGB")))),
]  # fmt: skip


def levels(path: Path, dtype: Any) -> np.ndarray:
    """[H, W, C] as stored."""
    if dtype == np.uint16 and path.suffix == ".png":
        pixels = imagecodecs.png_decode(path.read_bytes())
    elif dtype == np.uint16 and path.suffix == ".tif":
        pixels = tifffile.imread(path)
    else:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_kind_of_image(upscaler: Upscaler, tmp_path: Path, variant: Variant) -> None:
    pixels = gradient(variant.channels, variant.dtype)
    source = tmp_path / variant.name
    variant.write(source, pixels)
    destination = tmp_path / f"larger{variant.output or source.suffix}"

    upscale_file(upscaler, source, destination, quality=100 if destination.suffix == ".avif" else None)

    shown = variant.seen(pixels)
    expected = shown if shown.shape[0] == 2 * HEIGHT else enlarged(shown)
    found = levels(destination, variant.dtype)
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.max() == 0 if variant.off == 0 else difference.mean() <= variant.off
    with Image.open(destination) as image:
        image.load()
        assert image.mode == variant.mode
        assert {name: image.info.get(name) for name in variant.info} == variant.info
        assert image.getexif().get(0x0112, 1) == 1


def test_the_table_is_long_enough() -> None:
    assert len(VARIANTS) >= 40
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
def test_exif_is_kept_and_its_size_brought_up_to_date(upscaler: Upscaler, tmp_path: Path, suffix: str) -> None:
    source, destination = tmp_path / "image.jpg", tmp_path / f"larger{suffix}"
    Image.fromarray(gradient(3)).save(source, exif=exif_of())

    upscale_file(upscaler, source, destination)

    with Image.open(destination) as image:
        exif = image.getexif()
        details = exif.get_ifd(0x8769)
    assert exif[0x010F] == "A camera"
    assert details[0x829A] == 0.5
    assert details[0xA002] == 2 * WIDTH


def test_a_tiff_does_not_hand_its_layout_on(upscaler: Upscaler, tmp_path: Path) -> None:
    source, destination = tmp_path / "image.tif", tmp_path / "larger.jpg"
    Image.fromarray(gradient(3)).save(source, exif=exif_of())

    upscale_file(upscaler, source, destination)

    with Image.open(destination) as image:
        exif = image.getexif()
    assert exif[0x010F] == "A camera"
    assert not {0x0100, 0x0101, 0x0103, 0x0111, 0x0117} & set(exif)


def test_text_and_colour_tags_of_other_chunks_do_no_harm(upscaler: Upscaler, tmp_path: Path) -> None:
    information = PngInfo()
    information.add_text("Comment", "words")
    Image.fromarray(gradient(3)).save(tmp_path / "image.png", pnginfo=information)

    result = upscale_file(upscaler, tmp_path / "image.png", tmp_path / "larger.png")

    assert result["output_size"] == [2 * WIDTH, 2 * HEIGHT]


def test_tiles_of_a_network_that_pools_are_owned_up_to(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((30, 260, 3), np.uint8)).save(tmp_path / "long.png")

    told = {}
    for tile in (None, 92):
        with Upscaler(smoothing_bundle(tmp_path, pools=True), runtime="onnxruntime-cpu", tile=tile) as upscaler:
            told[tile] = upscale_file(upscaler, tmp_path / "long.png", tmp_path / "larger.png")

    assert told[None]["tiles"] == 1
    assert told[None]["notes"] == []
    assert told[92]["tiles"] > 2
    assert "looks at the whole image" in told[92]["notes"][0]


def test_png_written_in_bands_has_every_filter_right(upscaler: Upscaler, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (150, 61, 3), dtype=np.uint8)
    image[:50] = 7
    image[50:100] = np.arange(61)[None, :, None]
    Image.fromarray(image).save(tmp_path / "image.png")

    upscale_file(upscaler, tmp_path / "image.png", tmp_path / "larger.png")

    with Image.open(tmp_path / "larger.png") as written:
        assert np.array_equal(np.asarray(written), enlarged(image))


# --- what cannot be done ---------------------------------------------------------------------------------------------


def damaged(path: Path) -> None:
    Image.fromarray(gradient(3).repeat(20, axis=0)).save(path)
    path.write_bytes(path.read_bytes()[:-60])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def words(path: Path) -> None:
    path.write_text("no image")


def floats(path: Path) -> None:
    tifffile.imwrite(path, np.full((4, 4), 2, np.float32))


def bomb(path: Path) -> None:
    """A few bytes that claim 10 gigapixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))


BROKEN = {"damaged.png": damaged, "empty.png": empty, "words.jpg": words, "floats.tif": floats, "bomb.png": bomb}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_files_are_named_and_leave_nothing_behind(upscaler: Upscaler, tmp_path: Path, name: str) -> None:
    BROKEN[name](tmp_path / name)

    with pytest.raises(ImageError, match=name):
        upscale_file(upscaler, tmp_path / name, tmp_path / "out" / "larger.png")

    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("suffix", "limit"), [(".jpg", 65_500), (".webp", 16_383), (".avif", 65_536)])
def test_a_format_that_is_too_small_is_named_before_any_work(
    upscaler: Upscaler, tmp_path: Path, suffix: str, limit: int
) -> None:
    Image.new("1", (limit // 2 + 1, 1)).save(tmp_path / "long.png")

    with pytest.raises(ImageError, match=f"{limit:,}"):
        upscale_file(upscaler, tmp_path / "long.png", tmp_path / f"larger{suffix}")


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "inner").mkdir(parents=True)
    Image.fromarray(gradient(3)).save(folder / "a.png")
    words(folder / "b.jpg")
    Image.fromarray(gradient(3)).save(folder / "inner" / "c.bmp")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_a_folder_becomes_the_same_tree(upscaler: Upscaler, tree: Path, tmp_path: Path) -> None:
    jobs = plan_jobs([tree], tmp_path / "out")

    results = upscale_files(upscaler, jobs)

    made = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert made == ["a.png", "inner/c.png"]
    assert ["error" in result for result in results] == [False, True, False]


def test_existing_results_are_left_alone(upscaler: Upscaler, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("mine")

    results = upscale_files(upscaler, plan_jobs([tree / "a.png", tree / "inner"], tmp_path / "out"), skip_existing=True)

    assert ["skipped" in result for result in results] == [True, False]
    assert (tmp_path / "out" / "a.png").read_text() == "mine"


def test_results_inside_the_input_folder_are_not_taken_for_inputs(
    upscaler: Upscaler, tree: Path, tmp_path: Path
) -> None:
    upscale_files(upscaler, plan_jobs([tree], tree / "larger"))

    assert {job.source.name for job in plan_jobs([tree], tree / "larger")} == {"a.png", "b.jpg", "c.bmp"}


@pytest.mark.parametrize(
    ("given", "made"), [("a.mp4", "a.mp4"), ("b.MOV", "b.MOV"), ("c.avi", "c.mkv"), ("d.webm", "d.mkv")]
)
def test_videos_in_a_folder_stay_in_a_container_that_holds_their_streams(tmp_path: Path, given: str, made: str) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / given).touch()

    (job,) = plan_jobs([tmp_path / "videos"], tmp_path / "out")

    assert job.destination == tmp_path / "out" / made


def test_inputs_that_differ_in_their_ending_only_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "a.bmp", "a.gif", "b.bmp", "c.jfif"):
        Image.fromarray(gradient(3)).save(tmp_path / "in" / name, format="PNG")

    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out")

    made = {job.source.name: job.destination.name for job in jobs}
    assert made == {
        "a.png": "a.png",
        "a.bmp": "a.bmp.png",
        "a.gif": "a.gif.png",
        "b.bmp": "b.png",
        "c.jfif": "c.jfif",
    }


def test_inputs_of_one_name_are_numbered_where_that_is_asked_for(tmp_path: Path) -> None:
    for place in ("x/a.png", "y/a.png", "y/a-2.png", "z/a.bmp"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    folders = [tmp_path / name for name in "xyz"]

    jobs = plan_jobs(folders, tmp_path / "out", on_clash="number")

    made = {job.source.relative_to(tmp_path).as_posix(): job.destination.name for job in jobs}
    assert made == {"x/a.png": "a.png", "y/a-2.png": "a-2.png", "y/a.png": "a-3.png", "z/a.bmp": "a.bmp.png"}
    for other in ("ending", "refuse"):
        with pytest.raises(UsageError, match="one output per input") as refused:
            plan_jobs(folders, tmp_path / "out", on_clash=other)
        assert "--on-clash number" in refused.value.hint


def test_nothing_is_told_apart_where_a_clash_is_to_be_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "a.bmp").touch()

    with pytest.raises(UsageError, match="one output per input"):
        plan_jobs([tmp_path / "a.png", tmp_path / "a.bmp"], tmp_path / "out", on_clash="refuse")


def test_names_that_are_told_apart_still_fit(tmp_path: Path) -> None:
    long = "é" * 125 + "z"
    for ending in (".bmp", ".tga", ".png"):
        (tmp_path / f"{long}{ending}").touch()

    jobs = plan_jobs([tmp_path], tmp_path / "out")

    assert len({job.destination for job in jobs}) == 3
    assert max(len(job.destination.name.encode()) for job in jobs) <= 255


def test_what_is_passed_over_is_named(tree: Path, tmp_path: Path) -> None:
    assert passed_over([tree], tmp_path / "out") == [str(tree / "notes.txt")]


def test_links_that_lead_to_each_other_are_no_output(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "pool.png")
    (tmp_path / "pool.png").symlink_to(tmp_path / "loop.png")

    with pytest.raises(UsageError, match="an output that can be written"):
        plan_jobs([tree / "a.png"], tmp_path / "loop.png")


def test_one_file_takes_the_name_it_is_given(tree: Path, tmp_path: Path) -> None:
    (job,) = plan_jobs([tree / "a.png"], tmp_path / "mine.webp")

    assert job.destination == tmp_path / "mine.webp"


@pytest.mark.parametrize(
    ("inputs", "output", "form", "told"),
    [
        (["a.png"], "a.png", None, "beside its input"),
        (["missing.png"], "out", None, "nothing at"),
        (["a.png"], "larger.xyz", None, "expected an output called"),
        (["a.png", "inner"], "a.png", None, "a folder"),
        (["a.png", "a.png"], "out", None, "one output per input"),
        (["a.png"], "out", "bmp", "expected a format"),
        (["a.png"], "larger.png", "webp", "to fit"),
    ],
    ids=["itself", "missing", "ending", "file for many", "twice", "format", "format and name"],
)
def test_plans_that_make_no_sense_are_refused(
    tree: Path, inputs: list[str], output: str, form: str | None, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        plan_jobs([tree / name for name in inputs], tree / output, form)


def test_a_defect_met_in_one_file_is_that_files_error(
    upscaler: Upscaler, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(path: Path, **named: Any) -> Any:
        if path.name == "a.png":
            raise KeyError("nobody thought of this")
        return read_still(path, **named)

    monkeypatch.setattr("aethernet.upscale.files.read_still", stumble)
    jobs = plan_jobs([tree], tmp_path / "out")

    results = upscale_files(upscaler, jobs)

    failed = [one for one in results if Path(one["source"]).name == "a.png"]
    assert "nobody thought of this" in failed[0]["error"]
    assert failed[0]["hint"]
    assert len(results) == len(jobs) > 1
    assert any(job.destination.is_file() for job in jobs if job.source.name != "a.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_exif_that_cannot_be_written_is_dropped_tag_by_tag(upscaler: Upscaler, tmp_path: Path, suffix: str) -> None:
    entries = [
        (0x010F, 2, 5, b"Maker"[:4] + b"\0"),  # stays
        (0x011A, 10, 1, struct.pack("<ii", -1, 0)),  # a fraction without a denominator
        (0x0132, 11, 1, struct.pack("<f", 1.5)),  # a float where text belongs
        (0x013B, 2, 7, "Müller".encode("latin-1") + b"\0"),  # stays, byte by byte
    ]
    start = 8 + 2 + 12 * len(entries) + 4
    directory, behind = struct.pack("<H", len(entries)), b""
    for tag, kind, count, data in entries:
        value = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", start + len(behind))
        directory += struct.pack("<HHI", tag, kind, count) + value
        behind += data + bytes(len(data) % 2) if len(data) > 4 else b""
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + bytes(4) + behind
    Image.fromarray(gradient(3)).save(tmp_path / "a.jpg", exif=exif)

    facts = upscale_file(upscaler, tmp_path / "a.jpg", tmp_path / f"b{suffix}")

    with Image.open(tmp_path / f"b{suffix}") as image:
        kept = image.getexif()
        assert kept[0x010F] == "Make"
        assert kept[0x013B] == "Müller"
    note = next(note for note in facts["notes"] if "metadata that cannot be written" in note)
    assert "DateTime" in note


def test_exif_too_long_for_jpeg_loses_its_longest_tags_only(upscaler: Upscaler, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x010F] = "x" * 70_000, "Maker"
    Image.fromarray(gradient(3)).save(tmp_path / "a.png", exif=exif)

    facts = upscale_file(upscaler, tmp_path / "a.png", tmp_path / "b.jpg")

    with Image.open(tmp_path / "b.jpg") as image:
        assert image.getexif()[0x010F] == "Maker"
    assert any("ImageDescription" in note for note in facts["notes"])


def test_a_damaged_profile_is_dropped_with_its_damage(upscaler: Upscaler, tmp_path: Path) -> None:
    Image.fromarray(gradient(4), mode="CMYK").save(tmp_path / "a.jpg", icc_profile=CMYK_PROFILE[:100])

    kept = upscale_file(upscaler, tmp_path / "a.jpg", tmp_path / "b.jpg")
    converted = upscale_file(upscaler, tmp_path / "a.jpg", tmp_path / "b.png")

    for facts in (kept, converted):
        assert any("profile was dropped: it has 100 bytes" in note for note in facts["notes"])


def test_the_orientation_of_xmp_is_upright_too_where_it_is_an_element(upscaler: Upscaler, tmp_path: Path) -> None:
    xmp = (
        b"<x:xmpmeta><tiff:Orientation>6</tiff:Orientation><exif:PixelXDimension>14</exif:PixelXDimension></x:xmpmeta>"
    )
    Image.fromarray(gradient(3)).save(tmp_path / "a.jpg", xmp=xmp)

    facts = upscale_file(upscaler, tmp_path / "a.jpg", tmp_path / "b.jpg")

    assert facts["output_size"] == [2 * HEIGHT, 2 * WIDTH]
    with Image.open(tmp_path / "b.jpg") as image:
        assert b"<tiff:Orientation>1</tiff:Orientation>" in image.info["xmp"]
        assert b"<exif:PixelXDimension>22</exif:PixelXDimension>" in image.info["xmp"]


def _with_chunks(path: Path, *chunks: tuple[bytes, bytes]) -> None:
    data = path.read_bytes()
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    path.write_bytes(data[:33] + b"".join(packed) + data[33:])


CORNERS = {
    "in a line": (31270, 32900, 30000, 30000, 30000, 30000, 30000, 30000),
    "beyond all numbers": (2**32 - 1,) * 8,
    "no white": (0, 0, 64000, 33000, 30000, 60000, 15000, 6000),
}


@pytest.mark.parametrize("corners", CORNERS.values(), ids=CORNERS)
def test_primaries_that_span_no_colours_do_not_stop_an_image(
    upscaler: Upscaler, tmp_path: Path, corners: tuple[int, ...]
) -> None:
    Image.fromarray(gradient(3)).save(tmp_path / "a.png")
    _with_chunks(tmp_path / "a.png", (b"gAMA", struct.pack(">I", 100_000)), (b"cHRM", struct.pack(">8I", *corners)))

    upscale_file(upscaler, tmp_path / "a.png", tmp_path / "b.jpg")

    with Image.open(tmp_path / "b.jpg") as image:
        assert ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])).profile.xcolor_space == "RGB "


def test_texts_stay_where_the_format_has_them_and_are_named_where_not(upscaler: Upscaler, tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_itxt("parameters", "a cat, Größe 3")
    texts.add_text("Comment", "hello")
    texts.add_text("long", "x" * 3_000_000, zip=True)
    Image.fromarray(gradient(3)).save(tmp_path / "a.png", pnginfo=texts)

    upscale_file(upscaler, tmp_path / "a.png", tmp_path / "b.png")
    facts = upscale_file(upscaler, tmp_path / "a.png", tmp_path / "b.jpg")
    upscale_file(upscaler, tmp_path / "b.jpg", tmp_path / "c.png")

    for name, kept in (("b.png", ["parameters", "Comment", "long"]), ("c.png", ["Comment"])):
        with Image.open(tmp_path / name) as image:
            assert list(image.text) == kept  # type: ignore[attr-defined]
            assert image.text["Comment"] == "hello"  # type: ignore[attr-defined]
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.info["comment"] == b"hello"
    assert "jpg does not hold these texts, which were dropped: parameters, long" in facts["notes"]


def test_tags_that_cannot_be_read_are_named(upscaler: Upscaler, tmp_path: Path) -> None:
    def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
        packed = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
        return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)

    good = (0x013B, 2, 4, b"Abc\0")
    cases = {
        "Make": exif((0x010F, 99, 1, b"?"), good),  # no such type
        "Model": exif((0x0110, 2, 2**31, b"\xff\xff\xff\x7f"), good),  # beyond the end
        "EXIF": b"Exif\0\0 is not what follows",
    }
    for name, data in cases.items():
        Image.fromarray(gradient(3)).save(tmp_path / "a.jpg", exif=data)
        facts = upscale_file(upscaler, tmp_path / "a.jpg", tmp_path / "b.jpg")
        assert facts["notes"] == [f"metadata that cannot be written again was dropped: {name}"]
        with Image.open(tmp_path / "b.jpg") as image:
            assert (image.getexif().get(0x013B) == "Abc") == (name != "EXIF")
    Image.fromarray(gradient(3)).save(tmp_path / "a.jpg", exif=exif(good))
    assert upscale_file(upscaler, tmp_path / "a.jpg", tmp_path / "b.jpg")["notes"] == []


@pytest.mark.parametrize("channels", [1, 3])
def test_gamma_of_a_png_stays_in_png_and_becomes_a_profile_elsewhere(
    upscaler: Upscaler, tmp_path: Path, channels: int
) -> None:
    Image.fromarray(gradient(channels).squeeze()).save(tmp_path / "a.png")
    _with_chunks(tmp_path / "a.png", (b"gAMA", struct.pack(">I", 100_000)))

    for suffix in (".png", ".jpg", ".webp", ".tif"):
        upscale_file(upscaler, tmp_path / "a.png", tmp_path / f"b{suffix}")

    with Image.open(tmp_path / "b.png") as image:
        assert image.info["gamma"] == 1.0
        assert "icc_profile" not in image.info
    for suffix in (".jpg", ".webp", ".tif"):
        with Image.open(tmp_path / f"b{suffix}") as image:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
            assert profile.profile.xcolor_space.strip() == {"L": "GRAY"}.get(image.mode, image.mode)
        if channels == 3:  # light of a middle value is half of the light: sRGB calls that 188
            made = ImageCms.profileToProfile(
                Image.new("RGB", (1, 1), (128,) * 3), profile, ImageCms.createProfile("sRGB")
            )
            assert made is not None
            assert made.getpixel((0, 0)) == pytest.approx((188,) * 3, abs=1)


def test_hdr_tags_go_from_png_to_png_and_avif(upscaler: Upscaler, tmp_path: Path) -> None:
    Image.fromarray(gradient(3)).save(tmp_path / "a.png")
    _with_chunks(tmp_path / "a.png", (b"cICP", bytes([9, 16, 0, 1])))

    for name in ("b.png", "b.avif"):
        upscale_file(upscaler, tmp_path / "a.png", tmp_path / name)
    upscale_file(upscaler, tmp_path / "b.avif", tmp_path / "c.png")
    notes = upscale_file(upscaler, tmp_path / "a.png", tmp_path / "b.jpg")["notes"]

    for name in ("b.png", "c.png"):
        assert b"cICP\x09\x10\x00\x01" in (tmp_path / name).read_bytes()
    assert b"colrnclx\x00\x09\x00\x10" in (tmp_path / "b.avif").read_bytes()
    assert any("primaries 9 and transfer 16" in note for note in notes)


@pytest.mark.parametrize("top", [1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P5", "P6"])
def test_netpbm_of_more_than_8_bits_is_kept(tmp_path: Path, kind: str, top: int) -> None:
    pixels = np.rint(gradient(3 if kind == "P6" else 1, np.uint16).astype(np.float64) * top / 65535).astype(">u2")
    header = f"{kind}\n# words\n{WIDTH} {HEIGHT}\n{top}\n".encode()
    (tmp_path / "a.pnm").write_bytes(header + pixels.tobytes())

    found = read_still(tmp_path / "a.pnm").colour

    assert found.dtype == np.uint16
    assert np.array_equal(found, np.rint(pixels.astype(np.float64) * (65535 / top)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("top", [1, 15, 255, 1023, 65535])
def test_pam_of_every_depth_is_read(tmp_path: Path, channels: int, top: int) -> None:
    samples = np.random.default_rng(0).integers(0, top, (5, 7, channels), endpoint=True)
    header = f"P7\nWIDTH 7\nHEIGHT 5\nDEPTH {channels}\nMAXVAL {top}\nTUPLTYPE ANY\nENDHDR\n".encode()
    (tmp_path / "a.pam").write_bytes(header + samples.astype(">u2" if top > 255 else "u1").tobytes())

    still = read_still(tmp_path / "a.pam")

    found = still.colour if still.plane is None else np.dstack([still.colour, still.plane])
    full = 65535 if top > 255 else 255
    assert np.array_equal(found, np.rint(samples * (full / top)))
    (tmp_path / "a.pam").write_bytes(header)
    with pytest.raises(ImageError, match="expected"):
        read_still(tmp_path / "a.pam")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_2000_of_16_bits_is_kept(tmp_path: Path, channels: int) -> None:
    pixels = gradient(channels, np.uint16)
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(pixels.squeeze(), level=0, reversible=True))

    still = read_still(tmp_path / "a.jp2")

    assert np.array_equal(still.colour, pixels[..., : still.colour.shape[2]])
    assert still.has_alpha == (channels == 4)


def test_cmyk_of_16_bits_stays_in_tiff(upscaler: Upscaler, tmp_path: Path) -> None:
    pixels = gradient(4, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="separated")

    upscale_file(upscaler, tmp_path / "a.tif", tmp_path / "b.tif")

    found = tifffile.imread(tmp_path / "b.tif")
    assert found.dtype == np.uint16
    assert np.abs(found.astype(np.int64) - (65535 - enlarged(65535 - pixels))).max() <= 1


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_a_full_disk_leaves_no_cut_file(bundle: Path, tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (160, 160, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    # As a full disk, a limit on a file's size shows while it is written.
    program = (
        "import resource, signal, sys\nfrom aethernet.upscale import Upscaler\n"
        "from aethernet.errors import StoreError\n"
        "with Upscaler(sys.argv[1], 'fp32', 'onnxruntime-cpu', threads=1) as upscaler:\n"
        "    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "    try:\n        upscaler.upscale_file(sys.argv[2], sys.argv[3])\n"
        "    except StoreError as error:\n        print('refused', error)\n"
    )
    target = tmp_path / "out" / f"b{suffix}"
    command = [sys.executable, "-c", program, str(bundle), str(tmp_path / "a.png"), str(target)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)

    assert ended.stdout.startswith("refused"), ended.stderr
    assert not list(target.parent.iterdir())


def test_names_may_be_as_long_as_the_system_takes_them(upscaler: Upscaler, tmp_path: Path) -> None:
    Image.fromarray(gradient(3)).save(tmp_path / "a.png")
    target = tmp_path / ("ä" * 125 + "b.png")

    upscale_file(upscaler, tmp_path / "a.png", target)

    assert target.is_file()


def test_inputs_that_failed_once_are_all_done(upscaler: Upscaler, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "turn2"
    if not folder.is_dir():
        pytest.skip("needs the inputs in shared/data/turn2 beside the repository")
    images = [path for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".png", ".tif", ".pgm", ".ppm")]

    results = upscale_files(upscaler, plan_jobs(images, tmp_path))

    assert not [one for one in results if "error" in one]


def test_reading_tells_what_it_left_out(tmp_path: Path) -> None:
    animation(tmp_path / "animated.webp", gradient(3))

    assert "first of 2" in read_still(tmp_path / "animated.webp").notes[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_plain_tiffs_are_read_without_the_libraries_for_the_others(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.arange(6 * 5 * channels, dtype=np.uint8).reshape(6, 5, channels)
    tifffile.imwrite(tmp_path / "plain.tif", pixels.squeeze(), photometric="rgb" if channels == 3 else "minisblack")
    monkeypatch.setitem(sys.modules, "tifffile", None)

    assert np.array_equal(read_still(tmp_path / "plain.tif").colour, pixels)


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "miniswhite"},
        {"extratags": [(274, "H", 1, 6, True)]},
        {"dtype": np.uint16},
        {"dtype": np.int8},
    ],
    ids=["white-is-zero", "turned", "16-bit", "signed"],
)
def test_without_their_libraries_other_tiffs_are_refused_with_the_extra_named(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "other.tif", np.ones((6, 5), options.pop("dtype", np.uint8)), **options)
    monkeypatch.setitem(sys.modules, "tifffile", None)

    with pytest.raises(MissingDependencyError, match="tifffile"):
        read_still(tmp_path / "other.tif")
