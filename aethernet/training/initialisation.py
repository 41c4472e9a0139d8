"""First weights that make a network start as nearest-neighbour enlargement instead of noise.

Only weights are set; the mathematics is the network's own. The first channels carry the picture from end to end, and
every other path starts small, so that the first steps already train details.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from aethernet.networks import AetherNet, AetherNet2
from aethernet.networks.blocks import GatedFeedForward

__all__ = ["start_as_nearest_neighbour_"]

_BRANCH_GAIN = 0.1
_LEAK = 0.01
"""Slope of the LeakyReLU before upsampling: y(x) - y(-x) = (1 + slope) x, so two channels carry a signed value."""


@torch.no_grad()
def start_as_nearest_neighbour_(network: AetherNet) -> None:
    """Change the weights of a fresh training-form network, if it has the width for it (two channels per colour)."""
    colours = network.config.in_channels
    if network.config.embed_dim < 2 * colours:
        return
    for module in network.modules():
        if isinstance(module, GatedFeedForward):
            module.conv_out.weight.mul_(_BRANCH_GAIN)
    _silence(network.conv_after_body, slice(None))
    if isinstance(network, AetherNet2):
        _silence(network.quant_fusion_layer.fusion_conv, slice(colours))
    before = cast("nn.Conv2d", network.conv_before_upsample[0])
    for colour in range(colours):
        _carry(network.conv_first, colour, {colour: 1.0})
        _carry(before, colour, {colour: 1.0})
        _carry(before, colours + colour, {colour: -1.0})
        sources = {colour: 1 / (1 + _LEAK), colours + colour: -1 / (1 + _LEAK)}
        for conv, phases in _upsampling_steps(network):
            for phase in range(phases):
                _carry(conv, colour * phases + phase, sources)
            sources = {colour: 1.0}
    for parameter in network.conv_last.parameters():
        parameter.mul_(_BRANCH_GAIN)
    for colour in range(colours):
        _carry(network.conv_last, colour, {colour: 1.0}, alone=False)


def _upsampling_steps(network: AetherNet) -> list[tuple[nn.Conv2d, int]]:
    """Each convolution before a pixel shuffle, with the number of positions the shuffle spreads a channel to."""
    modules = list(network.upsample.modules())
    convs = [module for module in modules if isinstance(module, nn.Conv2d)]
    shuffles = [module for module in modules if isinstance(module, nn.PixelShuffle)]
    return [(conv, shuffle.upscale_factor**2) for conv, shuffle in zip(convs, shuffles, strict=True)]


def _silence(conv: nn.Conv2d, rows: slice) -> None:
    conv.weight[rows] = 0
    if conv.bias is not None:
        conv.bias[rows] = 0


def _carry(conv: nn.Conv2d, row: int, sources: Mapping[int, float], *, alone: bool = True) -> None:
    """Make output channel ``row`` the weighted sum of source channels at the same place, ``alone`` or on top."""
    if alone:
        _silence(conv, slice(row, row + 1))
    middle = conv.kernel_size[0] // 2
    for source, gain in sources.items():
        conv.weight[row, source, middle, middle] = gain
