"""Every wrapper, prefix, file format and precision a trainer may have used gives the same network."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from aethernet.checkpoint import load, save_pth, save_safetensors
from aethernet.checkpoint.format import METADATA_KEY
from aethernet.checkpoint.loading import hold_same_tensors
from aethernet.checkpoint.saving import config_metadata
from aethernet.errors import (
    CheckpointError,
    KeyMismatchError,
    NonFiniteWeightsError,
    SpecMismatchError,
    UsageError,
)
from aethernet.networks import FoldState, Norm, build_network
from aethernet.networks.fusion import fuse, merge_kernels
from tests.support.networks import (
    FILES,
    ONE_OF_EACH_GENERATION,
    SELECTED_CONFIGS,
    WRAPPERS,
    largest_difference,
    randomised,
    tiny_config,
    tiny_network,
)
from tests.support.pictures import natural_picture

each_generation = pytest.mark.parametrize("config", ONE_OF_EACH_GENERATION.values(), ids=ONE_OF_EACH_GENERATION.keys())
RESIDUAL_SCALE = {1: None, 2: None, 3: 0.2}  # what has to be stated for the tiny networks
TORCH_FILES = {kind: write for kind, write in FILES.items() if not kind.endswith(".safetensors")}


def written(folder: Path, content: Mapping[str, Any], kind: str = "zip.pth") -> Path:
    """The path of a new file."""
    path = folder / kind
    FILES[kind](content, path)
    return path


# --- shapes of files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TORCH_FILES)
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_every_wrapper_in_every_torch_file_loads(tmp_path: Path, wrap: Any, kind: str) -> None:
    network = tiny_network(2)

    loaded = load(written(tmp_path, wrap(network.state_dict()), kind))

    assert largest_difference(network, loaded.model, natural_picture()) == 0


@pytest.mark.parametrize("config", SELECTED_CONFIGS.values(), ids=SELECTED_CONFIGS.keys())
def test_every_network_is_recognised_from_its_tensors_alone(tmp_path: Path, config: Any) -> None:
    network = build_network(config)
    path = written(tmp_path, network.state_dict(), "bare.safetensors")

    loaded = load(path, residual_scale=RESIDUAL_SCALE[config.generation])

    assert (loaded.config, loaded.form) == (config, FoldState.TRAINING)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["zip.pth", "legacy.pth", "bare.safetensors"])
@each_generation
def test_other_precisions_load_as_float32(tmp_path: Path, config: Any, kind: str, dtype: torch.dtype) -> None:
    network = randomised(build_network(config)).to(dtype)

    loaded = load(written(tmp_path, network.state_dict(), kind), residual_scale=RESIDUAL_SCALE[config.generation])

    assert loaded.stored_dtype == str(dtype).removeprefix("torch.")
    assert {tensor.dtype for tensor in loaded.model.parameters()} == {torch.float32}
    expected = copy.deepcopy(network).float()
    assert largest_difference(expected, loaded.model, natural_picture()) <= 1e-6


def test_mixed_precisions_are_named(tmp_path: Path) -> None:
    tensors = tiny_network(2).state_dict()
    tensors["conv_last.weight"] = tensors["conv_last.weight"].half()

    assert load(written(tmp_path, tensors)).stored_dtype == "float16+float32"


@pytest.mark.parametrize("form", [merge_kernels, fuse])
@each_generation
def test_folded_files_without_metadata_are_recognised(tmp_path: Path, config: Any, form: Any) -> None:
    network = form(randomised(build_network(config)))
    path = written(tmp_path, network.state_dict())

    loaded = load(path, residual_scale=0.2 if (config.generation, form) == (3, merge_kernels) else None)

    assert loaded.form is (FoldState.FUSED if form is fuse else FoldState.MERGED)
    assert loaded.config.small_kernel is None
    assert largest_difference(network, loaded.model, natural_picture()) == 0


def test_generation_2_may_come_without_its_scale_and_mean(tmp_path: Path) -> None:
    network = tiny_network(2)
    tensors = {name: tensor for name, tensor in network.state_dict().items() if name not in ("scale", "mean")}

    loaded = load(written(tmp_path, tensors))

    assert loaded.config.scale == 2
    assert largest_difference(network, loaded.model, natural_picture()) == 0


def test_unused_running_statistics_beside_merged_kernels_are_set_aside(tmp_path: Path) -> None:
    network = tiny_network(2)
    merged = merge_kernels(network)
    leftover = {name: tensor for name, tensor in network.state_dict().items() if "running_" in name}

    loaded = load(written(tmp_path, merged.state_dict() | leftover))

    assert set(loaded.set_aside) == set(leftover)
    assert largest_difference(merged, loaded.model, natural_picture()) == 0


def test_running_statistics_beside_merged_kernels_of_generation_3_are_still_used(tmp_path: Path) -> None:
    network = tiny_network(3)
    kernels = {name: tensor for name, tensor in merge_kernels(network).state_dict().items() if ".conv.fused_" in name}
    others = {name: tensor for name, tensor in network.state_dict().items() if ".conv." not in name}

    loaded = load(written(tmp_path, kernels | others), residual_scale=0.2)

    assert loaded.form is FoldState.MERGED
    assert largest_difference(network, loaded.model, natural_picture()) <= 1e-5


def test_what_is_loaded_is_ready_for_use(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, tiny_network(2).state_dict()))

    assert not any(module.training for module in loaded.model.modules())
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.notes == ()
    assert loaded.quantization is None


@pytest.mark.parametrize(("kind", "expected"), [("zip.pth", "pytorch"), ("bare.safetensors", "safetensors")])
def test_the_kind_of_file_is_told(tmp_path: Path, kind: str, expected: str) -> None:
    assert load(written(tmp_path, tiny_network(2).state_dict(), kind)).format == expected


def test_files_with_the_same_tensors_are_known_whatever_their_format(tmp_path: Path) -> None:
    network = fuse(tiny_network(2))
    files = [save_safetensors(network, tmp_path / "net.safetensors"), save_pth(network, tmp_path / "net.pth")]

    assert hold_same_tensors(files)


def test_files_that_differ_in_one_weight_are_told_apart(tmp_path: Path) -> None:
    network = fuse(tiny_network(2))
    first = save_safetensors(network, tmp_path / "net.safetensors")
    network.conv_last.bias[0] += 1e-6

    assert not hold_same_tensors([first, save_pth(network, tmp_path / "net.pth")])


# --- what a caller expects -------------------------------------------------------------------------------------------


def test_a_fulfilled_expectation_passes(tmp_path: Path) -> None:
    path = written(tmp_path, tiny_network(2).state_dict())

    config = load(path, expect={"generation": 2, "scale": 2, "depths": (1, 2), "preset": "custom"}).config

    assert config.scale == 2


def test_every_unfulfilled_expectation_is_listed(tmp_path: Path) -> None:
    path = written(tmp_path, tiny_network(2).state_dict())

    with pytest.raises(SpecMismatchError) as caught:
        load(path, expect={"scale": 4, "embed_dim": 16, "depths": [3, 3], "preset": "small"})

    assert "scale: expected 4, found 2" in str(caught.value)
    assert "depths: expected [3, 3], found [1, 2]" in str(caught.value)
    assert "preset: expected small, found custom" in str(caught.value)
    assert "embed_dim" not in str(caught.value)


def test_an_expectation_about_no_field_is_misuse(tmp_path: Path) -> None:
    path = written(tmp_path, tiny_network(2).state_dict())

    with pytest.raises(UsageError, match="no such network field: width") as caught:
        load(path, expect={"width": 16})
    assert "embed_dim" in caught.value.hint


# --- generation 3's residual scale -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "depths", "guess"),
    [(64, (2, 2, 2, 2), 0.2), (64, (3, 3, 3), 0.2), (64, (3, 3), 0.1), (16, (1, 2), 0.1), (96, (4, 4, 4, 4), 0.1)],
)
def test_an_unrecorded_residual_scale_is_guessed_from_the_preset_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, width: int, depths: tuple[int, ...], guess: float
) -> None:
    config = tiny_config(3, embed_dim=width, depths=depths, hidden_channels=8, large_kernel=3)
    path = written(tmp_path, build_network(config).state_dict())

    with caplog.at_level(logging.WARNING):
        loaded = load(path)

    assert loaded.config.residual_scale == guess
    assert f"{guess} was assumed" in loaded.notes[0]
    assert "does not record its residual scale" in caplog.text


def test_a_stated_residual_scale_is_taken_without_a_note(tmp_path: Path) -> None:
    network = tiny_network(3, residual_scale=0.35)

    loaded = load(written(tmp_path, network.state_dict()), residual_scale=0.35)

    assert loaded.notes == ()
    assert largest_difference(network, loaded.model, natural_picture()) == 0


def test_a_recorded_residual_scale_is_taken_without_a_note(tmp_path: Path) -> None:
    network = tiny_network(3, residual_scale=0.35)
    content = {"state_dict": network.state_dict(), "metadata": {"arch_config": {"res_scale": 0.35}}}

    loaded = load(written(tmp_path, content))

    assert loaded.notes == ()
    assert largest_difference(network, loaded.model, natural_picture()) == 0


def test_the_statement_may_not_contradict_the_record(tmp_path: Path) -> None:
    content = {"state_dict": tiny_network(3).state_dict(), "metadata": {"arch_config": {"res_scale": 0.2}}}

    with pytest.raises(SpecMismatchError, match=r"records a residual scale of 0\.2, the spec says 0\.1"):
        load(written(tmp_path, content), residual_scale=0.1)


def test_a_folded_residual_scale_cannot_be_stated(tmp_path: Path) -> None:
    path = written(tmp_path, fuse(tiny_network(3)).state_dict())

    with pytest.raises(SpecMismatchError, match="already folded"):
        load(path, residual_scale=0.1)


def test_generation_2_has_no_residual_scale_to_state(tmp_path: Path) -> None:
    path = written(tmp_path, tiny_network(2).state_dict())

    with pytest.raises(SpecMismatchError, match="generation 2 has none"):
        load(path, residual_scale=0.1)


# --- metadata that contradicts the tensors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stated",
    [
        {"embed_dim": 32},
        {"depths": [2, 2]},
        {"depths": 3},
        {"depths": ["one", "two"]},
        {"scale": 4},
        {"scale": "2"},
        {"in_chans": 1},
        {"lk_kernel": 13},
        {"use_channel_attn": True},
        {"use_spatial_attn": True},
        {"scale": torch.ones(3)},
    ],
    ids=str,
)
def test_an_arch_config_that_contradicts_the_tensors_is_refused(tmp_path: Path, stated: dict[str, Any]) -> None:
    content = {"state_dict": tiny_network(3).state_dict(), "metadata": {"arch_config": stated}}

    with pytest.raises(SpecMismatchError, match=f"arch_config says {next(iter(stated))}"):
        load(written(tmp_path, content))


@pytest.mark.parametrize("name", ["res_scale", "img_range"])
@pytest.mark.parametrize("value", [0, -0.1, "much", float("nan"), float("inf"), [0.1], torch.ones(2)], ids=str)
def test_an_arch_config_with_an_impossible_number_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    content = {"state_dict": tiny_network(3).state_dict(), "metadata": {"arch_config": {name: value}}}

    with pytest.raises(CheckpointError, match=f"expected a positive number as the file's {name}"):
        load(written(tmp_path, content))


@pytest.mark.parametrize("metadata", ["a text", 3, {"arch_config": "a text"}, {"arch_config": None}, {}], ids=str)
def test_metadata_of_another_kind_is_passed_over(tmp_path: Path, metadata: Any) -> None:
    content = {"state_dict": tiny_network(2).state_dict(), "metadata": metadata}

    assert load(written(tmp_path, content)).form is FoldState.TRAINING


def test_an_image_range_in_the_arch_config_is_used(tmp_path: Path) -> None:
    network = tiny_network(3, image_range=2.0)
    content = {"state_dict": network.state_dict(), "metadata": {"arch_config": {"img_range": 2.0, "res_scale": 0.2}}}

    loaded = load(written(tmp_path, content))

    assert largest_difference(network, loaded.model, natural_picture()) == 0


def test_our_own_record_is_taken_where_tensors_cannot_tell(tmp_path: Path) -> None:
    network = tiny_network(2, residual_scale=0.5, norm_eps=1e-3, image_range=2.0)

    loaded = load(save_safetensors(network, tmp_path / "net.safetensors"))

    assert loaded.config == network.config
    assert largest_difference(network, loaded.model, natural_picture()) == 0


def with_record(folder: Path, description: str) -> Path:
    """A file whose own record was tampered with."""
    path = folder / "net.safetensors"
    save_file(tiny_network(2).state_dict(), path, metadata={METADATA_KEY: description})
    return path


def changed_record(part: str, **changes: Any) -> str:
    """Our record of :func:`tiny_network` with changes to one part of it."""
    record = json.loads(config_metadata(tiny_network(2))[METADATA_KEY])
    return json.dumps(record | {part: record[part] | changes})


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"network": 3}', "[" * 100_000], ids=lambda text: text[:9])
def test_a_record_that_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match="aethernet metadata"):
        load(with_record(tmp_path, text))


@pytest.mark.parametrize("changes", [{"colour": "red"}, {"norm": "group"}, {"depths": 2}, {"scale": "2"}], ids=str)
def test_a_record_that_is_no_config_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        load(with_record(tmp_path, changed_record("network", **changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dim": 32},
        {"depths": [2, 2]},
        {"scale": 4},
        {"channel_attention": True},
        {"norm": Norm.LAYER.value},
        {"reconstruction_channels": 40},
        {"large_kernel": 9},
    ],
    ids=str,
)
def test_a_record_that_contradicts_the_tensors_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(SpecMismatchError, match=f"disagree on {next(iter(changes))}"):
        load(with_record(tmp_path, changed_record("network", **changes)))


def test_a_record_of_another_form_is_refused(tmp_path: Path) -> None:
    record = json.loads(config_metadata(tiny_network(2))[METADATA_KEY]) | {"form": "fused"}

    with pytest.raises(SpecMismatchError, match="disagree on form"):
        load(with_record(tmp_path, json.dumps(record)))


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("kind", FILES)
def test_weights_that_are_not_finite_are_named(tmp_path: Path, kind: str, value: float) -> None:
    tensors = {name: tensor.clone() for name, tensor in tiny_network(2).state_dict().items()}
    tensors["conv_last.bias"][1] = value
    tensors["stages.1.0.ffn.conv_out.weight"][0, 0] = value

    with pytest.raises(NonFiniteWeightsError) as caught:
        load(written(tmp_path, tensors, kind))

    assert caught.value.names == ["conv_last.bias", "stages.1.0.ffn.conv_out.weight"]


def quantised(generation: int) -> dict[str, Tensor]:
    """Tensors of quantisation-aware training; one observer never saw data."""
    never = torch.tensor(float("inf"))
    return dict(tiny_network(generation).state_dict()) | {
        "conv_first.weight_fake_quant.scale": torch.full((16,), 0.01),
        "conv_first.weight_fake_quant.zero_point": torch.zeros(16, dtype=torch.int32),
        "conv_first.weight_fake_quant.fake_quant_enabled": torch.ones(1, dtype=torch.uint8),
        "conv_first.activation_post_process.activation_post_process.min_val": never,
        "conv_first.activation_post_process.activation_post_process.max_val": -never,
        "quant.activation_post_process.min_val": torch.tensor(0.0),
        "quant.activation_post_process.max_val": torch.tensor(1.0),
    }


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_infinite_quantisation_records_are_accepted_and_kept(tmp_path: Path, generation: int) -> None:
    tensors = quantised(generation)
    records = set(tensors) - set(tiny_network(generation).state_dict())

    loaded = load(written(tmp_path, tensors))

    assert loaded.quantization is not None
    assert loaded.quantization.origin == "qat"
    assert set(loaded.quantization.tensors) == records


def test_error_comp_of_quantised_generation_3_is_left_out_and_kept_aside(tmp_path: Path) -> None:
    tensors = quantised(3)

    loaded = load(written(tmp_path, tensors), residual_scale=0.2)

    without = tiny_network(3)
    without.quant_fusion_layer.error_comp.data.zero_()
    assert largest_difference(without, loaded.model, natural_picture()) == 0
    torch.testing.assert_close(
        loaded.set_aside, {"quant_fusion_layer.error_comp": tensors["quant_fusion_layer.error_comp"]}
    )
    assert any("error_comp" in note for note in loaded.notes)


def test_integers_in_the_place_of_weights_are_refused(tmp_path: Path) -> None:
    tensors = tiny_network(2).state_dict()
    tensors["conv_last.weight"] = torch.ones(3, 32, 3, 3, dtype=torch.int8)

    with pytest.raises(KeyMismatchError) as caught:
        load(written(tmp_path, tensors))

    assert caught.value.misshapen == ["conv_last.weight (expected floating point, found int8)"]
