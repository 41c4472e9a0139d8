"""The layers of a quantised network compute what they say, written out a second time here."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aethernet.quantization.modules import (
    Mode,
    QuantizedConv,
    QuantizedGate,
    Quantizer,
    ResidualBlock,
    set_mode,
)
from aethernet.quantization.scheme import ACTIVATION_MAX, ACTIVATION_MIN, weight_scale


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(module: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def on_grid(x: Tensor, scale: float) -> Tensor:
    return scale * torch.clip(torch.round(x / scale), ACTIVATION_MIN, ACTIVATION_MAX)


def scaled(quantizer: nn.Module, scale: float) -> None:
    quantizer.scale.data.fill_(scale)


def test_a_quantiser_that_is_off_passes_values_on() -> None:
    x = noise(2, 3, 5, 5)

    assert Quantizer()(x) is x


@pytest.mark.parametrize("scale", [0.003, 0.02, 0.5])
def test_a_quantiser_that_is_on_rounds_to_its_grid_and_clips(scale: float) -> None:
    x, quantizer = 2 * noise(2, 3, 17, 19), Quantizer()
    scaled(quantizer, scale)
    set_mode(quantizer, Mode.ON)

    torch.testing.assert_close(quantizer(x), on_grid(x, scale), rtol=1e-6, atol=1e-7)


def test_a_quantiser_rounds_halves_to_even() -> None:
    quantizer = Quantizer()
    set_mode(quantizer, Mode.ON)

    assert quantizer(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [0, 2, 2, 0, -2]


def test_a_changed_scale_counts_once_the_mode_is_set_again() -> None:
    quantizer = Quantizer()
    set_mode(quantizer, Mode.ON)
    scaled(quantizer, 0.25)
    set_mode(quantizer, Mode.ON)

    assert quantizer(torch.tensor([0.3])).item() == 0.25


@torch.no_grad()
def test_learning_rounds_to_the_same_grid() -> None:
    x, quantizer = noise(1, 3, 9, 9), Quantizer()
    scaled(quantizer, 0.01)
    set_mode(quantizer, Mode.LEARN)

    torch.testing.assert_close(quantizer(x), on_grid(x, quantizer.scale.item()), rtol=1e-5, atol=1e-6)


def test_learning_gives_gradients_to_values_and_scale() -> None:
    x, quantizer = noise(1, 3, 9, 9).requires_grad_(), Quantizer()
    scaled(quantizer, 0.01)
    set_mode(quantizer, Mode.LEARN)
    quantizer.scale.requires_grad_()

    quantizer(x).square().sum().backward()

    inside = x.detach().abs() < 0.01 * 127
    assert (x.grad[inside] != 0).float().mean() > 0.9
    assert not x.grad[~inside & (x.detach().abs() > 0.01 * 129)].any()
    assert quantizer.scale.grad.abs().item() > 0


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_quantised_convolution_that_is_off_is_the_convolution(kernel: int) -> None:
    conv, x = filled(nn.Conv2d(5, 4, kernel, padding=kernel // 2)), noise(1, 5, 8, 9)

    torch.testing.assert_close(QuantizedConv(conv, input=True)(x), conv(x))


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_quantised_convolution_rounds_input_weight_and_output(kernel: int) -> None:
    conv, x = filled(nn.Conv2d(5, 4, kernel, padding=kernel // 2)), noise(1, 5, 8, 9)
    quantised = QuantizedConv(conv, input=True)
    scaled(quantised.input, 0.02)
    scaled(quantised.output, 0.04)
    set_mode(quantised, Mode.ON)

    answer = quantised(x)

    scale = weight_scale(conv.weight).view(-1, 1, 1, 1)
    weight = torch.round(conv.weight / scale) * scale
    wanted = F.conv2d(on_grid(x, 0.02), weight, conv.bias, padding=kernel // 2)
    assert not torch.equal(weight, conv.weight)
    torch.testing.assert_close(quantised.before_output(on_grid(x, 0.02)), wanted, rtol=1e-5, atol=1e-5)
    off = (answer - on_grid(wanted, 0.04)).abs() > 1e-5
    assert off.float().mean() < 0.01  # a sum that lies on an edge may round the other way
    torch.testing.assert_close(answer, on_grid(answer, 0.04), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_convolution_without_bias_gets_one_of_zeros() -> None:
    conv, x = filled(nn.Conv2d(4, 3, 1, bias=False)), noise(1, 4, 5, 5)

    torch.testing.assert_close(QuantizedConv(conv, input=False)(x), conv(x))


@torch.no_grad()
def test_a_gate_that_is_off_is_the_gate() -> None:
    gate, main, out = (filled(nn.Conv2d(6, 6, 1), seed) for seed in (1, 2, 3))
    x = noise(2, 6, 5, 7)

    torch.testing.assert_close(QuantizedGate(gate, main, out)(x), out(F.silu(gate(x)) * main(x)))


@torch.no_grad()
@pytest.mark.parametrize("norm", ["identity", "layer"])
def test_a_residual_block_adds_its_branch(norm: str) -> None:
    conv = filled(nn.Conv2d(6, 6, 5, padding=2, groups=6))
    layer = nn.Identity() if norm == "identity" else filled(nn.LayerNorm(6, eps=1e-5))
    gate = QuantizedGate(*(filled(nn.Conv2d(6, 6, 1), seed) for seed in (2, 3, 4)))
    x = noise(2, 6, 9, 7)

    answer = ResidualBlock(conv, layer, gate)(x)

    branch = layer(conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(answer, x + gate(branch))


def test_the_mode_reaches_every_part() -> None:
    network = nn.Sequential(QuantizedConv(nn.Conv2d(2, 2, 1), input=True), Quantizer())
    scaled(network[1], 0.125)

    set_mode(network, Mode.ON)

    modes = [module.mode for module in network.modules() if isinstance(module, Quantizer | QuantizedConv)]
    assert modes == [Mode.ON] * 4
    assert network[1].step == 0.125


def test_the_mode_of_a_network_that_learns_is_set_without_a_warning() -> None:
    quantizer = Quantizer()
    quantizer.scale.requires_grad_()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_mode(quantizer, Mode.ON)
