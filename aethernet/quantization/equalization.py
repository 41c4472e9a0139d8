"""Equalising channels before quantising: one scale per tensor wastes most of its steps where channels differ in size.

In a gate, a channel of what is multiplied with the gate can be made smaller before and larger after without changing
the picture. Half of the difference is taken (in decibels): then the product gains more than what is multiplied loses
(measured on a real network: 1.3 dB of the whole; all of the difference: 0.2 dB).

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

from aethernet.networks.blocks import GatedFeedForward
from aethernet.networks.generation1 import GatedLinear
from aethernet.quantization.calibration import as_input

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray
    from aethernet.networks import AetherNet

__all__ = ["equalize_gates", "equalize_tail"]

_SMALLEST, _LARGEST = 1 / 32, 32.0


@torch.no_grad()
def equalize_gates(fused: AetherNet, crops: Sequence[ImageArray]) -> None:
    """Bring the channels of every gate's product nearer to one size, in place.

    Args:
        fused: In fused form; computes the same picture afterwards.
        crops: At least one, each [N, C, H, W] float32 in [0, 1].
    """
    gates: list[tuple[Any, Any]] = []  # what is multiplied with the gate, and what reads the product
    for module in fused.modules():
        if isinstance(module, GatedLinear):
            gates.append((module.fc1_main, module.fc2))
        elif isinstance(module, GatedFeedForward):
            gates.append((module.conv_main, module.conv_out))
    maxima = _channel_maxima(fused, [after for _, after in gates], crops, of_input=True)
    for (before, after), seen in zip(gates, maxima, strict=True):
        largest = seen.clamp(min=1e-6)
        factor = (largest / largest.median()).sqrt().clamp(_SMALLEST, _LARGEST)
        before.weight /= factor.view(-1, *[1] * (before.weight.ndim - 1))
        if before.bias is not None:
            before.bias /= factor
        after.weight *= factor.view(1, -1, *[1] * (after.weight.ndim - 2))


@torch.no_grad()
def equalize_tail(fused: AetherNet, crops: Sequence[ImageArray]) -> bool:
    """Bring the channels between the convolutions from ``conv_before_upsample`` to the last one to one size, in place.

    Args:
        fused: In fused form; computes the same picture afterwards.
        crops: Each [N, C, H, W] float32 in [0, 1].

    Returns:
        Whether anything was changed.
    """
    upsampling = [layer for layer in fused.upsample.modules() if isinstance(layer, nn.Conv2d)]
    if not upsampling or not crops:
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


def _channel_maxima(
    fused: AetherNet, layers: Sequence[nn.Module], crops: Sequence[ImageArray], *, of_input: bool = False
) -> list[Tensor]:
    """Largest magnitude of each channel a layer gives, or is given; of linear layers the last axis is the channels'."""
    found: dict[nn.Module, Tensor] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values = (inputs[0] if of_input else output).abs()
        largest = values.flatten(0, -2).amax(dim=0) if isinstance(layer, nn.Linear) else values.amax(dim=(0, 2, 3))
        found[layer] = torch.maximum(found[layer], largest) if layer in found else largest

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        for crop in crops:
            fused(as_input(crop))
    finally:
        for handle in handles:
            handle.remove()
    return [found[layer] for layer in layers]
