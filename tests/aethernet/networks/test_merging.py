"""Merging the upsampler's end must not change a pixel, at the border and for the smallest pictures least of all."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aethernet.networks import AetherNet
from aethernet.networks.fusion import fuse
from aethernet.networks.merging import MergedTail, at_low_resolution, compose, merge_tail
from tests.support.networks import largest_difference, tiny_network
from tests.support.pictures import natural_picture

SIZES = [(1, 1), (1, 5), (4, 1), (2, 2), (3, 2), (7, 6)]
FACTORS = [1, 2, 3]


def filled(conv: nn.Conv2d, seed: int) -> nn.Conv2d:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return conv.double()


def pair(factor: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    return filled(nn.Conv2d(5, 4 * factor**2, 3, padding=1), 1), filled(nn.Conv2d(4, 3, 3, padding=1), 2)


def features(height: int, width: int) -> Tensor:
    return torch.randn(2, 5, height, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", FACTORS)
def test_the_merged_convolution_gives_every_pixel_of_the_two(factor: int, size: tuple[int, int]) -> None:
    up, last = pair(factor)
    x = features(*size)

    answer = MergedTail(up, factor, last)(x)

    torch.testing.assert_close(answer, last(F.pixel_shuffle(up(x), factor)), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("edge", ["top", "bottom", "left", "right"])
def test_without_what_is_taken_off_an_edge_that_edge_is_wrong_and_nothing_else(edge: str) -> None:
    up, last = pair(2)
    x = features(7, 6)
    wanted = last(F.pixel_shuffle(up(x), 2))
    tail = MergedTail(up, 2, last)
    getattr(tail, f"low_{edge}").zero_()

    wrong = (tail(x) - wanted).abs().amax(dim=(0, 1)) > 1e-9

    border = torch.zeros_like(wrong)
    where = {"top": (0, ...), "bottom": (-1, ...), "left": (..., 0), "right": (..., -1)}[edge]
    border[where] = True
    assert wrong[where].float().mean() > 0.8
    assert not (wrong & ~border).any()


@torch.no_grad()
def test_convolutions_without_bias_merge() -> None:
    up, last = (filled(nn.Conv2d(*shape, 3, padding=1, bias=False), 4) for shape in ((5, 16), (4, 3)))
    x = features(4, 3)

    torch.testing.assert_close(MergedTail(up, 2, last)(x), last(F.pixel_shuffle(up(x), 2)), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("factor", [2, 3])
def test_a_kernel_at_low_resolution_does_what_it_did_behind_the_shuffle(factor: int) -> None:
    last = filled(nn.Conv2d(2, 3, 3, padding=1, bias=False), 5)
    x = torch.randn(1, 2 * factor**2, 5, 4, dtype=torch.float64)

    low = F.pixel_shuffle(F.conv2d(x, at_low_resolution(last.weight, factor), padding=1), factor)

    torch.testing.assert_close(low, last(F.pixel_shuffle(x, factor)), rtol=0, atol=1e-12)


@torch.no_grad()
def test_composed_kernels_are_two_convolutions_in_a_row_and_order_matters() -> None:
    first, second = (filled(nn.Conv2d(3, 3, 3, bias=False), seed) for seed in (6, 7))
    x = torch.randn(1, 3, 9, 8, dtype=torch.float64)

    torch.testing.assert_close(F.conv2d(x, compose(second.weight, first.weight)), second(first(x)))
    assert (F.conv2d(x, compose(first.weight, second.weight)) - second(first(x))).abs().max() > 1


def upsampling(network: AetherNet) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in network.upsample.modules())


@torch.no_grad()
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("generation", [1, 2, 3])
def test_a_network_with_a_merged_tail_gives_the_same_picture(generation: int, scale: int) -> None:
    network = fuse(tiny_network(generation, scale=scale))
    before, picture = copy.deepcopy(network), natural_picture(batch=2)

    merged = merge_tail(network)

    assert largest_difference(merged, network, picture) < 1e-5
    assert upsampling(network) == upsampling(before), "the network itself was changed"
    assert upsampling(merged) == max(0, upsampling(network) - 1)
    assert isinstance(merged.conv_last, MergedTail) == (upsampling(network) > 0)
