"""After bias correction the quantised network's picture has the mean of the float one's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from aethernet.networks import AetherNet
from aethernet.quantization.calibration import as_input, choose_range, watch
from aethernet.quantization.correction import correct_biases, source_name
from aethernet.quantization.modules import Mode, QuantizedConv, set_mode
from aethernet.quantization.structure import convs_of, quantizers_of, restructure
from tests.support.quantization import Prepared, same_tensors, slopes_of, snapshot

SLOPE = 1.7


@pytest.fixture(scope="module")
def crops(prepared: Prepared) -> Tensor:
    return as_input(np.concatenate(prepared.pictures))


@pytest.fixture(scope="module")
def coarse(prepared: Prepared) -> AetherNet:
    """On coarse grids, four bits or so, so that means shift visibly."""
    network = restructure(prepared.fused, slopes=slopes_of(prepared.fused, SLOPE))
    quantizers = quantizers_of(network)
    seen = watch(network, quantizers, prepared.pictures)
    for name, quantizer in quantizers.items():
        quantizer.scale.data.fill_(16 * choose_range(seen[name]).scale)
    set_mode(network, Mode.ON)
    return network


@pytest.fixture
def quantised(coarse: AetherNet) -> AetherNet:
    """A fresh copy of :func:`coarse`, for biases are corrected in place."""
    return copy.deepcopy(coarse)


def largest_tint(network: AetherNet, fused: AetherNet, crops: Tensor) -> float:
    with torch.no_grad():
        return float((network(crops) - fused(crops)).mean(dim=(0, 2, 3)).abs().max())


def test_every_channel_of_the_picture_has_the_mean_of_the_float_one(
    prepared: Prepared, quantised: AetherNet, crops: Tensor
) -> None:
    before = largest_tint(quantised, prepared.fused, crops)

    tint = correct_biases(quantised, prepared.fused, crops, slopes_of(prepared.fused, SLOPE))

    assert before > 3e-3
    assert largest_tint(quantised, prepared.fused, crops) < 1e-5
    assert tint >= 0


@torch.no_grad()
def test_every_quantised_layer_has_the_mean_of_the_float_one(
    prepared: Prepared, quantised: AetherNet, crops: Tensor
) -> None:
    slopes = slopes_of(prepared.fused, SLOPE)
    correct_biases(quantised, prepared.fused, crops, slopes)
    means: dict[tuple[str, str], Tensor] = {}
    for name, conv in convs_of(quantised):
        source = prepared.fused.get_submodule(source_name(name, prepared.generation))
        linear = isinstance(source, torch.nn.Linear)

        def before_output(module: QuantizedConv, inputs: tuple[Tensor], _output: Tensor, name: str = name) -> None:
            means["quantised", name] = module.before_output(module.input(inputs[0])).mean(dim=(0, 2, 3))

        def plain(_m: object, _i: object, output: Tensor, name: str = name, linear: bool = linear) -> None:
            gain = SLOPE if linear and name.endswith("conv_gate") else 1.0
            means["float", name] = gain * output.mean(dim=(0, 1, 2) if linear else (0, 2, 3))

        conv.register_forward_hook(before_output)
        source.register_forward_hook(plain)
    try:
        quantised(crops)
        prepared.fused(crops)
    finally:
        for module in prepared.fused.modules():
            module._forward_hooks.clear()

    for name, _ in convs_of(quantised):
        torch.testing.assert_close(means["quantised", name], means["float", name], rtol=0, atol=1e-3, msg=name)


def test_nothing_but_biases_changes(prepared: Prepared, quantised: AetherNet, crops: Tensor) -> None:
    before = snapshot(quantised)

    correct_biases(quantised, prepared.fused, crops, slopes_of(prepared.fused, SLOPE))

    changed = {name for name, tensor in snapshot(quantised).items() if not torch.equal(tensor, before[name])}
    assert changed
    assert {name for name in changed if not name.endswith(".bias")} == set()
    assert changed <= {f"{name}.bias" for name, _ in convs_of(quantised)} | {"conv_last.bias"}


def test_the_float_network_is_left_untouched_and_no_hooks_stay(
    prepared: Prepared, quantised: AetherNet, crops: Tensor
) -> None:
    before = snapshot(prepared.fused)

    correct_biases(quantised, prepared.fused, crops, slopes_of(prepared.fused, SLOPE))

    assert same_tensors(snapshot(prepared.fused), before)
    hooked = [
        module for network in (prepared.fused, quantised) for module in network.modules() if module._forward_hooks
    ]
    assert hooked == []


def test_layers_of_generation_1_are_found_under_their_old_names() -> None:
    unit = "layers.0.0.ffn"

    names = [source_name(f"{unit}.{child}", 1) for child in ("conv_gate", "conv_main", "conv_out")]

    assert names == [f"{unit}.fc1_gate", f"{unit}.fc1_main", f"{unit}.fc2"]
    assert source_name("upsample.0", 1) == "upsample.0"
    assert source_name("stages.0.0.ffn.conv_gate", 2) == "stages.0.0.ffn.conv_gate"
