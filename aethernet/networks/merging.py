"""The end of a network as one convolution: from the last features to the picture without the wide layer in between.

Nothing but a pixel shuffle stands between the upsampler's last convolution and ``conv_last``, so both are one linear
map. Computed before the shuffle, two 3x3 kernels make one 5x5 kernel from the features straight to the phases of the
picture: for 64 channels and scale 2 a ninth of the multiplications. It differs from the two in one place. They cut
what lies outside the picture off in between, the merged kernel sees it; it reaches the outermost pixels only, where
what it adds is computed on the four edges and taken off again. So every pixel is what it was, for any size.

Weights are stored unmerged, as other programs expect them; merging happens on the way to ONNX.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MergedTail", "at_low_resolution", "compose", "merge_tail"]

Network = TypeVar("Network", bound=nn.Module)


class MergedTail(nn.Module):
    """``last(pixel_shuffle(up(x)))`` for two 3x3 convolutions with zero padding; [N, I, H, W] -> [N, O, f*H, f*W].

    Args:
        up: I -> M * f^2 channels.
        factor: f of the shuffle; 1 for none.
        last: M -> O channels.
    """

    def __init__(self, up: nn.Conv2d, factor: int, last: nn.Conv2d) -> None:
        super().__init__()
        self.factor = factor
        dtype = up.weight.dtype
        wide, wide_bias = up.weight.detach().double(), _bias(up).double()
        low, low_bias = at_low_resolution(last.weight.detach().double(), factor), _bias(last).double()
        low_bias = low_bias.repeat_interleave(factor**2)
        self.kernel = _parameter(compose(low, wide), dtype)
        self.bias = _parameter(low_bias + torch.einsum("omyx,m->o", low, wide_bias), dtype)
        # One row or column outside: one side of the first kernel makes it, the other side of the second sees it.
        self.wide_bias = _parameter(wide_bias, dtype)
        self.wide_top, self.low_top = _parameter(wide[:, :, 2:], dtype), _parameter(-low[:, :, :1], dtype)
        self.wide_bottom, self.low_bottom = _parameter(wide[:, :, :1], dtype), _parameter(-low[:, :, 2:], dtype)
        self.wide_left, self.low_left = _parameter(wide[:, :, :, 2:], dtype), _parameter(-low[:, :, :, :1], dtype)
        self.wide_right, self.low_right = _parameter(wide[:, :, :, :1], dtype), _parameter(-low[:, :, :, 2:], dtype)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        y = F.conv2d(x, self.kernel, self.bias, padding=2)
        # Rows reach one further to each side than columns do, so that each corner is taken off once.
        top = self._outside(x[:, :, :1], self.wide_top, self.low_top, (0, 2), (0, 0))
        bottom = self._outside(x[:, :, -1:], self.wide_bottom, self.low_bottom, (0, 2), (0, 0))
        left = self._outside(x[:, :, :, :1], self.wide_left, self.low_left, (1, 0), (1, 0))
        right = self._outside(x[:, :, :, -1:], self.wide_right, self.low_right, (1, 0), (1, 0))
        y = y + F.pad(top, (0, 0, 0, height - 1)) + F.pad(bottom, (0, 0, height - 1, 0))
        y = y + F.pad(left, (0, width - 1, 0, 0)) + F.pad(right, (width - 1, 0, 0, 0))
        return F.pixel_shuffle(y, self.factor) if self.factor > 1 else y

    def _outside(
        self, edge: Tensor, wide: Tensor, low: Tensor, wide_padding: tuple[int, int], low_padding: tuple[int, int]
    ) -> Tensor:
        return F.conv2d(F.conv2d(edge, wide, self.wide_bias, padding=wide_padding), low, padding=low_padding)


def merge_tail(network: Network) -> Network:
    """A copy whose upsampler ends before its last convolution, with a :class:`MergedTail` as ``conv_last``.

    A network without an upsampler, or of another architecture, comes back as an equal copy.
    """
    merged: Any = copy.deepcopy(network)
    if not hasattr(merged, "upsample"):
        return copy.deepcopy(network)
    layers = getattr(merged.upsample, "blocks", merged.upsample)
    remaining = list(layers.named_children())
    factor = remaining.pop()[1].upscale_factor if remaining and isinstance(remaining[-1][1], nn.PixelShuffle) else 1
    if not remaining or type(remaining[-1][1]) is not nn.Conv2d:
        return copy.deepcopy(network)
    merged.conv_last = MergedTail(remaining.pop()[1], factor, merged.conv_last)
    for name, _ in list(layers.named_children()):
        if name not in dict(remaining):
            delattr(layers, name)
    result: Network = merged
    return result


def compose(second: Tensor, first: Tensor) -> Tensor:
    """The kernel [O, I, a+b-1, a+b-1] of two convolutions in a row, ``first`` [M, I, b, b], ``second`` [O, M, a, a]."""
    margin = second.shape[-1] - 1
    return F.conv2d(first.transpose(0, 1), second.flip(2, 3), padding=margin).transpose(0, 1)


def at_low_resolution(weight: Tensor, factor: int) -> Tensor:
    """The kernel [O*f^2, M*f^2, 3, 3] that does before a pixel shuffle what ``weight`` [O, M, 3, 3] does after it.

    A 3x3 kernel behind the shuffle reaches one pixel to each side, so before it it is a 3x3 kernel too, over all
    phases; most of its weights are zero.
    """
    outputs, inputs = weight.shape[:2]
    low = weight.new_zeros(outputs, factor, factor, inputs, factor, factor, 3, 3)
    for row in range(factor):
        for column in range(factor):
            for tap in range(9):
                y, x = row + tap // 3 - 1, column + tap % 3 - 1
                low[:, row, column, :, y % factor, x % factor, y // factor + 1, x // factor + 1] = weight[
                    :, :, tap // 3, tap % 3
                ]
    return low.reshape(outputs * factor**2, inputs * factor**2, 3, 3)


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.bias.detach() if conv.bias is not None else conv.weight.new_zeros(conv.out_channels)


def _parameter(value: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(value.to(dtype).contiguous(), requires_grad=False)
