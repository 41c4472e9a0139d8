"""Networks as built: the published tensor names and shapes, sizes of pictures, gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from aethernet.networks import NETWORK_PRESETS, AetherNet, FoldState, NetworkConfig, Norm, build_network, preset_config
from tests.support.networks import SELECTED_CONFIGS, randomised, tiny_config, tiny_network
from tests.support.pictures import natural_picture

Shapes = dict[str, tuple[int, ...]]

ALL_PRESETS = [(generation, name) for generation, presets in NETWORK_PRESETS.items() for name in presets]
every_preset = pytest.mark.parametrize(("generation", "name"), ALL_PRESETS)


def shapes(network: AetherNet, prefix: str = "") -> Shapes:
    """Names and shapes in the state dict that begin with ``prefix``."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if name.startswith(prefix)}


def without_weights(config: NetworkConfig) -> AetherNet:
    """The network on the meta device: shapes only, so that the largest costs nothing."""
    with torch.device("meta"):
        return build_network(config)


GENERATION_1: Shapes = {
    "conv_first.weight": (16, 3, 3, 3),
    "conv_first.bias": (16,),
    "layers.0.0.conv.lk_bias": (16,),
    "layers.0.0.conv.sk_bias": (16,),
    "layers.0.0.conv.lk_conv.weight": (16, 1, 7, 7),
    "layers.0.0.conv.sk_conv.weight": (16, 1, 3, 3),
    "layers.0.0.norm.weight": (16,),
    "layers.0.0.norm.bias": (16,),
    "layers.0.0.ffn.fc1_gate.weight": (24, 16),
    "layers.0.0.ffn.fc1_gate.bias": (24,),
    "layers.0.0.ffn.fc1_main.weight": (24, 16),
    "layers.0.0.ffn.fc1_main.bias": (24,),
    "layers.0.0.ffn.fc2.weight": (16, 24),
    "layers.0.0.ffn.fc2.bias": (16,),
    "norm.weight": (16,),
    "norm.bias": (16,),
    "conv_after_body.weight": (16, 16, 3, 3),
    "conv_after_body.bias": (16,),
    "conv_before_upsample.0.weight": (64, 16, 3, 3),
    "conv_before_upsample.0.bias": (64,),
    "upsample.0.weight": (256, 64, 3, 3),
    "upsample.0.bias": (256,),
    "conv_last.weight": (3, 64, 3, 3),
    "conv_last.bias": (3,),
}

GENERATION_2: Shapes = {
    "mean": (1, 3, 1, 1),
    "scale": (),
    "conv_first.weight": (16, 3, 3, 3),
    "conv_first.bias": (16,),
    "stages.0.0.conv.lk_bias": (16,),
    "stages.0.0.conv.sk_bias": (16,),
    "stages.0.0.conv.lk_conv.weight": (16, 1, 7, 7),
    "stages.0.0.conv.sk_conv.weight": (16, 1, 3, 3),
    "stages.0.0.norm.weight": (1, 16, 1, 1),
    "stages.0.0.norm.bias": (1, 16, 1, 1),
    "stages.0.0.norm.running_mean": (1, 16, 1, 1),
    "stages.0.0.norm.running_var": (1, 16, 1, 1),
    "stages.0.0.ffn.temperature": (1,),
    "stages.0.0.ffn.conv_gate.weight": (24, 16, 1, 1),
    "stages.0.0.ffn.conv_gate.bias": (24,),
    "stages.0.0.ffn.conv_main.weight": (24, 16, 1, 1),
    "stages.0.0.ffn.conv_main.bias": (24,),
    "stages.0.0.ffn.conv_out.weight": (16, 24, 1, 1),
    "stages.0.0.ffn.conv_out.bias": (16,),
    "stages.0.0.channel_attn.fc.0.weight": (2, 16, 1, 1),
    "stages.0.0.channel_attn.fc.2.weight": (16, 2, 1, 1),
    "stages.0.0.spatial_attn.conv.weight": (1, 2, 7, 7),
    "fusion_convs.0.weight": (16, 16, 1, 1),
    "fusion_convs.0.bias": (16,),
    "quant_fusion_layer.error_comp": (1, 16, 1, 1),
    "quant_fusion_layer.fusion_conv.weight": (16, 16, 1, 1),
    "quant_fusion_layer.fusion_conv.bias": (16,),
    "norm.weight": (1, 16, 1, 1),
    "norm.bias": (1, 16, 1, 1),
    "norm.running_mean": (1, 16, 1, 1),
    "norm.running_var": (1, 16, 1, 1),
    "conv_after_body.weight": (16, 16, 3, 3),
    "conv_after_body.bias": (16,),
    "conv_before_upsample.0.weight": (16, 16, 3, 3),
    "conv_before_upsample.0.bias": (16,),
    "upsample.blocks.0.weight": (128, 16, 3, 3),
    "upsample.blocks.0.bias": (128,),
    "conv_last.weight": (3, 32, 3, 3),
    "conv_last.bias": (3,),
}


def test_generation_1_has_the_published_tensors() -> None:
    assert shapes(build_network(tiny_config(1, depths=(1,)))) == GENERATION_1


def test_generation_2_has_the_published_tensors() -> None:
    config = tiny_config(2, depths=(1,), channel_attention=True, spatial_attention=True)

    assert shapes(build_network(config)) == GENERATION_2


def test_generation_3_differs_from_2_in_the_name_of_the_scale_alone() -> None:
    config = tiny_config(3, depths=(1,), channel_attention=True, spatial_attention=True)

    expected = {name: shape for name, shape in GENERATION_2.items() if name != "scale"} | {"scale_tensor": ()}
    assert shapes(build_network(config)) == expected


def test_layer_norms_have_weight_and_bias_per_channel() -> None:
    network = build_network(tiny_config(2, norm=Norm.LAYER))

    assert shapes(network, "stages.0.0.norm.") == {"stages.0.0.norm.weight": (16,), "stages.0.0.norm.bias": (16,)}


def test_merged_kernels_have_the_published_names() -> None:
    network = build_network(tiny_config(2), FoldState.MERGED)

    assert shapes(network, "stages.0.0.conv.") == {
        "stages.0.0.conv.fused_conv.weight": (16, 1, 7, 7),
        "stages.0.0.conv.fused_conv.bias": (16,),
    }


def test_a_fused_generation_3_holds_convolutions_only() -> None:
    network = build_network(tiny_config(3, depths=(1,)), FoldState.FUSED)

    assert set(shapes(network, "stages.")) == {
        f"stages.0.0.{layer}.{part}"
        for layer in ("conv.fused_conv", "ffn.conv_gate", "ffn.conv_main", "ffn.conv_out")
        for part in ("weight", "bias")
    }
    assert shapes(network, "norm.") == {}
    assert shapes(network, "quant_fusion_layer.error_comp") == {}


UPSAMPLERS: list[tuple[int, int, int, Shapes]] = [
    (1, 96, 1, {}),
    (1, 96, 2, {"upsample.0.weight": (256, 64, 3, 3)}),
    (1, 96, 3, {"upsample.0.weight": (576, 64, 3, 3)}),
    (1, 96, 4, {"upsample.0.weight": (256, 64, 3, 3), "upsample.2.weight": (256, 64, 3, 3)}),
    (2, 96, 1, {"upsample.blocks.0.weight": (96, 96, 3, 3)}),
    (2, 96, 2, {"upsample.blocks.0.weight": (384, 96, 3, 3)}),
    (2, 96, 3, {"upsample.blocks.0.weight": (864, 96, 3, 3)}),
    (2, 96, 4, {"upsample.blocks.0.weight": (192, 96, 3, 3), "upsample.blocks.2.weight": (192, 48, 3, 3)}),
    (2, 90, 4, {"upsample.blocks.0.weight": (180, 90, 3, 3), "upsample.blocks.2.weight": (180, 45, 3, 3)}),
    (3, 90, 4, {"upsample.blocks.0.weight": (180, 90, 3, 3), "upsample.blocks.2.weight": (176, 45, 3, 3)}),
    (3, 64, 2, {"upsample.blocks.0.weight": (256, 64, 3, 3)}),
    (
        3,
        180,
        8,
        {
            "upsample.blocks.0.weight": (360, 180, 3, 3),
            "upsample.blocks.2.weight": (180, 90, 3, 3),
            "upsample.blocks.4.weight": (176, 45, 3, 3),
        },
    ),
]


@pytest.mark.parametrize(("generation", "width", "scale", "expected"), UPSAMPLERS)
def test_upsamplers_have_the_published_tensors(generation: int, width: int, scale: int, expected: Shapes) -> None:
    network = without_weights(tiny_config(generation, embed_dim=width, scale=scale))

    found = {name: shape for name, shape in shapes(network, "upsample.").items() if name.endswith(".weight")}
    assert found == expected


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@every_preset
def test_every_preset_multiplies_the_size_by_its_scale(generation: int, name: str, scale: int) -> None:
    config = preset_config(generation, name, scale)
    network = without_weights(config)
    body = torch.empty(1, config.embed_dim, 9, 7, device="meta")

    output = network.conv_last(network.upsample(network.conv_before_upsample(body)))

    assert output.shape == (1, 3, 9 * scale, 7 * scale)


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (5, 3)], ids=str)
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("generation", [1, 2, 3])
def test_pictures_of_any_size_are_taken(generation: int, scale: int, size: tuple[int, int]) -> None:
    network = tiny_network(generation, scale=scale)

    output = network(natural_picture(*size, batch=2))

    assert output.shape == (2, 3, size[0] * scale, size[1] * scale)


@pytest.mark.parametrize("config", SELECTED_CONFIGS.values(), ids=SELECTED_CONFIGS.keys())
def test_a_gradient_reaches_every_parameter(config: NetworkConfig) -> None:
    network = randomised(build_network(config)).train()

    network(natural_picture(9, 8, channels=config.in_channels, batch=2)).square().mean().backward()

    assert [name for name, parameter in network.named_parameters() if not has_gradient(parameter)] == []


def has_gradient(parameter: Tensor) -> bool:
    """Whether an optimiser step would change it."""
    return parameter.grad is not None and bool(parameter.grad.isfinite().all()) and bool(parameter.grad.any())


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_training_with_autocast_works(generation: int) -> None:
    network = randomised(build_network(tiny_config(generation))).train()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network(natural_picture(batch=2)).float().mean()
    loss.backward()

    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_stochastic_depth_and_dropout_rest_in_evaluation(generation: int) -> None:
    plain = randomised(build_network(tiny_config(generation)))
    dropping = build_network(tiny_config(generation), drop_path=0.9, dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    picture = natural_picture()

    dropping.eval()

    torch.testing.assert_close(dropping(picture), plain(picture), rtol=0, atol=0)


@pytest.mark.parametrize("rates", [{"drop_path": 0.9}, {"dropout": 0.5}], ids=str)
@pytest.mark.parametrize("generation", [1, 2, 3])
def test_stochastic_depth_and_dropout_work_in_training(generation: int, rates: dict[str, float]) -> None:
    network = build_network(tiny_config(generation), **rates).train()
    picture = natural_picture(batch=8)

    assert not torch.equal(network(picture), network(picture))


def test_generation_1_centres_colour_but_not_grey() -> None:
    colour, grey = build_network(tiny_config(1)), build_network(tiny_config(1, in_channels=1))

    assert (float(colour.mean), float(grey.mean)) == (0.5, 0.0)


@pytest.mark.parametrize("generation", [2, 3])
def test_generations_2_and_3_centre_every_channel(generation: int) -> None:
    network = build_network(tiny_config(generation, in_channels=1))

    torch.testing.assert_close(network.state_dict()["mean"], torch.full((1, 1, 1, 1), 0.5))


def test_equal_configs_and_seeds_build_equal_networks() -> None:
    torch.manual_seed(1)
    first = build_network(tiny_config(2))
    torch.manual_seed(1)
    second = build_network(dataclasses.replace(tiny_config(2)))

    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
