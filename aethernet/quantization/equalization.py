"""Equalising channels before quantising: one scale per tensor wastes most of its steps where channels differ in size.

Between two convolutions with nothing but a positively homogeneous activation between them, a channel can be made
smaller in the first and larger in the second without changing the picture (Nagel et al. 2019, arXiv:1906.04721, section
4.1). It is done from ``conv_before_upsample`` through the upsampler: a third of the rounding error there on a real
network, 1 dB of the whole. It counts more where a quantiser follows the leaky activation, whose small negative values
would otherwise all round to zero, a tint that depends on the picture. Dividing the difference between activations and
weights was measured to be worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aethernet.quantization.calibration import as_input

if TYPE_CHECKING:
    from aethernet.network import AetherNet
    from aethernet.pictures import Picture

__all__ = ["equalize_tail"]

_SMALLEST, _LARGEST = 1 / 32, 32.0


@torch.no_grad()
def equalize_tail(fused: AetherNet, crops: Sequence[Picture]) -> bool:
    """Bring the channels between the convolutions from ``conv_before_upsample`` to the last one to one size, in place.

    Args:
        fused: In fused form; computes the same picture afterwards.
        crops: Each [N, C, H, W] float32 in [0, 1].

    Returns:
        Whether anything was changed.
    """
    upsampling = [layer for layer in fused.upsample.modules() if isinstance(layer, nn.Conv2d)]
    if not upsampling:
        return False
    chain: list[Any] = [fused.conv_before_upsample[0], *upsampling]
    # One look at all: what is taken off a channel is put back one convolution later, so later sizes do not change.
    maxima = _channel_maxima(fused, chain[:-1], crops)
    for first, second, seen in zip(chain, chain[1:], maxima, strict=False):
        # A pixel shuffle makes one channel of several neighbouring ones.
        phases = first.out_channels // second.in_channels
        largest = seen.reshape(-1, phases).amax(dim=1).clamp(min=1e-6)
        # Relative to the middle one, so that sizes stay where they were on the whole.
        factor = (largest / largest.median()).clamp(_SMALLEST, _LARGEST)
        rows = factor.repeat_interleave(phases)
        first.weight /= rows.view(-1, 1, 1, 1)
        if first.bias is not None:
            first.bias /= rows
        second.weight *= factor.view(1, -1, 1, 1)
    return True


def _channel_maxima(fused: AetherNet, convs: Sequence[nn.Conv2d], crops: Sequence[Picture]) -> list[Tensor]:
    found = {conv: torch.zeros(conv.out_channels) for conv in convs}

    def record(conv: nn.Module, _inputs: object, output: Tensor) -> None:
        torch.maximum(found[conv], output.abs().amax(dim=(0, 2, 3)), out=found[conv])  # type: ignore[index]

    handles = [conv.register_forward_hook(record) for conv in convs]
    try:
        for crop in crops:
            fused(as_input(crop))
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())
