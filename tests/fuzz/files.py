"""Image files with metadata and wrappers of checkpoints, bent at random, each held against what is known about it.

``test_files.py`` runs some rounds; ``python -m tests.fuzz.files --seconds 3600 [--seed N] [metadata|damage|wrappers]``
runs for as long as you like and prints the seed of what went wrong.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
import torch
from PIL import Image, ImageCms, ImageOps

from aethernet.checkpoint.wrappers import unwrap
from aethernet.errors import ImageError, UsageError
from aethernet.upscale.reading import read_still
from aethernet.upscale.writing import FORMATS, write_image

__all__ = ["ROUNDS"]

Draw = np.random.Generator
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"><exif:PixelXDimension>9</exif:PixelXDimension></x:xmpmeta>'


def _pixels() -> np.ndarray:
    y, x = np.mgrid[0:9, 0:13]
    return np.stack([x * 19, y * 28, (x + y) * 11], axis=2).astype(np.uint8)


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x013B], exif[0x011A], exif[0x0112] = "A camera", "Somebody", 72.0, 6
    details, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    details[0x829A], details[0xA002], details[0x9000], details[0x927C] = 0.01, 13, b"0230", b"maker" * 9
    place[1], place[2] = "N", (48.0, 8.0, 1.5)
    exif[0x8769], exif[0x8825] = details, place
    return exif.tobytes()


def bent(data: bytes, draw: Draw, most: int = 6) -> bytes:
    """Some bytes flipped, cut out, put in, or swapped."""
    for _ in range(draw.integers(1, most, endpoint=True)):
        at = int(draw.integers(0, max(1, len(data))))
        some = int(draw.integers(1, 8))
        match int(draw.integers(0, 5)):
            case 0:
                data = data[:at] + draw.bytes(some) + data[at + some :]
            case 1:
                data = data[:at] + data[at + some :]
            case 2:
                data = data[:at] + draw.bytes(some) + data[at:]
            case 3:
                data = data[:at] + bytes([draw.choice([0, 1, 127, 128, 255])]) * some + data[at + some :]
            case _:
                data = data[:at] if draw.random() < 0.2 else data[at : at + some] + data[some:at] + data[:some]
    return data


def metadata(draw: Draw, folder: Path) -> None:
    """Whatever stands beside the pixels, they are read as Pillow reads them, and can be written in every format."""
    form = str(draw.choice(["PNG", "JPEG", "WEBP"]))
    parts: dict[str, bytes] = {}
    for name, data in (("exif", _exif()), ("icc_profile", _SRGB), ("xmp", _XMP)):
        if draw.random() < 0.7 and not (name == "xmp" and form == "PNG"):
            parts[name] = bent(data, draw) if draw.random() < 0.8 else data
    if "exif" in parts and not parts["exif"].startswith(b"Exif\0\0"):
        parts["exif"] = b"Exif\0\0" + parts["exif"]
    path = folder / "a"
    Image.fromarray(_pixels()).save(path, format=form, lossless=True, quality=95, **parts)
    with Image.open(path) as image:
        try:
            known = ImageOps.exif_transpose(image)
        except Exception:
            known = image
        wanted = np.asarray(known.convert("RGB"))

    still = read_still(path)

    assert np.array_equal(still.colour, wanted), f"{form}: other pixels than Pillow's"
    for target in FORMATS.values():
        written = folder / f"b{target.suffixes[0]}"
        write_image(written, target, still, iter([still.colour]), still.size, None)
        with Image.open(written) as image:
            image.load()
            assert image.size == still.size, target.name
            if target.name in ("png", "tif"):
                assert np.array_equal(np.asarray(image.convert("RGB")), wanted), target.name


def _files() -> dict[str, bytes]:
    pixels = _pixels()
    found = {}
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TGA", "AVIF", "JPEG2000"):
        place = io.BytesIO()
        Image.fromarray(pixels).save(place, format=form)
        found[form] = place.getvalue()
    for name, options in {
        "TIFF": {},
        "TIFF, tiles": {"tile": (16, 16), "compression": "lzw", "predictor": True},
        "TIFF, floats": {"dtype": np.float32},
    }.items():
        place = io.BytesIO()
        given = pixels if "dtype" not in options else pixels.astype(options.pop("dtype")) / np.float32(255)
        tifffile.imwrite(place, given, photometric="rgb", **options)
        found[name] = place.getvalue()
    found["PNG, 16 bits"] = bytes(imagecodecs.png_encode(pixels.astype(np.uint16) * 257))
    found["Radiance"] = bytes(imagecodecs.rgbe_encode(pixels.astype(np.float32) / 255))
    found["PAM"] = b"P7\nWIDTH 13\nHEIGHT 9\nDEPTH 3\nMAXVAL 255\nENDHDR\n" + pixels.tobytes()
    found["PFM"] = b"PF\n13 9\n-1.0\n" + (pixels / np.float32(255)).astype("<f4").tobytes()
    return found


_WHOLE = _files()


def damage(draw: Draw, folder: Path) -> None:
    """A damaged file is refused in words, or read with values in range; never anything else."""
    name = str(draw.choice(sorted(_WHOLE)))
    path = folder / "a"
    path.write_bytes(bent(_WHOLE[name], draw))
    try:
        still = read_still(path)
    except ImageError:
        return
    planes = [still.colour] if still.plane is None else [still.colour, still.plane]
    for plane in planes:
        assert plane.size, name
        if plane.dtype.kind == "f":
            assert np.isfinite(plane).all(), name
            assert 0 <= plane.min() <= plane.max() <= 1, name
        else:
            assert plane.dtype in (np.uint8, np.uint16), name


def wrappers(draw: Draw, folder: Path) -> None:
    """Any nesting of wrappers comes off, or ends in a question which network is meant; no other tensors are taken."""
    state = {f"body.{index}.{kind}": torch.rand(2, 2) for index in range(2) for kind in ("weight", "gain")}
    averaged = {name: value + 1 for name, value in state.items()}

    def under(prefix: str, entries: dict[str, Any]) -> dict[str, Any]:
        return {f"{prefix}.{name}": value for name, value in entries.items()}

    content: dict[str, Any] = dict(state)
    several = False
    for _ in range(draw.integers(0, 6)):
        flat = not any(isinstance(value, dict) for value in content.values())
        match int(draw.integers(0, 6)):
            case 0 if flat:
                content = under(str(draw.choice(["module", "_orig_mod", "net_g", "generator", "model"])), content)
            case 1 if flat:
                content = {"n_averaged": torch.tensor(3), **under("module", content)}
            case 2:
                content = {str(draw.choice(["params", "state_dict", "model", "checkpoint"])): content, "epoch": 3}
            case 3:
                content = {**content, "optimizer": {"state": {0: {"exp_avg": torch.ones(3, 3)}}}}
            case 4 if not several and flat:
                several = True
                content = {**under("generator", content), **under("generator_ema", _again(content, state, averaged))}
            case 5 if not several:
                several = True
                content = {"params": content, "params_ema": _again(content, state, averaged)}
    try:
        found = unwrap(content, known=lambda entries: set(entries) == set(state))
    except UsageError:
        if several:
            return
        raise
    wanted = averaged if several else state
    assert set(found.entries) == set(state), f"other names: {sorted(found.entries)}"
    assert all(torch.equal(found.entries[name], wanted[name]) for name in wanted), "other tensors"


def _again(content: dict[str, Any], state: dict[str, Any], averaged: dict[str, Any]) -> dict[str, Any]:
    """The same wrappers around the averaged weights."""
    other = {id(state[name]): averaged[name] for name in state}
    return {
        name: _again(value, state, averaged) if isinstance(value, dict) else other.get(id(value), value)
        for name, value in content.items()
    }


ROUNDS: dict[str, Callable[[Draw, Path], None]] = {one.__name__: one for one in (metadata, damage, wrappers)}


def main() -> None:
    """Run rounds until the time is over or one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", nargs="*", choices=[*ROUNDS, []], default=list(ROUNDS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="the first; each round has its own")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    seed, end = asked.seed, time.monotonic() + asked.seconds
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            for name in asked.rounds or ROUNDS:
                try:
                    ROUNDS[name](np.random.default_rng(seed), Path(folder))
                except BaseException:
                    print(f"failed: {name} --seed {seed}", flush=True)
                    raise
            seed += 1
    print(f"{seed - asked.seed} rounds of {', '.join(asked.rounds or ROUNDS)} without a fault")


if __name__ == "__main__":
    main()
