"""Runtimes that answer what a test tells them to, and keep a record of how they were used."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["FunctionRuntime", "enlarged"]


def enlarged(picture: ImageArray, scale: int = 2) -> ImageArray:
    """Every pixel as scale x scale: the simplest upscaler."""
    return picture.repeat(scale, axis=2).repeat(scale, axis=3)


class FunctionRuntime:
    """A runtime around a plain function; ``record`` lists what was called, as ``name event``."""

    def __init__(
        self,
        function: Callable[[ImageArray], ImageArray] = enlarged,
        *,
        name: str = "fake",
        record: list[str] | None = None,
    ) -> None:
        self.name = name
        self.function = function
        self.record = record if record is not None else []

    def __enter__(self) -> Self:
        self.record.append(f"{self.name} opens")
        return self

    def infer(self, picture: ImageArray) -> ImageArray:
        self.record.append(f"{self.name} runs")
        return self.function(picture)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.record.append(f"{self.name} closes")
