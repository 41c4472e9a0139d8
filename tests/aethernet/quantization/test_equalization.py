"""Channels before the upsampler are brought to one size, and the picture stays what it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from aethernet.networks import AetherNet
from aethernet.networks.blocks import GatedFeedForward
from aethernet.networks.generation1 import GatedLinear
from aethernet.quantization.calibration import as_input
from aethernet.quantization.equalization import equalize_gates, equalize_tail
from tests.support.quantization import (
    GENERATIONS,
    calibration_pictures,
    fused_network,
    same_tensors,
    snapshot,
)


def channel_maxima(network: AetherNet, pictures: list[np.ndarray]) -> Tensor:
    """[C], of what the convolution before the upsampler gives."""
    found: list[Tensor] = []
    conv = network.conv_before_upsample[0]
    handle = conv.register_forward_hook(lambda _m, _i, output: found.append(output.abs().amax(dim=(0, 2, 3))))
    with torch.no_grad():
        for picture in pictures:
            network(as_input(picture))
    handle.remove()
    return torch.stack(found).amax(dim=0)


@torch.no_grad()
def uneven(network: AetherNet) -> AetherNet:
    """A copy in which one channel is much larger and another much smaller."""
    network = copy.deepcopy(network)
    conv = network.conv_before_upsample[0]
    for channel, gain in ((0, 6.0), (1, 1 / 6)):
        conv.weight[channel] *= gain
        conv.bias[channel] *= gain
    return network


@torch.no_grad()
@pytest.mark.parametrize("scale", [4, 8])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_picture_does_not_change(generation: int, scale: int) -> None:
    network, pictures = uneven(fused_network(generation, scale=scale)), calibration_pictures(2, side=12)
    before, wanted = snapshot(network), [network(as_input(picture)) for picture in pictures]

    assert equalize_tail(network, pictures)

    assert not same_tensors(snapshot(network), before)
    for picture, one in zip(pictures, wanted, strict=True):
        torch.testing.assert_close(network(as_input(picture)), one, rtol=0, atol=1e-4)


def test_without_an_upsampler_nothing_happens() -> None:
    network = uneven(fused_network(1, scale=1))
    before = snapshot(network)

    assert not equalize_tail(network, calibration_pictures(1))

    assert same_tensors(snapshot(network), before)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_channels_have_one_size_afterwards(generation: int) -> None:
    network, pictures = uneven(fused_network(generation, scale=4)), calibration_pictures()
    before = channel_maxima(network, pictures)

    equalize_tail(network, pictures)

    after = channel_maxima(network, pictures)
    assert before.max() / before.min() > 6
    assert after.max() / after.min() < 1.01
    assert float(after.median()) == pytest.approx(float(before.median()), rel=0.01)


@torch.no_grad()
def test_a_dead_channel_stays_dead_and_harms_nothing() -> None:
    network, pictures = fused_network(2, scale=4), calibration_pictures(1)
    network.conv_before_upsample[0].weight[0] = 0
    network.conv_before_upsample[0].bias[0] = 0
    wanted = network(as_input(pictures[0]))

    equalize_tail(network, pictures)

    torch.testing.assert_close(network(as_input(pictures[0])), wanted, rtol=0, atol=1e-4)
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def test_without_pictures_nothing_happens() -> None:
    network = fused_network(2, scale=4)
    before = snapshot(network)

    equalize_tail(network, [])

    assert same_tensors(snapshot(network), before)


def product_maxima(network: AetherNet, pictures: list[np.ndarray]) -> Tensor:
    """[C], of what the last layer of the first gate is given."""
    gate = next(module for module in network.modules() if isinstance(module, GatedLinear | GatedFeedForward))
    last = gate.fc2 if isinstance(gate, GatedLinear) else gate.conv_out
    axes = (0, 1, 2) if isinstance(gate, GatedLinear) else (0, 2, 3)
    found: list[Tensor] = []
    handle = last.register_forward_hook(lambda _m, inputs, _o: found.append(inputs[0].abs().amax(dim=axes)))
    with torch.no_grad():
        for picture in pictures:
            network(as_input(picture))
    handle.remove()
    return torch.stack(found).amax(dim=0)


@torch.no_grad()
@pytest.mark.parametrize("generation", GENERATIONS)
def test_gates_compute_the_same_with_products_half_way_to_one_size(generation: int) -> None:
    network, pictures = fused_network(generation), calibration_pictures(2)
    wanted = [network(as_input(picture)) for picture in pictures]
    before = product_maxima(network, pictures)

    equalize_gates(network, pictures)

    after = product_maxima(network, pictures)
    torch.testing.assert_close(after, (before * before.median()).sqrt(), rtol=1e-3, atol=1e-6)
    assert before.max() / before.min() > 1.5
    for picture, one in zip(pictures, wanted, strict=True):
        torch.testing.assert_close(network(as_input(picture)), one, rtol=0, atol=1e-4)
