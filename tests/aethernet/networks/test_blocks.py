"""The building blocks against their definitions, written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from aethernet.networks import Norm
from aethernet.networks.blocks import (
    Block,
    ChannelAttention,
    ChannelLayerNorm,
    DeploymentNorm,
    GatedFeedForward,
    ReparameterisedLargeKernelConv,
    SpatialAttention,
    StochasticDepth,
    TemperedGatedFeedForward,
    make_norm,
)
from aethernet.networks.generation1 import Block1
from tests.support.networks import tiny_network


def features(batch: int = 2, channels: int = 16) -> torch.Tensor:
    """[N, C, 6, 5] with another mean and spread in every channel."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(batch, channels, 6, 5, generator=generator)
    return noise * torch.linspace(0.5, 2, channels).view(1, -1, 1, 1) + torch.linspace(-1, 1, channels).view(
        1, -1, 1, 1
    )


def test_large_and_small_kernel_are_added() -> None:
    conv = ReparameterisedLargeKernelConv(16, 7, 3)
    nn.init.normal_(conv.lk_bias)
    nn.init.normal_(conv.sk_bias)
    x = features()

    large = F.conv2d(x, conv.lk_conv.weight, conv.lk_bias, padding=3, groups=16)
    small = F.conv2d(x, conv.sk_conv.weight, conv.sk_bias, padding=1, groups=16)
    torch.testing.assert_close(conv(x), large + small)


def test_layer_norm_normalises_the_channels_of_every_pixel() -> None:
    norm = ChannelLayerNorm(16, eps=1e-5)
    x = features()

    y = norm(x)

    expected = (x - x.mean(1, keepdim=True)) / torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5)
    torch.testing.assert_close(y, expected)
    assert y.shape == x.shape


def test_deployment_norm_uses_running_statistics_in_evaluation() -> None:
    norm = DeploymentNorm(16, eps=1e-4).eval()
    norm.running_mean.fill_(0.25)
    norm.running_var.fill_(4.0)
    nn.init.constant_(norm.weight, 3.0)
    nn.init.constant_(norm.bias, 0.5)
    x = features()

    torch.testing.assert_close(norm(x), (x - 0.25) / (4.0 + 1e-4) ** 0.5 * 3.0 + 0.5)


def test_deployment_norm_uses_biased_batch_statistics_in_training() -> None:
    norm = DeploymentNorm(16, eps=1e-5).train()
    x = features()

    y = norm(x)

    torch.testing.assert_close(y, F.batch_norm(x, None, None, training=True, eps=1e-5))


def test_deployment_norm_learns_biased_statistics_with_momentum_a_tenth() -> None:
    norm = DeploymentNorm(16, eps=1e-5).train()
    x = features()

    norm(x)

    mean = x.mean((0, 2, 3), keepdim=True)
    variance = x.var((0, 2, 3), keepdim=True, unbiased=False)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * variance)


def test_deployment_norm_does_not_learn_in_evaluation() -> None:
    norm = DeploymentNorm(16, eps=1e-5).eval()

    norm(features())

    assert not norm.running_mean.any()
    torch.testing.assert_close(norm.running_var, torch.ones(1, 16, 1, 1))


def test_deployment_norm_keeps_full_statistics_under_autocast() -> None:
    norm = DeploymentNorm(16, eps=1e-5).train()

    y = norm(features().bfloat16())

    assert y.dtype == norm.running_var.dtype == torch.float32


@pytest.mark.parametrize(("norm", "kind"), [(Norm.DEPLOYMENT, DeploymentNorm), (Norm.LAYER, ChannelLayerNorm)])
def test_the_config_chooses_the_norm(norm: Norm, kind: type) -> None:
    made = make_norm(norm, 16, 1e-3)

    assert isinstance(made, kind)
    assert made.eps == 1e-3


@pytest.mark.parametrize(("generation", "epsilon"), [(2, 1e-5), (3, 1e-4)])
def test_deployment_norms_have_their_generations_epsilon(generation: int, epsilon: float) -> None:
    norms = [module for module in tiny_network(generation).modules() if isinstance(module, DeploymentNorm)]

    assert {norm.eps for norm in norms} == {epsilon}
    assert len(norms) == 4  # three blocks and the body


def test_generation_1_has_a_smaller_epsilon_in_blocks_than_in_the_body() -> None:
    network = tiny_network(1)

    assert {module.norm.eps for module in network.modules() if isinstance(module, Block1)} == {1e-6}
    assert network.norm.eps == 1e-5


def test_layer_norms_of_the_newer_generations_have_one_epsilon() -> None:
    network = tiny_network(3, norm=Norm.LAYER)

    assert {module.eps for module in network.modules() if isinstance(module, nn.LayerNorm)} == {1e-5}


def test_the_gate_is_silu_times_main() -> None:
    ffn = GatedFeedForward(16, 24)
    x = features()

    expected = ffn.conv_out(F.silu(ffn.conv_gate(x)) * ffn.conv_main(x))
    torch.testing.assert_close(ffn(x), expected)


def test_the_temperature_multiplies_the_gate_before_silu() -> None:
    ffn = TemperedGatedFeedForward(16, 24)
    nn.init.constant_(ffn.temperature, 1.7)
    x = features()

    expected = ffn.conv_out(F.silu(ffn.conv_gate(x) * 1.7) * ffn.conv_main(x))
    torch.testing.assert_close(ffn(x), expected)


def test_channel_attention_weighs_channels_by_their_means() -> None:
    attention = ChannelAttention(16)
    x = features()

    squeezed = F.relu(x.mean((2, 3)) @ attention.fc[0].weight[:, :, 0, 0].T)
    gate = torch.sigmoid(squeezed @ attention.fc[2].weight[:, :, 0, 0].T)
    torch.testing.assert_close(attention(x), x * gate[:, :, None, None])


def test_spatial_attention_weighs_pixels_by_maximum_and_mean_in_this_order() -> None:
    attention = SpatialAttention()
    x = features()

    summary = torch.stack([x.max(1).values, x.mean(1)], dim=1)
    gate = torch.sigmoid(F.conv2d(summary, attention.conv.weight, padding=3))
    torch.testing.assert_close(attention(x), x * gate)


def test_a_block_applies_its_parts_in_the_published_order() -> None:
    block = tiny_network(3, channel_attention=True, spatial_attention=True).stages[0][0]
    x = features()

    branch = block.spatial_attn(block.channel_attn(block.ffn(block.norm(block.conv(x)))))
    torch.testing.assert_close(block(x), x + 0.2 * branch)


def test_a_block_of_generation_1_gates_with_exact_gelu() -> None:
    block = tiny_network(1).layers[0][0]
    x = features()

    y = block.norm(block.conv(x).permute(0, 2, 3, 1))
    y = block.ffn.fc2(F.gelu(block.ffn.fc1_gate(y), approximate="none") * block.ffn.fc1_main(y))
    torch.testing.assert_close(block(x), x + y.permute(0, 3, 1, 2))


def test_stochastic_depth_does_nothing_in_evaluation() -> None:
    x = features()

    assert StochasticDepth(0.5).eval()(x) is x


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    ones = torch.ones(4000, 1, 2, 2)

    y = StochasticDepth(0.25).train()(ones)

    per_sample = y.flatten(1)
    assert torch.equal(per_sample.amin(1), per_sample.amax(1))
    torch.testing.assert_close(per_sample.unique(), torch.tensor([0.0, 4 / 3]))
    torch.testing.assert_close(y.mean(), torch.tensor(1.0), rtol=0, atol=0.05)


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_stochastic_depth_rises_linearly_from_zero(generation: int) -> None:
    from aethernet.networks import build_network
    from tests.support.networks import tiny_config

    network = build_network(tiny_config(generation, depths=(1, 2, 2)), drop_path=0.4)

    blocks = [module for module in network.modules() if isinstance(module, Block | Block1)]
    rates = [getattr(block.drop_path, "rate", 0.0) for block in blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
