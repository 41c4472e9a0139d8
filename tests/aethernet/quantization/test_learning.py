"""What may move while an int8 network learns, and that finishing puts everything where int8 files can hold it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aethernet.networks import AetherNet
from aethernet.quantization.learning import finished, start_learning
from aethernet.quantization.modules import Mode, QuantizedConv, Quantizer
from aethernet.quantization.post_training import quantize
from aethernet.quantization.scheme import ACTIVATION_MAX, half_precision, weight_scale
from aethernet.quantization.structure import convs_of, quantizers_of
from tests.support.pictures import natural_picture
from tests.support.quantization import Prepared, same_tensors, snapshot


@pytest.fixture
def learning(prepared: Prepared) -> AetherNet:
    return quantize(prepared.fused, pictures=prepared.pictures, freeze=False).model


def test_weights_biases_and_scales_may_move_each_once(learning: AetherNet) -> None:
    moving = {id(parameter) for parameter in start_learning(learning)}

    wanted = {id(quantizer.scale) for quantizer in quantizers_of(learning).values()}
    wanted |= {id(part) for _, conv in convs_of(learning) for part in (conv.weight, conv.bias)}
    wanted |= {
        id(module.bias) for module in learning.modules() if isinstance(module, nn.Conv2d) and module.bias is not None
    }
    assert moving == wanted
    assert len(start_learning(learning)) == len(moving)
    assert id(learning.get_parameter("conv_last.bias")) in moving
    assert id(learning.get_parameter("conv_last.weight")) not in moving


def test_every_one_of_them_gets_a_gradient(learning: AetherNet) -> None:
    moving = start_learning(learning)

    learning(natural_picture(20, 20)).square().mean().backward()

    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in moving)


def test_finishing_what_did_not_move_gives_what_quantising_gives(prepared: Prepared, learning: AetherNet) -> None:
    start_learning(learning)

    done = finished(learning)

    assert same_tensors(snapshot(done), snapshot(quantize(prepared.fused, pictures=prepared.pictures).model))
    assert not same_tensors(snapshot(done), snapshot(learning))  # the control: what learns is not on the grid


@torch.no_grad()
def test_finishing_what_moved_puts_it_on_the_grid_and_leaves_the_learning_network_alone(learning: AetherNet) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in start_learning(learning):
        parameter.mul_(1 + 0.1 * torch.rand(parameter.shape, generator=generator))
    moved = snapshot(learning)

    done = finished(learning)

    assert same_tensors(snapshot(learning), moved)
    for name, conv in convs_of(done):
        torch.testing.assert_close(conv.weight_scale, weight_scale(learning.get_submodule(name).weight), msg=name)
        steps = conv.weight / conv.weight_scale.view(-1, 1, 1, 1)
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0, msg=name)
        assert steps.abs().max() < ACTIVATION_MAX + 0.5
    for quantizer in quantizers_of(done).values():
        assert torch.equal(half_precision(quantizer.scale), quantizer.scale)
    modules = [module for module in done.modules() if isinstance(module, Quantizer | QuantizedConv)]
    assert {module.mode for module in modules} == {Mode.ON}
    assert not any(parameter.requires_grad for parameter in done.parameters())


@torch.no_grad()
def test_a_scale_that_learned_to_be_negative_becomes_the_smallest_there_is(learning: AetherNet) -> None:
    start_learning(learning)
    scale = quantizers_of(learning)["conv_after_body.output"].scale
    scale.fill_(-0.1)

    done = quantizers_of(finished(learning))["conv_after_body.output"].scale

    assert 0 < float(done) < 1e-5
