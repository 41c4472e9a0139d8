"""All combinations of what a TIFF can be: bits, meaning, planes, predictor, compression, more channels, orientation.

The files are written here byte by byte, after TIFF 6.0, so what they mean is known without any reader; those that
Pillow, whose reader is libtiff, knows too are held against it.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from aethernet.upscale.reading import Still, read_still
from tests.support.orientation import TURNS

HEIGHT, WIDTH, ROWS_PER_STRIP = 5, 7, 3
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4}
UNKNOWN, PREMULTIPLIED, STRAIGHT = 0, 1, 2
NONE, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773


@dataclass(frozen=True)
class Layout:
    """One row of the table."""

    bits: int
    photometric: int
    floats: bool = False
    planar: int = 1
    predictor: int = 1
    compression: int = NONE
    extra: int | None = None
    orientation: int = 1
    order: str = "<"

    @property
    def samples(self) -> int:
        return COLOURS[self.photometric] + (self.extra is not None)


def table() -> Iterator[Layout]:
    """Every combination that TIFF 6.0 and its supplements allow."""
    for bits, photometric, planar, compression, extra, order in itertools.product(
        range(1, 17),
        COLOURS,
        (1, 2),
        (NONE, LZW, DEFLATE, PACKBITS),
        (None, UNKNOWN, PREMULTIPLIED, STRAIGHT),
        ("<", ">"),
    ):
        if photometric == PALETTE and (bits > 8 or extra is not None):
            continue
        if planar == 2 and COLOURS[photometric] + (extra is not None) == 1:
            continue
        for predictor in (
            (1, 2) if bits in (8, 16) and compression in (LZW, DEFLATE) and photometric != PALETTE else (1,)
        ):
            yield Layout(
                bits, photometric, planar=planar, predictor=predictor, compression=compression, extra=extra, order=order
            )
    for bits, photometric, planar, extra, predictor, order in itertools.product(
        (16, 32), (BLACK_IS_ZERO, RGB), (1, 2), (None, PREMULTIPLIED, STRAIGHT), (1, 3), ("<", ">")
    ):
        if planar == 2 and COLOURS[photometric] + (extra is not None) == 1:
            continue
        yield Layout(
            bits,
            photometric,
            floats=True,
            planar=planar,
            predictor=predictor,
            compression=DEFLATE,
            extra=extra,
            order=order,
        )
    for photometric, orientation, bits in itertools.product(COLOURS, range(2, 9), (1, 4, 8, 12, 16)):
        if photometric != PALETTE or bits <= 8:
            yield Layout(bits, photometric, orientation=orientation)


def stored_values(layout: Layout) -> np.ndarray:
    """[H, W, samples] as they are to stand in the file."""
    random = np.random.default_rng(layout.bits)
    shape = (HEIGHT, WIDTH, layout.samples)
    if layout.floats:
        values = random.uniform(0, 1, shape).astype(f"f{layout.bits // 8}")
    else:
        values = random.integers(0, 2**layout.bits - 1, shape, endpoint=True).astype(np.uint16)
    if layout.extra == PREMULTIPLIED:  # no colour is more than its alpha
        values[..., :-1] = np.minimum(values[..., :-1], values[..., -1:])
    return values


def colour_map(bits: int) -> np.ndarray:
    """[3, 2^bits], bytes twice: what 8 bits mean in 16."""
    return np.random.default_rng(3).integers(0, 255, (3, 2**bits), endpoint=True).astype(np.uint16) * 257


def rows_of_bits(values: np.ndarray, bits: int, order: str) -> bytes:
    """[rows, n] of samples, the highest bit first, each row filled up to whole bytes; 16 bits in the file's order."""
    if bits == 16:
        return values.astype(f"{order}u2").tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    lines = (values.astype(np.int64)[..., None] >> shifts & 1).astype(np.uint8).reshape(len(values), -1)
    return np.packbits(lines, axis=1).tobytes()


def encoded(values: np.ndarray, layout: Layout) -> bytes:
    """[rows, W, samples] of one strip."""
    rows = len(values)
    if layout.floats:
        stride, size = values.shape[2], layout.bits // 8
        flat = values.reshape(rows, -1)
        if layout.predictor == 3:  # Technical note 3: bytes of equal weight side by side, then differences
            planes = flat.astype(f">f{size}").view(np.uint8).reshape(rows, -1, size).transpose(0, 2, 1)
            lines = planes.reshape(rows, -1)
            difference = lines.copy()
            difference[:, stride:] = lines[:, stride:] - lines[:, :-stride]
            data = difference.tobytes()
        else:
            data = flat.astype(f"{layout.order}f{size}").tobytes()
    else:
        if layout.predictor == 2:
            difference = values.copy()
            difference[:, 1:] = values[:, 1:] - values[:, :-1]
            values = difference & (2**layout.bits - 1)
        data = rows_of_bits(values.reshape(rows, -1), layout.bits, layout.order)
    if layout.compression == LZW:
        return bytes(imagecodecs.lzw_encode(data))
    if layout.compression == DEFLATE:
        return zlib.compress(data)
    if layout.compression == PACKBITS:
        return bytes(imagecodecs.packbits_encode(data))
    return data


def write(path: Path, layout: Layout, values: np.ndarray) -> None:
    """A TIFF of several strips."""
    planes = [values] if layout.planar == 1 else [values[..., index : index + 1] for index in range(values.shape[2])]
    strips = [
        encoded(plane[top : top + ROWS_PER_STRIP], layout)
        for plane in planes
        for top in range(0, HEIGHT, ROWS_PER_STRIP)
    ]
    offsets = list(itertools.accumulate((len(strip) + len(strip) % 2 for strip in strips), initial=8))
    entries: list[tuple[int, str, list[int]]] = [
        (256, "H", [WIDTH]),
        (257, "H", [HEIGHT]),
        (258, "H", [layout.bits] * layout.samples),
        (259, "H", [layout.compression]),
        (262, "H", [layout.photometric]),
        (273, "I", offsets[:-1]),
        (274, "H", [layout.orientation]),
        (277, "H", [layout.samples]),
        (278, "H", [ROWS_PER_STRIP]),
        (279, "I", [len(strip) for strip in strips]),
        (284, "H", [layout.planar]),
        (317, "H", [layout.predictor]),
        (339, "H", [3 if layout.floats else 1] * layout.samples),
    ]
    if layout.photometric == PALETTE:
        entries.insert(-1, (320, "H", [int(value) for value in colour_map(layout.bits).ravel()]))
    if layout.extra is not None:
        entries.insert(-1, (338, "H", [layout.extra]))
    order, start = layout.order, offsets[-1]
    behind, directory, further = start + 2 + 12 * len(entries) + 4, b"", b""
    for tag, kind, numbers in entries:
        packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        directory += struct.pack(f"{order}HHI", tag, 3 if kind == "H" else 4, len(numbers))
        if len(packed) <= 4:
            directory += packed.ljust(4, b"\0")
        else:
            directory += struct.pack(f"{order}I", behind + len(further))
            further += packed + bytes(len(packed) % 2)
    body = b"".join(strip + bytes(len(strip) % 2) for strip in strips)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    count = struct.pack(f"{order}H", len(entries))
    path.write_bytes(mark + struct.pack(f"{order}I", start) + body + count + directory + bytes(4) + further)


def meant(layout: Layout, values: np.ndarray) -> np.ndarray:
    """[H, W, channels] as shares of white (of 255 - ink for CMYK), upright; alpha last."""
    top = 1 if layout.floats else 2**layout.bits - 1
    colours = COLOURS[layout.photometric]
    shares = values.astype(np.float64) / top
    if layout.photometric == PALETTE:
        colour = colour_map(layout.bits).T[values[..., 0]] / 65535
    elif layout.photometric in (WHITE_IS_ZERO, CMYK):
        colour = 1 - shares[..., :colours]
    else:
        colour = shares[..., :colours]
    if layout.extra in (PREMULTIPLIED, STRAIGHT) and layout.photometric != CMYK:
        alpha = shares[..., colours:]
        if layout.extra == PREMULTIPLIED:
            colour = np.divide(colour, alpha, out=np.zeros(colour.shape), where=alpha > 0).clip(0, 1)
        colour = np.concatenate([colour, alpha], axis=2)
    return TURNS[layout.orientation](colour)


def shares(still: Still) -> np.ndarray:
    top = 1 if still.colour.dtype.kind == "f" else np.iinfo(still.colour.dtype).max
    planes = [still.colour] + ([] if still.plane is None else [still.plane[..., None]])
    return np.concatenate(planes, axis=2).astype(np.float64) / top


def told(layout: Layout) -> str:
    return ", ".join(f"{name} {value}" for name, value in vars(layout).items())


TABLE = list(table())
SPARSE = 11
"""Of so many rows one is tried in the fast tests: prime to the lengths of the table's axes."""


@pytest.mark.parametrize(
    ("rows", "least"),
    [pytest.param(TABLE[::SPARSE], 350, id="some"), pytest.param(TABLE, 4000, id="all", marks=pytest.mark.slow)],
)
def test_every_combination_means_what_the_specification_says(tmp_path: Path, rows: list[Layout], least: int) -> None:
    path, wrong = tmp_path / "a.tif", []
    assert len(rows) >= least

    for layout in rows:
        # White is zero with premultiplied alpha has no meaning that programs agree on.
        if layout.photometric == WHITE_IS_ZERO and layout.extra == PREMULTIPLIED:
            continue
        values = stored_values(layout)
        write(path, layout, values)
        expected = meant(layout, values)
        still = read_still(path)
        found = shares(still)
        step = 1 / 255 if still.colour.dtype == np.uint8 else 1 / 65535
        if found.shape != expected.shape or np.abs(found - expected).max() > step * 0.501 + 1e-6:
            wrong.append(told(layout))
        if (layout.extra == UNKNOWN or (layout.extra is not None and layout.photometric == CMYK)) and not still.notes:
            wrong.append(f"lost without a word: {told(layout)}")

    assert wrong == []


def test_libtiff_reads_these_files_as_we_do(tmp_path: Path) -> None:
    path, compared = tmp_path / "a.tif", 0

    for layout in TABLE[::2]:
        if layout.bits not in (1, 8) or layout.floats or layout.extra in (UNKNOWN, PREMULTIPLIED):
            continue
        if layout.photometric == CMYK and layout.extra is not None:
            continue
        write(path, layout, stored_values(layout))
        try:
            with Image.open(path) as image:
                if image.mode not in ("1", "L", "RGB", "RGBA", "P", "CMYK"):
                    continue
                upright = ImageOps.exif_transpose(image)
                mode = "RGB" if image.mode == "P" else "L" if image.mode == "1" else image.mode
                theirs = np.atleast_3d(np.asarray(upright.convert(mode))).astype(np.int64)
        except (OSError, ValueError, SyntaxError, KeyError):  # what Pillow does not know
            continue
        ours = np.rint(shares(read_still(path)) * 255).astype(np.int64)
        if layout.photometric == CMYK:
            theirs = 255 - theirs
        assert ours.shape == theirs.shape, told(layout)
        assert np.abs(ours - theirs).max() <= 1, told(layout)
        compared += 1

    assert compared >= 60


def test_the_table_notices_a_wrong_reading(tmp_path: Path) -> None:
    layout = Layout(12, BLACK_IS_ZERO)
    write(tmp_path / "a.tif", layout, stored_values(layout))

    other = meant(Layout(12, WHITE_IS_ZERO), stored_values(layout))

    assert np.abs(shares(read_still(tmp_path / "a.tif")) - other).max() > 0.1
