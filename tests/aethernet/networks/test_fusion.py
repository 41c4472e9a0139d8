"""Folding must not change the picture, for any network, in any precision it is used in."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from aethernet.errors import FusionError
from aethernet.networks import NetworkConfig, Norm, build_network
from aethernet.networks.blocks import AffineMap
from aethernet.networks.fusion import Foldable, fuse, merge_kernels
from tests.support.networks import (
    EVERY_CONFIG,
    ONE_OF_EACH_GENERATION,
    largest_difference,
    randomised,
    tiny_config,
    tiny_network,
)
from tests.support.pictures import natural_picture

every_config = pytest.mark.parametrize("config", EVERY_CONFIG.values(), ids=EVERY_CONFIG.keys())
each_generation = pytest.mark.parametrize("config", ONE_OF_EACH_GENERATION.values(), ids=ONE_OF_EACH_GENERATION.keys())

FLOAT64_TOLERANCE = 1e-10
FLOAT32_TOLERANCE = 1e-5


@every_config
def test_fused_network_gives_the_same_picture_in_float64(config: NetworkConfig) -> None:
    """With a range other than 1, where more has to be folded."""
    network = randomised(build_network(dataclasses.replace(config, image_range=2.0))).double()
    picture = natural_picture(channels=config.in_channels).double()

    fused = fuse(network)

    assert largest_difference(network, fused, picture) <= FLOAT64_TOLERANCE


@every_config
def test_fused_network_gives_the_same_picture_in_float32(config: NetworkConfig) -> None:
    network = randomised(build_network(config))
    picture = natural_picture(channels=config.in_channels)

    fused = fuse(network)

    assert largest_difference(network, fused, picture) <= FLOAT32_TOLERANCE


@pytest.mark.parametrize("image_range", [0.5, 1.0, 4.0])
@each_generation
def test_any_image_range_folds(config: NetworkConfig, image_range: float) -> None:
    network = randomised(build_network(dataclasses.replace(config, image_range=image_range))).double()

    fused = fuse(network)

    assert largest_difference(network, fused, natural_picture().double()) <= FLOAT64_TOLERANCE


@each_generation
def test_merged_network_gives_the_same_picture(config: NetworkConfig) -> None:
    network = randomised(build_network(config)).double()

    merged = merge_kernels(network)

    assert largest_difference(network, merged, natural_picture().double()) <= FLOAT64_TOLERANCE


@each_generation
def test_fusing_a_merged_network_gives_the_same_picture(config: NetworkConfig) -> None:
    network = randomised(build_network(config)).double()

    fused = fuse(merge_kernels(network))

    assert largest_difference(network, fused, natural_picture().double()) <= FLOAT64_TOLERANCE


@each_generation
def test_fusing_a_fused_network_changes_nothing(config: NetworkConfig) -> None:
    fused = fuse(randomised(build_network(config)))

    again = fuse(fused)

    torch.testing.assert_close(again.state_dict(), fused.state_dict(), rtol=0, atol=0)
    assert largest_difference(fused, again, natural_picture()) == 0


@pytest.mark.parametrize("kernels", [(5, 5), (5, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("generation", [1, 2, 3])
def test_any_pair_of_kernels_merges(generation: int, kernels: tuple[int, int]) -> None:
    network = tiny_network(generation, large_kernel=kernels[0], small_kernel=kernels[1]).double()

    assert largest_difference(network, fuse(network), natural_picture().double()) <= FLOAT64_TOLERANCE


@each_generation
def test_a_network_trained_with_stochastic_depth_and_dropout_fuses_to_the_same_picture(config: NetworkConfig) -> None:
    network = randomised(build_network(config, drop_path=0.5, dropout=0.5)).double()

    assert largest_difference(network, fuse(network), natural_picture().double()) <= FLOAT64_TOLERANCE


@each_generation
def test_the_input_network_is_left_alone(config: NetworkConfig) -> None:
    network = randomised(build_network(config)).train()
    before = copy.deepcopy(network.state_dict())

    fuse(network)
    merge_kernels(network)

    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


@each_generation
def test_the_result_is_in_evaluation_mode_and_not_trainable(config: NetworkConfig) -> None:
    fused = fuse(build_network(config).train())

    assert not any(module.training for module in fused.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())


@each_generation
def test_nothing_foldable_is_left(config: NetworkConfig) -> None:
    fused = fuse(build_network(config))

    assert not [name for name, module in fused.named_modules() if isinstance(module, Foldable)]


def test_generation_2_keeps_the_norm_before_its_zero_padded_convolution() -> None:
    fused = fuse(tiny_network(2))

    assert isinstance(fused.norm, AffineMap)


def test_generation_3_folds_its_body_norm() -> None:
    fused = fuse(tiny_network(3))

    assert isinstance(fused.norm, nn.Identity)


def test_layer_norms_stay_because_they_look_at_the_picture() -> None:
    fused = fuse(tiny_network(2, norm=Norm.LAYER))

    assert sum(isinstance(module, nn.LayerNorm) for module in fused.modules()) == 4  # three blocks and the body


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@each_generation
def test_the_type_of_the_weights_is_kept(config: NetworkConfig, dtype: torch.dtype) -> None:
    fused = fuse(randomised(build_network(config)).to(dtype))

    assert {tensor.dtype for tensor in fused.state_dict().values() if tensor.is_floating_point()} == {dtype}


@each_generation
def test_half_precision_is_rounded_once_after_folding(config: NetworkConfig) -> None:
    network = randomised(build_network(config)).half()

    fused = fuse(network)

    exact = fuse(copy.deepcopy(network).double()).half()
    torch.testing.assert_close(fused.state_dict(), exact.state_dict(), rtol=0, atol=0)


@each_generation
def test_one_changed_weight_breaks_the_equality(config: NetworkConfig) -> None:
    network = randomised(build_network(config))
    fused = fuse(network)

    fused.conv_first.weight.data[0, 0, 0, 0] += 0.01

    assert largest_difference(network, fused, natural_picture()) > 10 * FLOAT32_TOLERANCE


@each_generation
def test_every_single_tensor_matters_to_the_picture(config: NetworkConfig) -> None:
    """Else the proofs above would pass with that tensor folded wrongly or not at all."""
    network = randomised(build_network(config)).double()
    picture = natural_picture().double()

    original = copy.deepcopy(network)

    def change_caused_by(tensor: torch.Tensor) -> float:
        kept = tensor.clone()
        tensor.mul_(1.1).add_(0.01)
        change = largest_difference(original, network, picture)
        tensor.copy_(kept)
        return change

    floats = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    unused = [name for name, tensor in floats.items() if change_caused_by(tensor) <= FLOAT32_TOLERANCE]
    assert unused == []


def test_a_network_that_cannot_fold_is_refused() -> None:
    with pytest.raises(FusionError, match="Conv2d"):
        fuse(nn.Conv2d(1, 1, 1))


def test_a_network_that_folds_only_in_part_is_refused() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = build_network(tiny_config(2))

        def merge_(self) -> None:
            self.body.merge_()

        def fold_(self) -> None:
            pass

    with pytest.raises(FusionError, match=r"body\.stages\.0\.0\.ffn"):
        fuse(Forgetful())
