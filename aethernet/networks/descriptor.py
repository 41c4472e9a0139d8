"""What a program has to know about a network to run it, whatever its architecture; needs no PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from aethernet.errors import UsageError
from aethernet.networks.sizes import SizeRequirements

if TYPE_CHECKING:
    pass

__all__ = ["Descriptor", "Tiling"]


class Tiling(StrEnum):
    """Whether a picture may be cut into tiles."""

    SUPPORTED = "supported"
    DISCOURAGED = "discouraged"
    """Possible, but the network looks at the whole picture, so cuts change the result."""
    INTERNAL = "internal"
    """The network cuts the picture up itself."""


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
    size: SizeRequirements = field(default_factory=SizeRequirements)
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
