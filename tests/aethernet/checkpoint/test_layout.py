"""Tensors that are almost a network: what is wrong is named, nothing is guessed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from aethernet.checkpoint.aethernet import assemble
from aethernet.checkpoint.layout import infer_config, separate
from aethernet.errors import (
    CheckpointError,
    HalfFusedError,
    KeyMismatchError,
    UnknownNetworkError,
)
from aethernet.networks import FoldState, NetworkConfig, build_network
from aethernet.networks.fusion import fuse, merge_kernels
from tests.support.networks import SELECTED_CONFIGS, tiny_config, tiny_network


def tensors_of(generation: int = 2, **changes: Any) -> dict[str, Tensor]:
    """The training form's tensors by name."""
    return dict(tiny_network(generation, **changes).state_dict())


# --- which network ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [merge_kernels, fuse])
@pytest.mark.parametrize("config", SELECTED_CONFIGS.values(), ids=SELECTED_CONFIGS.keys())
def test_folded_networks_are_recognised_from_their_tensors(config: NetworkConfig, fold: Any) -> None:
    with torch.device("meta"):
        weights = fold(build_network(config)).state_dict()
    weights = {name: tensor for name, tensor in weights.items() if name not in ("scale", "scale_tensor")} | (
        {"scale_tensor": torch.tensor(config.scale)} if config.generation == 3 else {}
    )

    found, form, _ = infer_config(weights, {}, residual_scale=None)

    assert form is (FoldState.FUSED if fold is fuse else FoldState.MERGED)
    assert dataclasses.replace(found, small_kernel=3, residual_scale=config.residual_scale) == config


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("generation", [1, 2, 3])
def test_the_scale_is_read_from_the_upsampler(generation: int, scale: int) -> None:
    weights = tensors_of(generation, scale=scale)
    weights.pop("scale", None)

    assert infer_config(weights, {}, residual_scale=0.2 if generation == 3 else None)[0].scale == scale


def test_a_reconstruction_width_of_its_own_is_read() -> None:
    weights = tensors_of(2, reconstruction_channels=20)

    assert infer_config(weights, {}, residual_scale=None)[0].reconstruction_channels == 20


@pytest.mark.parametrize(
    "tensors",
    [
        {"body.0.weight": torch.ones(4, 3, 3, 3), "body.0.bias": torch.ones(4)},
        {"layers.0.residual_group.blocks.0.norm1.weight": torch.ones(4), "conv_first.weight": torch.ones(4, 3, 3, 3)},
        {"stages.0.blocks.0.conv.weight": torch.ones(4, 3, 3, 3)},
    ],
    ids=["compact", "swinir", "another with stages"],
)
def test_another_network_is_unknown(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(UnknownNetworkError, match="expected the tensors of an AetherNet") as caught:
        assemble(tensors, {})

    assert next(iter(sorted(tensors))) in str(caught.value)


@pytest.mark.parametrize("convolutions", [0, 7, 60])
def test_an_upsampler_of_no_known_scale_is_refused(convolutions: int) -> None:
    tensors = {name: tensor for name, tensor in tensors_of(2).items() if not name.startswith(("upsample.", "scale"))}
    tensors |= {f"upsample.blocks.{2 * index}.weight": torch.ones(64, 16, 3, 3) for index in range(convolutions)}

    with pytest.raises(UnknownNetworkError, match="cannot tell the scale"):
        assemble(tensors, {})


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("conv_first.weight", torch.tensor(1.0)),
        ("conv_first.weight", torch.ones(16)),
        ("conv_last.weight", torch.ones(3)),
        ("conv_last.weight", torch.ones(3, 0, 3, 3)),
        ("stages.0.0.conv.lk_conv.weight", torch.tensor(1.0)),
        ("stages.0.0.conv.lk_conv.weight", torch.ones(16, 1, 4, 4)),
        ("stages.0.0.ffn.conv_gate.weight", torch.tensor(1.0)),
        ("stages.0.0.ffn.conv_gate.weight", torch.ones(0, 16, 1, 1)),
        ("stages.2.5.conv.lk_conv.weight", torch.ones(16, 1, 7, 7)),
        ("stages.9.0.conv.lk_conv.weight", torch.ones(16, 1, 7, 7)),
        ("upsample.blocks.0.weight", torch.tensor(1.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else str(tuple(value.shape)),
)
def test_impossible_shapes_are_refused(name: str, tensor: Tensor) -> None:
    with pytest.raises(CheckpointError):
        assemble(tensors_of(2) | {name: tensor}, {})


# --- keys and shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_every_missing_tensor_is_noticed(generation: int) -> None:
    tensors = tensors_of(generation)

    # Without these the file is another network; a missing scale and mean are forgiven.
    telling = {"scale", "mean", "scale_tensor", "upsample.0.weight", "upsample.blocks.0.weight"}
    for name in tensors.keys() - telling:
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            assemble({other: tensor for other, tensor in tensors.items() if other != name}, {})


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_missing_and_unexpected_tensors_are_all_listed(generation: int) -> None:
    tensors = tensors_of(generation)
    del tensors["conv_after_body.bias"], tensors["conv_last.bias"]
    tensors |= {"zebra.weight": torch.ones(1), "antelope": torch.ones(1)}

    with pytest.raises(KeyMismatchError) as caught:
        assemble(tensors, {})

    assert caught.value.missing == ["conv_after_body.bias", "conv_last.bias"]
    assert caught.value.unexpected == ["antelope", "zebra.weight"]
    assert "2 missing: conv_after_body.bias, conv_last.bias" in str(caught.value)
    assert "2 unexpected: antelope, zebra.weight" in str(caught.value)


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes() -> None:
    tensors = tensors_of(2) | {"conv_after_body.weight": torch.ones(16, 16, 1, 1)}

    with pytest.raises(KeyMismatchError) as caught:
        assemble(tensors, {})

    assert caught.value.misshapen == ["conv_after_body.weight (expected (16, 16, 3, 3), found (16, 16, 1, 1))"]


@pytest.mark.parametrize(
    "value",
    [3, "text", None, [torch.ones(1)], torch.ones(2).to_sparse(), torch.ones(2, device="meta")],
    ids=["number", "text", "none", "list", "sparse", "without data"],
)
def test_what_is_no_plain_tensor_is_unexpected(value: Any) -> None:
    with pytest.raises(KeyMismatchError) as caught:
        assemble(tensors_of(2) | {"conv_first.note": value}, {})

    assert caught.value.unexpected == ["conv_first.note"]


@pytest.mark.parametrize("value", [(1, 2), (torch.ones(1), 2), (None, None), [torch.ones(1), None]], ids=str)
def test_packed_parameters_of_another_kind_are_unexpected(value: Any) -> None:
    name = "layers.0.0.ffn.fc2._packed_params._packed_params"

    with pytest.raises(KeyMismatchError) as caught:
        separate(tensors_of(1) | {name: value})

    assert caught.value.unexpected == [name]


# --- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_a_half_fused_network_is_refused_with_both_lists(generation: int) -> None:
    group = "layers" if generation == 1 else "stages"
    tensors = tensors_of(generation)
    merged = merge_kernels(tiny_network(generation)).state_dict()
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{group}.0.0.conv.")}
    tensors |= {name: tensor for name, tensor in merged.items() if name.startswith(f"{group}.0.0.conv.")}

    with pytest.raises(HalfFusedError) as caught:
        assemble(tensors, {})

    assert caught.value.fused == [f"{group}.0.0.conv.fused_conv.weight"]
    assert caught.value.unfused == [f"{group}.1.0.conv.lk_conv.weight", f"{group}.1.1.conv.lk_conv.weight"]


def test_a_half_folded_temperature_is_refused() -> None:
    tensors = dict(merge_kernels(tiny_network(2)).state_dict())
    del tensors["stages.1.0.ffn.temperature"]

    with pytest.raises(KeyMismatchError, match=r"stages\.1\.0\.ffn\.temperature"):
        assemble(tensors, {})


# --- the scale buffer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("generation", "name"), [(2, "scale"), (3, "scale_tensor")])
@pytest.mark.parametrize(
    "value",
    [torch.tensor(4), torch.tensor(2.5), torch.tensor(float("nan")), torch.tensor(float("inf")), torch.tensor([2, 2])],
    ids=str,
)
def test_a_scale_that_contradicts_the_shapes_is_refused(generation: int, name: str, value: Tensor) -> None:
    with pytest.raises(CheckpointError, match=f"the buffer '{name}' says .* the upsampler's shapes say 2") as caught:
        assemble(tensors_of(generation) | {name: value}, {})
    assert "put together from different networks" in caught.value.hint


@pytest.mark.parametrize("value", [torch.tensor(2.0), torch.tensor(2, dtype=torch.int32)], ids=str)
def test_a_scale_of_another_type_is_taken(value: Tensor) -> None:
    assert assemble(tensors_of(2) | {"scale": value}, {}).config.scale == 2


# --- quantisation records --------------------------------------------------------------------------------------------


def test_records_are_told_from_weights_by_their_names() -> None:
    entries = {
        "scale": torch.tensor(2),
        "conv_first.weight": torch.ones(1),
        "conv_first.weight_fake_quant.scale": torch.ones(1),
        "stages.0.0.ffn.quant_mul.activation_post_process.min_val": torch.ones(1),
        "quant.scale": torch.ones(1),
        "quant.zero_point": torch.zeros(1),
    }

    weights, records = separate(entries)

    assert set(weights) == {"scale", "conv_first.weight"}
    assert records is not None
    assert set(records.tensors) == entries.keys() - weights.keys()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_packed_weights_come_back_as_floats() -> None:
    weight = torch.tensor([[0.5, -0.25]])
    packed = torch.quantize_per_tensor(weight, 0.25, 0, torch.qint8)
    entries = {
        "fc._packed_params._packed_params": (packed, torch.tensor([1.0])),
        "fc._packed_params.dtype": torch.qint8,
        "fc.scale": torch.tensor(0.1),
        "fc.zero_point": torch.tensor(3),
        "conv.weight": packed,
    }

    weights, records = separate(entries)

    torch.testing.assert_close(
        weights, {"fc.weight": weight, "fc.bias": torch.tensor([1.0]), "conv.weight": weight}, rtol=0, atol=0
    )
    assert records is not None
    assert (records.origin, set(records.tensors)) == ("converted", {"fc.scale", "fc.zero_point"})


def test_a_custom_depth_is_read_from_the_names() -> None:
    config = tiny_config(2, depths=(2, 1, 3))

    assert infer_config(dict(build_network(config).state_dict()), {}, residual_scale=None)[0] == config


def test_more_blocks_than_tensors_are_refused_before_they_are_built() -> None:
    far = {f"stages.{at}.9999.x": torch.ones(1) for at in range(300)}

    with pytest.raises(UnknownNetworkError, match=r"blocks in \d+ tensors"):
        infer_config({**tiny_network(2).state_dict(), **far}, {}, residual_scale=None)
