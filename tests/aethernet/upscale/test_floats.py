"""Files of floats are enlarged within the range that a user states, and keep their own numbers in TIFF."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from aethernet.errors import ImageError, UsageError
from aethernet.upscale import Upscaler
from aethernet.upscale.floats import decoded, encoded, parse_range
from aethernet.upscale.image_file import upscale_file
from aethernet.upscale.reading import read_still
from tests.support.upscaling import doubled

HEIGHT, WIDTH = 8, 11


def values(channels: int = 3, top: float = 4.0) -> np.ndarray:
    """[H, W, C] float32 from 0 to ``top``."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [(x * (2 + c) + y * (3 - c) + c) % 23 / 22 for c in range(channels)]
    return (np.stack(planes, axis=2) * top).astype(np.float32)


def write_exr(path: Path, pixels: np.ndarray) -> None:
    """By FFmpeg."""
    encoder: Any = av.CodecContext.create("exr", "w")
    encoder.width, encoder.height, encoder.time_base = pixels.shape[1], pixels.shape[0], Fraction(1, 25)
    encoder.pix_fmt = "gbrpf32le" if pixels.shape[2] == 3 else "gbrapf32le"
    frame = av.VideoFrame(pixels.shape[1], pixels.shape[0], encoder.pix_fmt)
    for plane, channel in zip(frame.planes, (1, 2, 0, 3), strict=False):
        lines = np.zeros((pixels.shape[0], plane.line_size // 4), "<f4")
        lines[:, : pixels.shape[1]] = pixels[..., channel]
        plane.update(lines.tobytes())
    frame.pts = 0
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))


def write_float_map(path: Path, pixels: np.ndarray) -> None:
    kind, order = ("PF", "-1.0") if pixels.shape[2] == 3 else ("Pf", "1.0")
    stored = pixels[::-1].astype("<f4" if order == "-1.0" else ">f4")
    path.write_bytes(f"{kind}\n{pixels.shape[1]} {pixels.shape[0]}\n{order}\n".encode() + stored.tobytes())


WRITERS = {
    "exr": write_exr,
    "hdr": lambda path, pixels: path.write_bytes(bytes(imagecodecs.rgbe_encode(pixels))),
    "pfm": write_float_map,
    "tif": lambda path, pixels: tifffile.imwrite(path, pixels, photometric="rgb"),
}


@pytest.mark.parametrize("form", WRITERS)
def test_numbers_come_out_in_the_range_they_went_in(upscaler: Upscaler, tmp_path: Path, form: str) -> None:
    pixels = values()
    WRITERS[form](tmp_path / f"a.{form}", pixels)

    facts = upscale_file(upscaler, tmp_path / f"a.{form}", tmp_path / "b.tif", limits=(0.0, 8.0))

    found = tifffile.imread(tmp_path / "b.tif")
    assert found.dtype == np.float32
    light = form in ("exr", "hdr")
    shares = encoded(pixels / 8) if light else pixels / 8
    larger = np.stack([doubled(shares[..., c].astype(np.float64)) for c in range(3)], axis=2).clip(0, 1)
    wanted = decoded(larger, (0, 8), light=light)
    # Radiance has 8 bits and an exponent that the three channels share.
    assert np.abs(found - wanted).max() < (0.03 if form == "hdr" else 1e-4)
    assert any("0 was taken for black, 8 for white" in note for note in facts["notes"])
    # Negative control: another range gives other numbers, because the network's answer is clipped elsewhere.
    upscale_file(upscaler, tmp_path / f"a.{form}", tmp_path / "c.tif", limits=(0.0, 2.0))
    assert tifffile.imread(tmp_path / "c.tif").max() <= 2 + 1e-5


@pytest.mark.parametrize("form", WRITERS)
def test_nothing_stated_means_0_to_1_and_more_is_refused(tmp_path: Path, form: str) -> None:
    WRITERS[form](tmp_path / f"a.{form}", values(top=4))
    with pytest.raises(ImageError, match="expected values from 0 to 1") as refused:
        read_still(tmp_path / f"a.{form}")
    assert "--range" in refused.value.hint

    WRITERS[form](tmp_path / f"a.{form}", values(top=1))
    assert read_still(tmp_path / f"a.{form}").limits == (0, 1)


def test_what_is_cut_off_or_no_number_is_counted(tmp_path: Path) -> None:
    pixels = values()
    pixels[0, 0], pixels[1, 1, 0] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")

    still = read_still(tmp_path / "a.tif", limits=(0.0, 3.0))

    above = int((pixels > 3).sum())
    assert f"{above} of {pixels.size} values lie outside and were cut off" in " ".join(still.notes)
    assert "3 values that are no numbers became black" in still.notes
    assert np.isfinite(still.colour).all()
    assert still.colour.max() == 1
    assert not still.colour[0, 0].any()


@pytest.mark.parametrize("dtype", [np.uint32, np.int16, np.int32])
def test_integers_without_a_known_range_are_taken_with_a_stated_one(tmp_path: Path, dtype: Any) -> None:
    pixels = (values(1)[..., 0] * 1000 - (2000 if np.dtype(dtype).kind == "i" else 0)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with pytest.raises(ImageError, match="no known range"):
        read_still(tmp_path / "a.tif")

    still = read_still(tmp_path / "a.tif", limits="auto")

    low, high = float(pixels.min()), float(pixels.max())
    assert still.limits == (low, high)
    assert np.abs(still.colour[..., 0] - (pixels - low) / (high - low)).max() < 1e-6


def test_transparency_of_openexr_is_not_left_in_the_colours(upscaler: Upscaler, tmp_path: Path) -> None:
    pixels = values(4, top=1)
    alpha = np.full((HEIGHT, WIDTH, 1), 0.5, np.float32)
    write_exr(tmp_path / "a.exr", np.concatenate([pixels[..., :3] * alpha, alpha], axis=2))

    still = read_still(tmp_path / "a.exr")
    upscale_file(upscaler, tmp_path / "a.exr", tmp_path / "b.jpg")
    facts = upscale_file(upscaler, tmp_path / "a.exr", tmp_path / "b.png")

    assert still.plane is not None
    assert np.abs(still.plane - 0.5).max() < 1e-6
    assert np.abs(still.colour - encoded(pixels[..., :3])).max() < 1e-5
    assert "png holds 16 bits per channel, the input had floats" in facts["notes"]
    with Image.open(tmp_path / "b.jpg") as image:
        assert np.asarray(image).min() > 120  # half of it is white


@pytest.mark.parametrize("data", [b"\x76\x2f\x31\x01 and nothing", b"#?RADIANCE\n\n-Y 9", b"PF\n9 9\n-1\n", b"Pf\nx"])
def test_damaged_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.exr").write_bytes(data)

    with pytest.raises(ImageError, match="expected"):
        read_still(tmp_path / "a.exr")


def test_ranges_are_read_as_people_write_them() -> None:
    assert parse_range("0:1") == (0, 1)
    assert parse_range("-5:2e3") == (-5, 2000)
    assert parse_range("auto") == "auto"
    for text in ("1:0", "1:1", "5", "a:b", "0:nan", ""):
        with pytest.raises(UsageError, match="expected a range"):
            parse_range(text)
