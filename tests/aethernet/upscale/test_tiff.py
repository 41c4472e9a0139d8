"""TIFF files of every depth, meaning and layout: what is read is what was written, by TIFF 6.0's definitions."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from aethernet.errors import ImageError
from aethernet.upscale.reading import read_still
from tests.support.orientation import TURNS

HEIGHT, WIDTH = 9, 13


def levels(channels: int, top: int, dtype: Any) -> np.ndarray:
    """[H, W, C] of all kinds of values up to ``top``."""
    values = np.random.default_rng(7).integers(0, top, (HEIGHT, WIDTH, channels), endpoint=True)
    values[0, 0], values[0, 1] = 0, top
    return values.astype(dtype)


def whole(path: Path) -> np.ndarray:
    still = read_still(path)
    return still.colour if still.plane is None else np.concatenate([still.colour, still.plane[..., None]], axis=2)


@pytest.mark.parametrize("white_is_zero", [False, True], ids=["black is zero", "white is zero"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 14, 16])
def test_grey_of_every_depth_uses_the_whole_range(tmp_path: Path, bits: int, white_is_zero: bool) -> None:
    top = 2**bits - 1
    stored = levels(1, top, np.uint8 if bits <= 8 else np.uint16)[..., 0]
    path = tmp_path / "grey.tif"
    _write_grey(path, stored, bits, white_is_zero=white_is_zero)

    found = read_still(path)

    meant = top - stored.astype(np.int64) if white_is_zero else stored.astype(np.int64)
    high = 255 if bits <= 8 else 65535
    assert found.colour.dtype == (np.uint8 if bits <= 8 else np.uint16)
    assert np.array_equal(found.colour[..., 0], np.rint(meant * high / top))


def _write_grey(path: Path, stored: np.ndarray, bits: int, *, white_is_zero: bool) -> None:
    """Rows of packed bits, the highest first, by the specification: no library writes 10 or 14."""
    rows = [
        np.packbits(np.array([[int(v) >> (bits - 1 - i) & 1 for i in range(bits)] for v in row], np.uint8).ravel())
        for row in stored
    ]
    data = b"".join(row.tobytes() for row in rows) if bits != 16 else stored.astype("<u2").tobytes()
    entries = [
        (256, 3, stored.shape[1]),
        (257, 3, stored.shape[0]),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 0 if white_is_zero else 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, stored.shape[0]),
        (279, 4, len(data)),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", t, k, 1, v) for t, k, v in entries)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4))


@pytest.mark.parametrize(
    ("planar", "compression", "predictor", "tile", "dtype"),
    [
        combination
        for combination in itertools.product(
            ["contig", "separate"],
            [None, "lzw", "zlib", "packbits", "zstd"],
            [False, True],
            [None, (16, 16)],
            ["u1", "u2"],
        )
        if not (combination[2] and combination[1] in (None, "packbits"))
    ],
)
def test_layouts_do_not_matter(
    tmp_path: Path, planar: str, compression: str | None, predictor: bool, tile: tuple[int, int] | None, dtype: str
) -> None:
    pixels = levels(3, np.iinfo(dtype).max, dtype)
    given = pixels if planar == "contig" else np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    options = {"planarconfig": planar, "compression": compression, "predictor": predictor, "tile": tile}
    tifffile.imwrite(tmp_path / "a.tif", given, photometric="rgb", **options)

    assert np.array_equal(whole(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "compression"),
    [
        ("bilevel", None),  # tifffile does not compress these
        *itertools.product(["grey", "rgb", "rgba", "palette", "grey16", "cmyk"], [None, "lzw"]),
    ],
)
def test_every_orientation_of_every_kind(tmp_path: Path, kind: str, compression: str | None, orientation: int) -> None:
    channels = {"rgb": 3, "rgba": 4, "cmyk": 4}.get(kind, 1)
    dtype = np.uint16 if kind == "grey16" else np.uint8
    pixels = levels(channels, 1 if kind == "bilevel" else np.iinfo(dtype).max, dtype)
    options: dict[str, Any] = {"photometric": "rgb" if channels > 2 else "minisblack"}
    meant = pixels
    if kind == "rgba":
        options["extrasamples"] = ["unassalpha"]
    elif kind == "cmyk":
        options["photometric"] = "separated"
        meant = 255 - pixels
    elif kind == "palette":
        table = np.random.default_rng(1).integers(0, 255, (3, 256)).astype(np.uint16)
        options |= {"photometric": "palette", "colormap": table * 257}
        meant = table.T[pixels[..., 0]]
    elif kind == "bilevel":
        meant = pixels * 255
        options["bitspersample"] = 1
    stored = pixels if channels > 1 else pixels[..., 0]
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, compression=compression, extratags=tag, metadata=None, **options)

    upright = TURNS[orientation](meant)
    assert np.array_equal(whole(tmp_path / "a.tif"), upright)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_premultiplied_colours_are_divided_by_alpha(tmp_path: Path, dtype: Any, channels: int) -> None:
    top = np.iinfo(dtype).max
    straight = levels(channels, top, dtype).astype(np.float64)
    alpha = levels(1, top, dtype)
    alpha[1, 1] = 0
    stored = np.concatenate([np.rint(straight * (alpha / top)).astype(dtype), alpha], axis=2)
    kind = "minisblack" if channels == 1 else "rgb"
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric=kind, planarconfig="contig", extrasamples=["assocalpha"])

    still = read_still(tmp_path / "a.tif")

    share = alpha / top
    wanted = np.divide(stored[..., :-1], share, out=np.zeros(straight.shape), where=share > 0)
    assert still.plane is not None
    assert np.array_equal(still.plane, alpha[..., 0])
    assert np.array_equal(still.colour, np.rint(wanted.clip(0, top)))


def test_channels_of_unknown_meaning_are_dropped_with_a_word(tmp_path: Path) -> None:
    pixels = levels(6, 255, np.uint8)
    extra = ["unspecified", "unassalpha", "unspecified"]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", planarconfig="contig", extrasamples=extra)

    assert np.array_equal(whole(tmp_path / "a.tif"), pixels[..., [0, 1, 2, 4]])
    assert "2 more channels of unknown meaning dropped" in read_still(tmp_path / "a.tif").notes


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("predictor", [False, True])
def test_floats_from_0_to_1_are_taken_as_they_are(tmp_path: Path, dtype: Any, predictor: bool) -> None:
    pixels = (levels(3, 1000, np.int64) / 1000).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", predictor=predictor, compression="zlib")

    still = read_still(tmp_path / "a.tif")

    assert still.colour.dtype == np.float32
    assert np.array_equal(still.colour, pixels.astype(np.float32))
    assert any("floats" in note for note in still.notes)


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (np.full((4, 4), 37.5, np.float32), "37.5"),
        (np.array([[0, np.nan]], np.float32), "from 0 to 1"),
        (np.full((4, 4), 9, np.int16), "signed integers of 16 bits"),
        (np.full((4, 4), 9, np.uint32), "integers of 32 bits"),
    ],
    ids=["floats beyond 1", "not a number", "signed", "32 bits"],
)
def test_values_without_a_known_range_are_refused(tmp_path: Path, pixels: np.ndarray, told: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")

    with pytest.raises(ImageError, match=told):
        read_still(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [8, 16])
def test_lab_becomes_srgb_as_lcms_has_it(tmp_path: Path, bits: int) -> None:
    y, x = np.mgrid[0:16, 0:16]
    colours = np.stack([x * 16, y * 16, 255 - x * 8 - y * 8], axis=2).astype(np.uint8)
    lab, srgb = ImageCms.createProfile("LAB", 5000), ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(Image.fromarray(colours), srgb, lab, outputMode="LAB")
    assert image is not None
    if bits == 8:
        image.save(tmp_path / "a.tif")
    else:
        shifted = np.asarray(image).astype(np.int32)  # as Pillow holds it: a and b are signed bytes
        signed = (shifted[..., 1:] + 128) % 256 - 128
        stored = np.dstack([shifted[..., :1] * 257, (signed * 256) & 65535]).astype(np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="cielab")

    found = whole(tmp_path / "a.tif")

    off = np.abs(found.astype(np.float64) / (2**bits - 1) * 255 - colours)
    assert off.mean() < 1.5
    assert np.median(off) <= 1


def test_a_thumbnail_before_the_image_is_passed_over(tmp_path: Path) -> None:
    small, large = levels(3, 255, np.uint8)[:3, :3], levels(3, 255, np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(small, photometric="rgb", subfiletype=1, metadata=None)
        file.write(large, photometric="rgb", metadata=None)

    assert np.array_equal(whole(tmp_path / "a.tif"), large)
    assert not read_still(tmp_path / "a.tif").notes


def test_a_broken_chain_of_directories_does_not_stop_the_first_image(tmp_path: Path) -> None:
    pixels = levels(3, 255, np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None)
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.offset
        count = len(file.pages.first.tags)
    with open(path, "r+b") as raw:
        raw.seek(place + 2 + 12 * count)
        raw.write(struct.pack("<I", 0xB1F3_0000))

    assert np.array_equal(whole(path), pixels)


def test_raw_values_of_a_camera_are_called_by_their_name(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", levels(1, 255, np.uint8)[..., 0], photometric=32803)

    with pytest.raises(ImageError, match="a camera's raw values"):
        read_still(tmp_path / "a.tif")
