"""PyTorch on the CPU, computing in float32 whatever type the weights were stored in.

Half-precision weights are widened: a half-precision forward pass on a CPU takes minutes and rounds like no GPU does,
while the stored weights are what a release has to vouch for.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from torch import nn

    from aethernet.pictures import Picture

__all__ = ["TorchRuntime"]


class TorchRuntime:
    """Runs a network that is a PyTorch module."""

    name = "pytorch-cpu"

    def __init__(self, model: nn.Module, *, threads: int = 0) -> None:
        self.model = model
        self.threads = threads

    @classmethod
    def from_file(cls, path: Path | str, *, threads: int = 0) -> TorchRuntime:
        """Load any checkpoint :func:`aethernet.load` takes."""
        from aethernet.checkpoint import load

        return cls(load(path).model, threads=threads)

    def __enter__(self) -> Self:
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        self.model.eval().float()
        return self

    def infer(self, picture: Picture) -> Picture:
        import torch

        with torch.inference_mode():
            # PyTorch may answer channels last; whoever stores the array's bytes relies on C order.
            result: Picture = self.model(torch.from_numpy(picture)).contiguous().numpy()
        return result

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
