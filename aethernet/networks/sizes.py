"""What sizes a network takes, and how an image is padded to one; needs no PyTorch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aethernet.errors import ExportError, UsageError

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["SIZE_KEY", "SizeRequirements", "fitted", "padded", "recorded_size", "size_metadata"]


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


def fitted(
    picture: ImageArray, size: SizeRequirements, scale: int, infer: Callable[[ImageArray], ImageArray]
) -> ImageArray:
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


def padded(picture: ImageArray, size: SizeRequirements) -> ImageArray:
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
