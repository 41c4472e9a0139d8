"""What a program has to know about a network to run it, whatever its architecture; needs no PyTorch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from aethernet.errors import ExportError, UsageError

if TYPE_CHECKING:
    from aethernet.pictures import Picture

__all__ = [
    "SIZE_KEY",
    "Descriptor",
    "SizeRequirements",
    "Tiling",
    "fitted",
    "padded",
    "recorded_size",
    "size_metadata",
]


class Tiling(StrEnum):
    """Whether a picture may be cut into tiles."""

    SUPPORTED = "supported"
    DISCOURAGED = "discouraged"
    """Possible, but the network looks at the whole picture, so cuts change the result."""
    INTERNAL = "internal"
    """The network cuts the picture up itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRequirements:
    """What sizes a network takes. Whoever runs it pads the picture to such a size and cuts the rest off afterwards."""

    minimum: int = 1
    """Least height and width in pixels."""
    multiple: int = 1
    """Height and width must be multiples of this."""
    square: bool = False
    """Height and width must be equal."""
    fixed: tuple[int, int] | None = None
    """The only (height, width) there is."""

    def __post_init__(self) -> None:
        if min(self.minimum, self.multiple, *(self.fixed or ())) < 1:
            raise UsageError(f"expected positive size requirements, found {self}")

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """The least size the network takes that holds a picture of ``height`` x ``width`` pixels.

        Raises:
            UsageError: It takes one size only, and the picture is larger.
        """
        if self.fixed is not None:
            if height > self.fixed[0] or width > self.fixed[1]:
                raise UsageError(
                    f"expected a picture of at most {self.fixed[1]}x{self.fixed[0]} pixels, found {width}x{height}",
                    hint="aethernet upscale cuts larger pictures into tiles",
                )
            return self.fixed
        sides = [-(-max(side, self.minimum) // self.multiple) * self.multiple for side in (height, width)]
        return (max(sides), max(sides)) if self.square else (sides[0], sides[1])

    @property
    def none(self) -> bool:
        """Whether any size will do."""
        return self == SizeRequirements()

    def to_json(self) -> dict[str, Any]:
        """A JSON object for :meth:`from_json`."""
        return dataclasses.asdict(self) | {"fixed": list(self.fixed) if self.fixed else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SizeRequirements:
        """The inverse of :meth:`to_json`.

        Raises:
            UsageError: A field is unknown or out of range.
        """
        try:
            return cls(**{**data, "fixed": tuple(data["fixed"]) if data.get("fixed") else None})
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(f"not size requirements: {error}") from error


SIZE_KEY = "size_requirements"
"""Of the metadata entry that says what sizes a file takes; absent where it takes any."""


def size_metadata(size: SizeRequirements | None, static: tuple[int, int] | None = None) -> dict[str, str]:
    """The entry that tells whoever runs a file how pictures have to be padded; empty for files that take any."""
    if size is None or (size.none and static is None):
        return {}
    stated = dataclasses.replace(size, fixed=static).to_json()
    return {SIZE_KEY: json.dumps({name: value for name, value in stated.items() if value is not None})}


def recorded_size(metadata: Mapping[str, str]) -> tuple[SizeRequirements, int]:
    """What :func:`size_metadata` wrote, and the scale; any size for files that say nothing, also other tools'."""
    if SIZE_KEY not in metadata:
        return SizeRequirements(), 1
    try:
        return SizeRequirements.from_json(json.loads(metadata[SIZE_KEY])), int(metadata["scale"])
    except (ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
        raise ExportError(f"the file's {SIZE_KEY} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """One network, described. Networks of other libraries carry it as their ``config``."""

    architecture: str
    """Family, such as ``Compact``."""
    library: str
    """Whose code the network is: ``aethernet`` or ``spandrel``."""
    variant: str = ""
    """What the library says about its size, such as ``64nf 16nc``."""
    scale: int
    """Output size over input size."""
    in_channels: int
    out_channels: int
    size: SizeRequirements = SizeRequirements()
    tiling: Tiling = Tiling.SUPPORTED
    supports_half: bool = True
    """Whether the library vouches for half precision; the gate measures it anyway."""
    receptive_radius: int | None = None
    """Input pixels that an output pixel looks at in every direction; None where unknown or the whole picture."""
    floats_per_pixel: int | None = None
    """Numbers per input pixel that its largest layer takes and gives; None where nobody measured."""

    @property
    def pools_globally(self) -> bool:
        """Whether tiles may change the result."""
        return self.tiling is not Tiling.SUPPORTED or self.receptive_radius is None

    @property
    def descriptor(self) -> Descriptor:
        """Itself: configs of all libraries can be asked for one."""
        return self

    @property
    def title(self) -> str:
        """What people call it, such as ``Compact 64nf 16nc`` or ``AetherNet generation 2, tiny``."""
        return " ".join((self.architecture, self.variant)).strip()

    def preset_name(self) -> str:
        """What the variant is called in names and tables."""
        return self.variant or "custom"

    def to_json(self) -> dict[str, Any]:
        """A JSON object for :meth:`from_json`; ``config.json`` and the manifest hold it."""
        return {**dataclasses.asdict(self), "size": self.size.to_json(), "tiling": self.tiling.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Descriptor:
        """The inverse of :meth:`to_json`.

        Raises:
            UsageError: A field is unknown, missing or out of range.
        """
        try:
            made = cls(**{**data, "size": SizeRequirements.from_json(data["size"]), "tiling": Tiling(data["tiling"])})
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(f"not the description of a network: {error}") from error
        if min(made.scale, made.in_channels, made.out_channels) < 1:
            raise UsageError("expected a positive scale and positive channel counts")
        return made


def fitted(picture: Picture, size: SizeRequirements, scale: int, infer: Callable[[Picture], Picture]) -> Picture:
    """Run a network on a picture of any size: pad it below and to the right as ``size`` asks, cut the rest off.

    The picture is continued by mirroring as far as it reaches, then by repeating its border.

    Args:
        picture: [N, C, H, W].
        size: What the network takes.
        scale: Of the network.
        infer: [N, C, h, w] -> [N, C', s*h, s*w].
    """
    import numpy as np

    height, width = picture.shape[2:]
    given = padded(picture, size)
    if given is picture:
        return infer(picture)
    return np.ascontiguousarray(infer(given)[:, :, : height * scale, : width * scale])


def padded(picture: Picture, size: SizeRequirements) -> Picture:
    """A picture [N, C, H, W] continued below and to the right to a size the network takes; itself where it is one."""
    import numpy as np

    height, width = picture.shape[2:]
    taken = size.fit(height, width)
    if taken == (height, width):
        return picture
    missing = [taken[0] - height, taken[1] - width]
    mirrored = [min(missing[0], height - 1), min(missing[1], width - 1)]
    given = np.pad(picture, ((0, 0), (0, 0), (0, mirrored[0]), (0, mirrored[1])), mode="reflect")
    rest = [missing[0] - mirrored[0], missing[1] - mirrored[1]]
    return np.pad(given, ((0, 0), (0, 0), (0, rest[0]), (0, rest[1])), mode="edge")
