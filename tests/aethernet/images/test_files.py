"""Images in any file people have, and out again without a value lost."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aethernet.errors import UsageError
from aethernet.images.files import list_images, load_image, pair_by_stem, sample_images, save_image, to_levels
from tests.support.images import natural_image

COLOURS = np.array([[[10, 20, 30], [255, 0, 128]], [[0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
"""2x2 RGB."""


def png(path: Path, width: int, height: int, rows: bytes, *, depth: int, colour_type: int) -> Path:
    """A PNG written by hand, for kinds that Pillow reads and does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


# --- reading ---------------------------------------------------------------------------------------------------------


def test_rgb_is_read_as_planes_between_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")

    image = load_image(tmp_path / "a.png")

    assert (image.shape, image.dtype, image.flags.c_contiguous) == ((1, 3, 2, 2), np.float32, True)
    assert np.array_equal(image[0].transpose(1, 2, 0), COLOURS / np.float32(255))


def test_transparency_is_dropped_and_colours_kept(tmp_path: Path) -> None:
    alpha = np.array([[[0], [255]], [[100], [1]]], dtype=np.uint8)
    Image.fromarray(np.concatenate([COLOURS, alpha], axis=2)).save(tmp_path / "a.png")

    assert np.array_equal(to_levels(load_image(tmp_path / "a.png"))[0].transpose(1, 2, 0), COLOURS)


def test_palette_is_looked_up(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).quantize(4).save(tmp_path / "a.png")

    assert np.array_equal(to_levels(load_image(tmp_path / "a.png"))[0].transpose(1, 2, 0), COLOURS)


def test_grey_file_gives_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(COLOURS[..., 0]).save(tmp_path / "a.png")

    levels = to_levels(load_image(tmp_path / "a.png"))

    assert np.array_equal(levels[0], np.stack([COLOURS[..., 0]] * 3))


def test_grey_network_sees_the_luma_of_colours(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")

    levels = to_levels(load_image(tmp_path / "a.png", channels=1))

    expected = np.rint(COLOURS @ np.array([0.299, 0.587, 0.114]))
    assert levels.shape == (1, 1, 2, 2)
    assert np.abs(levels[0, 0] - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_its_upper_byte(tmp_path: Path, suffix: str, channels: int) -> None:
    Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)).save(tmp_path / f"a.{suffix}")

    levels = to_levels(load_image(tmp_path / f"a.{suffix}", channels))

    assert levels.shape == (1, channels, 1, 5)
    assert levels[0, -1, 0].tolist() == [0, 0, 1, 128, 255]


def test_16_bit_colours_keep_their_upper_byte(tmp_path: Path) -> None:
    rows = b"\0" + np.array([0, 255, 256, 32768, 65535, 1000], dtype=">u2").tobytes()
    path = png(tmp_path / "a.png", 2, 1, rows, depth=16, colour_type=2)

    assert to_levels(load_image(path))[0, :, 0].T.tolist() == [[0, 0, 1], [128, 255, 3]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_of_32_bits_are_refused_because_nobody_knows_their_range(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(np.ones((2, 2), dtype=dtype)).save(tmp_path / "a.tif")

    with pytest.raises(UsageError, match=r"32 bits .*save it with 8 or 16 bits"):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "header only"])
def test_file_that_is_no_image_is_a_usage_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)

    with pytest.raises(UsageError, match=r"expected an image, .*a\.png"):
        load_image(tmp_path / "a.png")


def test_image_cut_short_is_a_usage_error(tmp_path: Path) -> None:
    save_image(natural_image(64, 64).numpy(), tmp_path / "whole.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])

    with pytest.raises(UsageError, match="expected an image"):
        load_image(tmp_path / "a.png")


def test_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected an image"):
        load_image(tmp_path / "a.png")


def test_image_that_claims_to_be_enormous_is_a_usage_error(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", 20_000, 20_000, b"\0", depth=8, colour_type=2)

    with pytest.raises(UsageError, match="at most 179 megapixels"):
        load_image(path)


# --- levels and writing ----------------------------------------------------------------------------------------------


def test_levels_are_rounded_not_cut() -> None:
    image = np.array([9.4, 9.6, 254.6, 0.4], dtype=np.float32).reshape(1, 1, 2, 2) / np.float32(255)

    assert to_levels(image).ravel().tolist() == [9, 10, 255, 0]


def test_levels_are_clipped_not_wrapped() -> None:
    image = np.array([-0.1, 1.1, -np.inf, np.inf], dtype=np.float32).reshape(1, 1, 2, 2)

    assert to_levels(image).ravel().tolist() == [0, 255, 0, 255]


def test_every_level_survives_reading_and_rounding() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)

    assert np.array_equal(to_levels(levels.astype(np.float32) / np.float32(255)), levels)


@pytest.mark.parametrize("channels", [1, 3])
def test_saved_image_comes_back(tmp_path: Path, channels: int) -> None:
    image = natural_image(9, 13, channels=channels).numpy()

    save_image(image, tmp_path / "new" / "a.png")

    assert np.array_equal(to_levels(load_image(tmp_path / "new" / "a.png", channels)), to_levels(image))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


# --- folders ---------------------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def test_images_of_a_folder_are_listed_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "b.PNG", "a.jpg", "c.webp", "notes.txt", ".DS_Store")
    touch(tmp_path / "deeper", "d.png")

    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG", "c.webp"]


def test_folder_named_like_a_image_is_none(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").mkdir()

    assert [path.name for path in list_images(tmp_path)] == ["a.png"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "secret.png")
    touch(tmp_path / "images", "a.png")
    (tmp_path / "images" / "b.png").symlink_to(tmp_path / "elsewhere" / "secret.png")

    assert [path.name for path in list_images(tmp_path / "images")] == ["a.png"]


@pytest.mark.parametrize(
    ("name", "found"), [("nowhere", "found nothing"), ("file", "found a file"), ("empty", "found none")]
)
def test_folder_without_images_is_a_usage_error(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(UsageError, match=found):
        list_images(tmp_path / name)


def test_two_images_of_one_name_are_a_usage_error(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.jpg", "b.png")

    with pytest.raises(UsageError, match=r"several called a$"):
        list_images(tmp_path)


def test_images_pair_by_stem_whatever_their_format() -> None:
    low = [Path("lr/7.png"), Path("lr/8.jpg"), Path("lr/alone.png")]
    high = [Path("hr/8.png"), Path("hr/7.webp"), Path("hr/other.png")]

    assert pair_by_stem(low, high) == {"7": Path("hr/7.webp"), "8": Path("hr/8.png")}


def test_not_a_single_pair_is_a_usage_error_that_names_both_sides() -> None:
    with pytest.raises(UsageError, match="no pair") as caught:
        pair_by_stem([Path("7x2.png")], [Path("7.png")])

    assert caught.value.hint == "LR: 7x2; HR: 7"


def test_library_brings_two_images() -> None:
    assert [load_image(path).shape for path in sample_images()] == [(1, 3, 96, 96)] * 2
