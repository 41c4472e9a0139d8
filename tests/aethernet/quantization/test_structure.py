"""The network that int8 runs computes, with its quantisers off, what the fused network computes."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from aethernet.errors import QuantizationError
from aethernet.networks import AetherNet, Norm
from aethernet.networks.fusion import fuse
from aethernet.quantization.modules import Mode, QuantizedConv, Quantizer, ResidualBlock, set_mode
from aethernet.quantization.structure import convs_of, gated_units, quantizers_of, restructure, units_of
from tests.support.networks import tiny_network
from tests.support.pictures import natural_picture
from tests.support.quantization import (
    BOTH,
    GENERATIONS,
    Prepared,
    decibels,
    fused_network,
    same_tensors,
    slopes_of,
    snapshot,
    with_sigmoid_for_gelu,
)

SLOPE = 1.7

CONFIGS: dict[str, tuple[int, dict[str, Any]]] = {f"gen1-x{scale}": (1, {"scale": scale}) for scale in (1, 2, 3, 4)} | {
    f"gen{generation}-{norm}-{'attention' if attention else 'plain'}-x{scale}": (
        generation,
        {"scale": scale, "norm": norm} | attention,
    )
    for generation, norm, attention, scale in itertools.product((2, 3), Norm, ({}, BOTH), (1, 2, 3, 4))
}
every_config = pytest.mark.parametrize(("generation", "changes"), CONFIGS.values(), ids=CONFIGS.keys())


@torch.no_grad()
def in_half_precision(network: AetherNet) -> AetherNet:
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().float())
    return network


@every_config
@torch.no_grad()
def test_quantisers_that_are_off_change_nothing(generation: int, changes: dict[str, Any]) -> None:
    fused = in_half_precision(fuse(tiny_network(generation, **changes)))
    picture = natural_picture(batch=2)

    network = restructure(fused, slopes=slopes_of(fused, SLOPE))

    with with_sigmoid_for_gelu(SLOPE):
        wanted = fused(picture)
    # Relative to the picture's range, and by no more than floats add up differently.
    torch.testing.assert_close(network(picture), wanted, rtol=0, atol=2e-5 * float(wanted.max() - wanted.min()))


@torch.no_grad()
def test_float_weights_are_rounded_to_half_precision_and_cost_little(prepared: Prepared) -> None:
    fused, picture = prepared.fused, natural_picture()

    network = restructure(fused, slopes=slopes_of(fused, SLOPE))

    with with_sigmoid_for_gelu(SLOPE):
        assert decibels(network(picture), fused(picture)) > 60
    for name in ("conv_first", "conv_last"):
        weight = getattr(network, name).weight
        assert torch.equal(weight, weight.half().float()), name
        assert not torch.equal(weight, getattr(fused, name).weight), name


@torch.no_grad()
def test_weights_that_are_quantised_keep_full_precision_until_then() -> None:
    fused = fused_network(2)

    network = restructure(fused)

    for name, conv in convs_of(network):
        assert torch.equal(conv.weight, fused.get_submodule(name).weight), name


@torch.no_grad()
def test_another_slope_gives_another_picture() -> None:
    """The control for generation 1."""
    fused, picture = fused_network(1), natural_picture()
    with with_sigmoid_for_gelu(SLOPE):
        wanted = fused(picture)

    assert decibels(restructure(fused, slopes=slopes_of(fused, SLOPE - 0.3))(picture), wanted) < 60


def test_units_come_in_the_order_they_run() -> None:
    assert units_of(fused_network(1, scale=4)) == [
        "layers.0.0.ffn",
        "layers.1.0.ffn",
        "layers.1.1.ffn",
        "conv_after_body",
        "conv_before_upsample",
        "upsample.0",
    ]
    assert units_of(fused_network(2, scale=4)) == [
        "stages.0.0.ffn",
        "stages.1.0.ffn",
        "stages.1.1.ffn",
        "quant_fusion_layer",
        "conv_after_body",
        "conv_before_upsample",
        "upsample.blocks.0",
    ]


def test_only_generation_1_has_gates_with_gelu(prepared: Prepared) -> None:
    units = gated_units(prepared.fused)

    assert bool(units) == (prepared.generation == 1)
    assert set(units) <= set(units_of(prepared.fused))


@pytest.mark.parametrize("attention", [False, True])
def test_a_block_without_attention_becomes_one_with_channels_last(attention: bool) -> None:
    fused = fuse(tiny_network(2, **(BOTH if attention else {})))

    blocks = [module for module in restructure(fused).modules() if isinstance(module, ResidualBlock)]

    assert len(blocks) == (0 if attention else 3)


@pytest.mark.parametrize(
    "name", ["gen1-x1", "gen1-x4", "gen2-layer-plain-x1", "gen2-deployment-attention-x4", "gen3-layer-plain-x4"]
)
def test_everything_but_the_first_and_the_last_convolution_is_quantised(name: str) -> None:
    generation, changes = CONFIGS[name]
    fused = fuse(tiny_network(generation, **changes))

    network = restructure(fused)

    left = {
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "fused_conv" not in name and "_attn" not in name
    }
    upsampling = [name for name, module in fused.named_modules() if "upsample." in name and type(module) is nn.Conv2d]
    assert left <= {"conv_first", "conv_last", *upsampling[-1:]}
    # Three in each of three gates, those of two shares and their fusion, two before the upsampler, its own.
    tail = sum(unit.startswith("upsample") for unit in units_of(fused))
    assert len(list(convs_of(network))) == 3 * 3 + (0 if generation == 1 else 3) + 2 + tail


@pytest.mark.parametrize(("scale", "quantised"), [(1, 0), (2, 0), (3, 0), (4, 1), (8, 2)])
def test_the_upsamplers_last_convolution_is_left_to_be_merged(scale: int, quantised: int) -> None:
    network = restructure(fused_network(2, scale=scale))

    layers = [module for module in network.upsample.modules() if isinstance(module, nn.Conv2d | QuantizedConv)]
    assert [type(layer) for layer in layers] == [QuantizedConv] * quantised + [nn.Conv2d]
    assert type(network.conv_last) is nn.Conv2d


@pytest.mark.parametrize("generation", GENERATIONS)
@torch.no_grad()
def test_each_part_can_be_kept_float(generation: int) -> None:
    fused = in_half_precision(fused_network(generation, scale=4, depths=(1, 1)))
    picture = natural_picture()
    parts = {"quant_fusion_layer": ("quant_fusion_layer", "fusion_convs")}
    names = dict(restructure(fused).named_modules())
    for unit in units_of(fused):
        network = restructure(fused, keep_float=[unit], slopes=slopes_of(fused, SLOPE))

        quantised = {name for name, _ in convs_of(network)}
        kept = parts.get(unit, (unit,))
        assert not [name for name in quantised if name.startswith(kept)], unit
        others = {name for name, module in names.items() if isinstance(module, QuantizedConv)}
        assert quantised == {name for name in others if not name.startswith(kept)}, unit
        # No convolution that is quantised lacks an input on the grid, whatever its neighbours do.
        reached = inputs_on_grids(network, picture)
        assert all(reached.values()), (unit, reached)


def inputs_on_grids(network: AetherNet, picture: torch.Tensor) -> dict[str, bool]:
    """Whether what each quantised convolution multiplies has at most 256 different values."""
    for quantizer in quantizers_of(network).values():
        quantizer.scale.data.fill_(0.05)
    set_mode(network, Mode.ON)
    found: dict[str, bool] = {}

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            levels = module.input(inputs[0]) / 0.05
            found[name] = bool((levels - levels.round()).abs().max() < 1e-3 and levels.abs().max() < 128.01)

        return hook

    handles = [conv.register_forward_pre_hook(look(name)) for name, conv in convs_of(network)]
    network(picture)
    for handle in handles:
        handle.remove()
    assert len(found) == len(handles)
    return found


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("generation", GENERATIONS)
@torch.no_grad()
def test_parts_kept_float_compute_what_they_computed(generation: int, scale: int) -> None:
    fused = in_half_precision(fused_network(generation, scale=scale, depths=(1, 1)))
    picture = natural_picture()
    units = units_of(fused)
    for keep in (units[::2], units[1::2], units[:-1], units[1:]):
        # A gate of generation 1 that stays float keeps its exact GELU; the others have the sigmoid. With GELU replaced
        # everywhere both are the same.
        network = restructure(fused, keep_float=keep, slopes=slopes_of(fused, SLOPE))
        with with_sigmoid_for_gelu(SLOPE):
            wanted, answer = fused(picture), network(picture)
        torch.testing.assert_close(answer, wanted, rtol=0, atol=2e-5 * float(wanted.max() - wanted.min()))


def test_an_unknown_part_is_an_error_that_names_the_known_ones(prepared: Prepared) -> None:
    with pytest.raises(QuantizationError, match=r"conv_lost, ffn\.9") as caught:
        restructure(prepared.fused, keep_float=["ffn.9", "conv_after_body", "conv_lost"])

    assert [unit for unit in units_of(prepared.fused) if unit not in caught.value.hint] == []


def test_keeping_everything_is_an_error(prepared: Prepared) -> None:
    with pytest.raises(QuantizationError, match="nothing is quantised"):
        restructure(prepared.fused, keep_float=units_of(prepared.fused))


def test_the_given_network_is_left_untouched(prepared: Prepared) -> None:
    before, modules = snapshot(prepared.fused), [name for name, _ in prepared.fused.named_modules()]

    network = restructure(prepared.fused)
    for parameter in network.parameters():
        parameter.data.fill_(7.0)

    assert same_tensors(snapshot(prepared.fused), before)
    assert [name for name, _ in prepared.fused.named_modules()] == modules


@pytest.mark.parametrize("generation", [2, 3])
def test_shares_of_the_stages_leave_on_the_grid_of_the_fusion(generation: int) -> None:
    network = restructure(fused_network(generation))

    shared = network.quant_fusion_layer.fusion_conv.input.scale
    assert [share.output.scale is shared for share in network.fusion_convs] == [True, True]
    names = quantizers_of(network)
    assert "quant_fusion_layer.fusion_conv.input" in names
    assert not [name for name in names if name.startswith("fusion_convs.") and name.endswith(".output")]


def test_a_single_share_goes_to_the_fusion_as_it_is() -> None:
    network = restructure(fused_network(2, depths=(1,)))

    assert isinstance(network.quant_fusion_layer.fusion_conv.input, nn.Identity)
    assert "fusion_convs.0.output" in quantizers_of(network)


@pytest.mark.parametrize(("generation", "tail"), [(1, "upsample"), (2, "upsample.blocks"), (3, "upsample.blocks")])
def test_a_shuffle_between_convolutions_keeps_the_grid(generation: int, tail: str) -> None:
    layers = restructure(fused_network(generation, scale=8)).get_submodule(tail)

    # Behind the second of them comes the convolution that is merged, in float.
    assert [name for name, _ in layers.named_children()] == ["0", "1", "1_regrid", "2", "3", "4", "5"]
    regrid = layers.get_submodule("1_regrid")
    assert isinstance(regrid, Quantizer)
    assert regrid.scale is layers[0].output.scale
    assert isinstance(layers.get_submodule("2").input, nn.Identity)


@pytest.mark.parametrize(("scale", "quantised"), [(1, False), (2, False), (3, False), (4, True)])
def test_the_activation_before_the_upsampler_has_a_quantiser_only_where_an_integer_convolution_reads_it(
    scale: int, quantised: bool
) -> None:
    assert ("conv_before_upsample.2" in quantizers_of(restructure(fused_network(2, scale=scale)))) == quantised


def test_scales_stay_shared_in_a_copy() -> None:
    network = copy.deepcopy(restructure(fused_network(2, scale=8)))

    assert network.upsample.blocks.get_submodule("1_regrid").scale is network.upsample.blocks[0].output.scale
    assert network.fusion_convs[1].output.scale is network.quant_fusion_layer.fusion_conv.input.scale
