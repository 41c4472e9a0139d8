"""ICC profiles: whether one is whole, for which colours, and small ones made from what a file says in other words.

Layouts are those of ICC.1:2001-04 (version 2), which every colour management reads.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

__all__ = ["SPACES", "SRGB_PRIMARIES", "damage", "gamma_curve", "grey_curve", "grey_profile", "rgb_profile", "space_of"]

SPACES = {"grey": "GRAY", "rgb": "RGB", "cmyk": "CMYK"}
"""Kind of an image -> colour space of a profile, without the blanks it is filled up with."""

_HEADER, _ENTRY = 128, 12
_D50 = (0.9642, 1.0, 0.8249)
SRGB_PRIMARIES = ((0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
"""White, red, green, blue: x and y of CIE 1931."""
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def space_of(icc: bytes) -> str:
    """``RGB``, ``GRAY``, ``CMYK``, …; what stands in a damaged profile is shown as well as it can be."""
    return icc[16:20].decode("ascii", "replace").strip("\0 ")


def damage(icc: bytes) -> str | None:
    """What is wrong with a profile; None where header and tag table fit its length."""
    if len(icc) < _HEADER + 4:
        return f"it has {len(icc)} bytes, which is less than its header"
    if icc[36:40] != b"acsp":
        return "it lacks the mark of a profile"
    size, count = int.from_bytes(icc[:4], "big"), int.from_bytes(icc[_HEADER : _HEADER + 4], "big")
    if size > len(icc):
        return f"it ends after {len(icc)} of {size} bytes"
    if _HEADER + 4 + count * _ENTRY > len(icc):
        return f"its table of {count} tags does not fit into it"
    if any(offset + length > len(icc) for offset, length in _tags(icc).values()):
        return "a tag lies beyond its end"
    return None


def _tags(icc: bytes) -> dict[bytes, tuple[int, int]]:
    """Signature -> offset and length of each tag."""
    count = int.from_bytes(icc[_HEADER : _HEADER + 4], "big")
    entries = (struct.unpack_from(">4sII", icc, _HEADER + 4 + _ENTRY * index) for index in range(count))
    return {signature: (offset, length) for signature, offset, length in entries}


def gamma_curve(exponent: float) -> bytes:
    """A ``curv`` tag: light is the value to the power of ``exponent``."""
    return b"curv" + bytes(4) + struct.pack(">IH", 1, min(65535, round(exponent * 256))) + bytes(2)


def grey_curve(icc: bytes) -> bytes | None:
    """The tone curve tag of a grey profile; None where it has none."""
    offset, length = _tags(icc).get(b"kTRC", (0, 0))
    return icc[offset : offset + length] or None


def grey_profile(curve: bytes) -> bytes:
    """A profile of grey with that tone curve."""
    return _profile(b"GRAY", {b"kTRC": curve})


def rgb_profile(curve: bytes, primaries: tuple[tuple[float, float], ...] = SRGB_PRIMARIES) -> bytes:
    """A profile of RGB with one tone curve for all channels.

    Args:
        curve: As :func:`gamma_curve` makes it.
        primaries: x and y of white, red, green and blue.
    """
    import numpy as np

    white, *corners = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in primaries)
    columns = np.stack(corners, axis=1)
    columns = columns * np.linalg.solve(columns, white)  # the three together are white
    cone = np.array(_BRADFORD)
    adapted = np.linalg.inv(cone) @ np.diag((cone @ np.array(_D50)) / (cone @ white)) @ cone @ columns
    tags = {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    tags |= {name + b"XYZ": _xyz(adapted[:, index]) for index, name in enumerate((b"r", b"g", b"b"))}
    return _profile(b"RGB ", tags)


def _xyz(values: object) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(struct.pack(">i", round(float(one) * 65536)) for one in values)  # type: ignore[attr-defined]


def _profile(space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    name = b"made from the file's own tags\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    tags = {b"desc": description, b"cprt": b"text" + bytes(4) + b"CC0\0", b"wtpt": _xyz(_D50), **tags}
    table, body = b"", b""
    start = _HEADER + 4 + _ENTRY * len(tags)
    for signature, data in tags.items():
        table += struct.pack(">4sII", signature, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(_D50)[8:]
    return header.ljust(_HEADER, b"\0") + struct.pack(">I", len(tags)) + table + body
