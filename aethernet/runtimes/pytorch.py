"""PyTorch; on the CPU it computes in float32 whatever type the weights were stored in.

Half-precision weights are widened: a half-precision forward pass on a CPU takes minutes and rounds like no GPU does,
while the stored weights are what a release has to vouch for.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aethernet.networks.sizes import fitted

if TYPE_CHECKING:
    from torch import nn

    from aethernet.images.files import ImageArray

__all__ = ["TorchRuntime"]


class TorchRuntime:
    """Runs a network that is a PyTorch module."""

    def __init__(self, model: nn.Module, *, threads: int = 0, device: str = "cpu", half: bool = False) -> None:
        self.model = model
        self.threads = threads
        self.device = device
        self.half = half and device != "cpu"
        self.name = f"pytorch-{device}"

    @classmethod
    def from_file(cls, path: Path | str, *, threads: int = 0, device: str = "cpu") -> TorchRuntime:
        """Load any checkpoint :func:`aethernet.load` takes; fp16 weights are run in fp16 where that is fast."""
        from aethernet.checkpoint import load

        loaded = load(path)
        return cls(loaded.model, threads=threads, device=device, half=loaded.stored_dtype in ("float16", "fp16"))

    def __enter__(self) -> Self:
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)
        self.model = self.model.eval().float().to(self.device)
        if self.half:
            self.model = self.model.half()
        return self

    def infer(self, image: ImageArray) -> ImageArray:
        import torch

        with torch.inference_mode():
            config = getattr(self.model, "config", None)
            return self._run(image) if config is None else fitted(image, config.size, config.scale, self._run)

    def _run(self, image: ImageArray) -> ImageArray:
        import torch

        if self.device != "cpu":
            # cuDNN convolves float32 in TF32 unless told otherwise: 10 bits of mantissa, a thousandth off.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                return self._compute(image)
        return self._compute(image)

    def _compute(self, image: ImageArray) -> ImageArray:
        import torch

        given = torch.from_numpy(image).to(self.device, torch.float16 if self.half else torch.float32)
        # PyTorch may answer channels last; whoever stores the array's bytes relies on C order.
        result: ImageArray = self.model(given).float().cpu().contiguous().numpy()
        return result

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
