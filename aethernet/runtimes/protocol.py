"""The protocol behind which every runtime stands."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["Runtime", "ShapeLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeLimits:
    """Sizes a runtime takes; most take any."""

    smallest: tuple[int, int]
    """Height and width of the smallest input."""
    largest: tuple[int, int]
    """Height and width of the largest input."""


class Runtime(Protocol):
    """Runs one network."""

    name: str
    """Such as ``onnxruntime-cpu``."""

    def __enter__(self) -> Self:
        """Load the network onto its device."""

    def infer(self, picture: ImageArray) -> ImageArray:
        """[N, C, H, W] float32 in [0, 1] -> [N, C, s*H, s*W] float32, not clipped."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of device and memory."""
