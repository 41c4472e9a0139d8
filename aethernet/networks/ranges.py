"""How a picture enters and leaves a network: centring and scaling, which the generations do in different order.

All take the picture and the mean, [N, C, H, W] and a shape that broadcasts to it.
"""

from __future__ import annotations

from torch import Tensor, nn

from aethernet.networks.fusion import Foldable

__all__ = ["CentreThenScale", "RestoreRange", "ScaleThenCentre", "Unchanged"]


class CentreThenScale(nn.Module):
    """(x - mean) * gain; with gain 1 just the centring, which zero padding keeps from folding into a convolution."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        centred = x - mean
        return centred * self.gain if self.gain != 1 else centred


class ScaleThenCentre(nn.Module):
    """x * gain - mean."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        return (x * self.gain if self.gain != 1 else x) - mean


class RestoreRange(Foldable):
    """x * gain + mean, or (x + mean) * gain with ``shift_first``; folds into the convolution before it."""

    def __init__(self, gain: float, *, shift_first: bool) -> None:
        super().__init__()
        self.gain = gain
        self.shift_first = shift_first

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:
        if self.shift_first:
            return (x + mean) * self.gain
        return x * self.gain + mean

    def fold(self) -> nn.Module:
        return Unchanged()


class Unchanged(nn.Module):
    """The picture as it is."""

    def forward(self, x: Tensor, mean: Tensor) -> Tensor:  # noqa: ARG002 (as its siblings are called)
        return x
