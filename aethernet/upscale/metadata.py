"""What an image file says beside its pixels, tag by tag: none of it stops an image.

A tag that cannot be read, or not be written again, is dropped by name; everything else is kept.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from aethernet.upscale.profiles import SPACES, SRGB_PRIMARIES, damage, gamma_curve, grey_profile, rgb_profile, space_of

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Exif, Image

__all__ = [
    "ORIENTATION",
    "Metadata",
    "orientation_of",
    "read_metadata",
    "resized_exif",
    "resized_xmp",
    "shortened_exif",
]

ORIENTATION = 0x0112
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_PIXEL_X, _PIXEL_Y = 0xA002, 0xA003
# What a TIFF's directory says about the image; the rest of it describes how that file was laid out.
_DESCRIPTIVE = {0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, *range(0x9C9B, 0x9CA0)}
# Chunks that say how a PNG's values mean colours, other than its profile.
_PNG_COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_PLAIN_CICP = {(1, 13), (2, 2), (1, 2), (2, 13)}
"""Primaries and transfer (ITU-T H.273) that say no more than what is assumed anyway: sRGB."""
_SRGB_GAMMA, _SRGB_CHROMATICITIES = 45455, (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a file says beside its pixels."""

    icc: bytes | None = None
    """Colour profile that fits the pixels."""
    icc_from_chunks: bool = False
    """Whether it was made from ``png_colour``, and not in the file."""
    exif: Exif | None = None
    """With orientation 1: the pixels are upright."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    png_colour: tuple[tuple[bytes, bytes], ...] = ()
    """Chunks of a PNG about its colours, in their order; ``icc`` says the same where ICC can."""
    text: tuple[tuple[str, str], ...] = ()
    """Keywords and texts of a PNG; the comment of other formats under ``Comment``."""
    cicp: tuple[int, int] | None = None
    """Colour primaries and transfer function as ITU-T H.273 numbers them, where they are not those of sRGB."""

    @property
    def comment(self) -> str:
        """Of the texts the one that formats other than PNG have; empty where there is none."""
        return next((words for name, words in self.text if name == "Comment"), "")


def read_metadata(
    path: Path, image: Image, kind: Literal["grey", "rgb", "cmyk"], icc: bytes | None
) -> tuple[Metadata, list[str]]:
    """Everything that fits the pixels, and notes on what was dropped.

    Args:
        path: Of the file.
        image: The file in Pillow.
        kind: What the pixels were decoded to.
        icc: The file's profile.
    """
    notes: list[str] = []
    if icc and (trouble := damage(icc)):
        notes.append(f"the colour profile was dropped: {trouble}")
        icc = None
    elif icc and space_of(icc) != SPACES[kind]:
        notes.append(f"the colour profile was dropped: it is for {space_of(icc)}, not for {SPACES[kind]}")
        icc = None
    chunks = _png_chunks(path) if image.format == "PNG" else ()
    cicp = _cicp(path, image, dict(chunks))
    made = _profile_of_chunks(dict(chunks), kind) if icc is None and cicp is None and kind != "cmyk" else None
    exif, dropped = _upright(image, image.format == "TIFF")
    if dropped:
        notes.append(f"metadata that cannot be written again was dropped: {', '.join(dropped)}")
    information = image.info
    if information.get("photoshop"):
        notes.append("IPTC and other data of Photoshop were dropped")
    metadata = Metadata(
        icc=icc or made,
        icc_from_chunks=made is not None,
        exif=exif,
        xmp=_upright_xmp(information.get("xmp")),
        text=_text(image),
        dpi=_dpi(information),
        png_colour=chunks,
        cicp=cicp,
    )
    return metadata, notes


def orientation_of(image: Image) -> int:
    """EXIF's number, 1 to 8; 1 where the file says nothing that makes sense."""
    found = _attempt(lambda: image.getexif().get(ORIENTATION, 1))
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _attempt(read: Callable[[], Any]) -> Any:
    """What is read, or None where Pillow stumbles over the file, which it does in many ways."""
    try:
        return read()
    except Exception:  # noqa: BLE001 (a broken tag raises whatever it was mistaken for)
        return None


# --- EXIF ------------------------------------------------------------------------------------------------------------


def _upright(image: Image, from_tiff: bool) -> tuple[Exif | None, list[str]]:
    """The same facts with orientation 1, from a TIFF only those that are not about that file's layout; and the names
    of those that are lost.
    """
    from PIL import Image as Images

    exif = _attempt(image.getexif)
    if exif is None:
        return None, ["EXIF"]
    kept, dropped = Images.Exif(), []
    data = image.info.get("exif")
    listed = None if not isinstance(data, bytes) or from_tiff else _listed(data)
    if listed is not None:
        # Pillow passes over what it cannot read without a word.
        unread = [tag for tag in listed[0] if tag not in exif and tag not in (_EXIF_IFD, _GPS_IFD)]
        dropped += [_name(tag) for tag in unread] if listed[0] else ["EXIF"]
    for tag in list(exif):
        if tag in (_EXIF_IFD, _GPS_IFD, ORIENTATION) or (from_tiff and tag not in _DESCRIPTIVE):
            continue
        value = _attempt(partial(_read_tag, exif, tag))
        if from_tiff and str(value).startswith(("{'shape'", 'b\'{"shape"', '{"shape"')):  # tifffile's description
            continue
        if value is None or not _writable({tag: value}):
            dropped.append(_name(tag))
        else:
            kept[tag] = value
    for group in (_EXIF_IFD, _GPS_IFD):
        values = _attempt(partial(exif.get_ifd, group))
        if values is None:
            dropped.append(_name(group))
            continue
        if listed is not None:
            dropped += [_name(tag, gps=group == _GPS_IFD) for tag in listed[group] if tag not in values]
        good = {tag: _storable(value) for tag, value in values.items()}
        bad = [tag for tag, value in good.items() if not _writable({group: {tag: value}})]
        dropped += [_name(tag, gps=group == _GPS_IFD) for tag in bad]
        if good := {tag: value for tag, value in good.items() if tag not in bad}:
            kept[group] = good
    if not kept:
        return None, dropped
    kept[ORIENTATION] = 1
    return kept, dropped


def _listed(data: bytes) -> dict[int, list[int]]:
    """Tags that the directories of EXIF list, whether or not they can be read: the first (0), EXIF's own and GPS."""
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    found: dict[int, list[int]] = {0: [], _EXIF_IFD: [], _GPS_IFD: []}

    def walk(group: int, offset: int) -> None:
        if found[group] or offset + 2 > len(data):
            return
        (count,) = struct.unpack_from(f"{order}H", data, offset)
        for start in range(offset + 2, min(offset + 2 + 12 * count, len(data) - 11), 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHII", data, start)
            found[group].append(tag)
            if group == 0 and tag in (_EXIF_IFD, _GPS_IFD):
                walk(tag, value)

    if order is not None and len(data) >= 8:
        walk(0, struct.unpack_from(f"{order}I", data, 4)[0])
    return found


def _read_tag(exif: Exif, tag: int) -> Any:
    return _storable(exif[tag])


def _storable(value: Any) -> Any:
    """Text as the bytes that stood in the file: Pillow reads them as Latin-1, and writes ASCII only."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("latin-1", "replace")
    return value


def _writable(tags: dict[int, Any]) -> bool:
    from PIL import Image as Images

    alone = Images.Exif()
    for tag, value in tags.items():
        alone[tag] = value
    return _attempt(alone.tobytes) is not None and not _odd(next(iter(tags.values())))


def _odd(value: Any) -> bool:
    """Numbers that Pillow writes as something else: fractions without a denominator."""
    values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
    return any(_odd(one) for one in values) if isinstance(value, dict | tuple) else value != value  # NaN


def _name(tag: int, *, gps: bool = False) -> str:
    from PIL import ExifTags

    return str((ExifTags.GPSTAGS if gps else ExifTags.TAGS).get(tag, f"tag {tag:#06x}"))


def resized_exif(exif: Exif, width: int, height: int) -> Exif:
    """The same facts for an image of another size, where they state one."""
    details = exif.get(_EXIF_IFD, {})
    for tag, value in ((_PIXEL_X, width), (_PIXEL_Y, height)):
        if tag in details:
            details[tag] = value
    return exif


def shortened_exif(exif: Exif, most: int) -> tuple[bytes, list[str]]:
    """EXIF of at most ``most`` bytes, and the names of the tags that had to go: the longest first."""
    from PIL import Image as Images

    kept = Images.Exif()
    for tag, value in exif.items():
        kept[tag] = dict(value) if isinstance(value, dict) else value
    dropped = []
    while len(data := kept.tobytes()) > most:
        places: list[tuple[int | None, int]] = [(None, tag) for tag in kept if tag not in (_EXIF_IFD, _GPS_IFD)]
        places += [(group, tag) for group in (_EXIF_IFD, _GPS_IFD) for tag in kept.get(group, {})]
        group, tag = max(places, key=lambda place: len(_bytes_of(kept, *place)))
        if group is None:
            del kept[tag]
        else:
            kept[group] = {one: value for one, value in kept[group].items() if one != tag}
        dropped.append(_name(tag, gps=group == _GPS_IFD))
    return data, dropped


def _bytes_of(exif: Exif, group: int | None, tag: int) -> bytes:
    from PIL import Image as Images

    alone = Images.Exif()
    if group is None:
        alone[tag] = exif[tag]
    else:
        alone[group] = {tag: exif[group][tag]}
    return alone.tobytes()


# --- text, XMP, resolution -------------------------------------------------------------------------------------------


def _text(image: Image) -> tuple[tuple[str, str], ...]:
    """What the file says in words; XMP and what ImageMagick hides in texts aside."""
    chunks = _attempt(lambda: getattr(image, "text", None)) or {}
    found = [
        (str(name), str(words))
        for name, words in chunks.items()
        if name != "XML:com.adobe.xmp" and not str(name).startswith("Raw profile type")
    ]
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and comment and not found:
        found.append(("Comment", comment.decode("utf-8", "replace")))
    return tuple(found)


def _upright_xmp(xmp: bytes | str | None) -> bytes | None:
    if not xmp:
        return None
    text = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return _replaced(text, b"tiff:Orientation", 1)


def resized_xmp(xmp: bytes, width: int, height: int) -> bytes:
    """The same facts for an image of another size, where they state one."""
    for name, value in (
        (b"exif:PixelXDimension", width),
        (b"exif:PixelYDimension", height),
        (b"tiff:ImageWidth", width),
        (b"tiff:ImageLength", height),
    ):
        xmp = _replaced(xmp, name, value)
    return xmp


def _replaced(xmp: bytes, name: bytes, value: int) -> bytes:
    """XMP with another number under ``name``, which RDF/XML writes as an attribute or as an element."""
    number = b"%d" % value
    xmp = re.sub(rb"(%s\s*=\s*[\"'])\s*\d+\s*([\"'])" % name, rb"\g<1>" + number + rb"\g<2>", xmp)
    return re.sub(rb"(<%s\s*>)\s*\d+\s*(</)" % name, rb"\g<1>" + number + rb"\g<2>", xmp)


def _dpi(information: dict[Any, Any]) -> tuple[float, float] | None:
    try:
        across, down = (float(one) for one in information["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


# --- what values mean as colours -------------------------------------------------------------------------------------


def _png_chunks(path: Path) -> tuple[tuple[bytes, bytes], ...]:
    """Chunks about colours before the pixels (ISO/IEC 15948)."""
    found = []
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            length = int.from_bytes(head[:4], "big")
            if head[4:] in _PNG_COLOUR and length <= 64:
                found.append((head[4:], file.read(length)))
                length = 0
            file.seek(length + 4, 1)
    return tuple(found)


def _cicp(path: Path, image: Image, chunks: dict[bytes, bytes]) -> tuple[int, int] | None:
    found = None
    if len(chunk := chunks.get(b"cICP", b"")) == 4:
        found = chunk[0], chunk[1]
    elif image.format == "AVIF":
        with open(path, "rb") as file:
            head = file.read(4096)
        # ISO/IEC 14496-12, 12.1.5: colr of type nclx = primaries, transfer, matrix (16 bits each), full range.
        if box := re.search(rb"colrnclx(..)(..)", head, re.DOTALL):
            found = int.from_bytes(box[1], "big"), int.from_bytes(box[2], "big")
    return None if found is None or found in _PLAIN_CICP else found


def _profile_of_chunks(chunks: dict[bytes, bytes], kind: str) -> bytes | None:
    """A profile that says what gAMA and cHRM do; None where they say no more than sRGB."""
    gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big") if b"sRGB" not in chunks else 0
    if not gamma:
        return None
    corners = chunks.get(b"cHRM", b"")
    numbers = struct.unpack(">8I", corners) if len(corners) == 32 else _SRGB_CHROMATICITIES
    ordinary = all(abs(one - other) < 100 for one, other in zip(numbers, _SRGB_CHROMATICITIES, strict=True))
    if abs(gamma - _SRGB_GAMMA) < 500 and ordinary:
        return None
    curve = gamma_curve(100_000 / gamma)
    if kind == "grey":
        return grey_profile(curve)
    pairs = tuple((numbers[index] / 100_000, numbers[index + 1] / 100_000) for index in range(0, 8, 2))
    return rgb_profile(curve, pairs if _spans(pairs) else SRGB_PRIMARIES)


def _spans(corners: tuple[tuple[float, float], ...]) -> bool:
    """Whether white, red, green and blue are such that every colour can be said in them."""
    if any(not 0 < y <= 1 or not 0 <= x <= 1 for x, y in corners):
        return False
    (_, _), (x1, y1), (x2, y2), (x3, y3) = corners
    return abs((x2 - x1) * (y3 - y1) - (x3 - x1) * (y2 - y1)) > 1e-4
