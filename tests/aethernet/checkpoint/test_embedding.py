"""A checkpoint that brings its int8 network along: both come back, and neither is taken for another's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from aethernet.checkpoint import load, save_finetuned, save_pth, save_safetensors
from aethernet.checkpoint.embedding import PREFIX, weights_digest
from aethernet.cli.inspection import inspect_path
from aethernet.errors import CheckpointError, KeyMismatchError, NonFiniteWeightsError, QuantizationError
from aethernet.networks.fusion import fuse
from aethernet.quantization.finetuned import FinetunedInt8, FinetuningFacts
from aethernet.quantization.learning import from_finetuning
from aethernet.quantization.post_training import quantize
from aethernet.quantization.structure import quantizers_of
from tests.support.networks import ONE_OF_EACH_GENERATION, tiny_config, tiny_network
from tests.support.pictures import natural_picture

FACTS = FinetuningFacts(
    steps=3, pictures=2, pictures_sha256="0" * 64, psnr_before=40, psnr_after=41, tint_before=0.5, tint_after=0.25
)
PICTURES = [natural_picture(20, 20, seed=seed).numpy() for seed in range(2)]


def finetuned(network: Any) -> FinetunedInt8:
    """What fine-tuning of no steps would give."""
    made = quantize(fuse(network), pictures=PICTURES)
    return FinetunedInt8(model=made.model, slope=made.slope, facts=FACTS)


@pytest.fixture(scope="module", params=ONE_OF_EACH_GENERATION)
def of_each(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, FinetunedInt8, Path]:
    config = ONE_OF_EACH_GENERATION[request.param]
    network = tiny_network(
        config.generation, channel_attention=config.channel_attention, spatial_attention=config.spatial_attention
    )
    int8 = finetuned(network)
    return network, int8, save_finetuned(network, int8, tmp_path_factory.mktemp("qat") / "qat.safetensors")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of generation 2; look, don't touch."""
    network = tiny_network(2)
    return save_finetuned(network, finetuned(network), tmp_path_factory.mktemp("qat") / "qat.safetensors")


# --- both come back --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_both_networks_come_back_bit_for_bit(of_each: tuple[Any, FinetunedInt8, Path]) -> None:
    network, int8, path = of_each
    picture = natural_picture(14, 11, seed=5)

    loaded = load(path)

    assert not loaded.int8
    assert loaded.config == network.config
    assert torch.equal(loaded.model(picture), network(picture))
    assert loaded.finetuned is not None
    # One layout in memory: another one sums in another order, and int8 rounds what is near a half the other way.
    answers = [one.model.to(memory_format=torch.channels_last)(picture) for one in (loaded.finetuned, int8)]
    assert torch.equal(*answers)
    assert (loaded.finetuned.slope, loaded.finetuned.facts) == (int8.slope, FACTS)


def test_it_becomes_what_quantising_gives(of_each: tuple[Any, FinetunedInt8, Path]) -> None:
    network, int8, path = of_each
    loaded = load(path).finetuned
    assert loaded is not None

    made, calibrated = from_finetuning(loaded, fuse(network)), quantize(fuse(network), pictures=PICTURES)

    assert made.keep_float == calibrated.keep_float
    assert made.slope == calibrated.slope
    assert {one.name: one.scale for one in made.tensors} == {one.name: one.scale for one in calibrated.tensors}
    assert {one.source for one in made.tensors} == {"learned"}
    assert [one.name for one in made.tensors] == list(quantizers_of(int8.model))


def test_parts_the_spec_keeps_in_float_must_be_those_fine_tuning_kept() -> None:
    fused, kept = fuse(tiny_network(2)), ("conv_after_body",)
    made = quantize(fused, pictures=PICTURES, keep_float=kept)
    int8 = FinetunedInt8(model=made.model, slope=None, facts=FACTS)

    assert from_finetuning(int8, fused).keep_float == kept
    assert from_finetuning(int8, fused, keep_float=kept).keep_float == kept
    with pytest.raises(QuantizationError, match=r"expected conv_before_upsample to stay .* with conv_after_body in"):
        from_finetuning(int8, fused, keep_float=("conv_before_upsample",))


def test_equal_networks_give_equal_bytes(file: Path, tmp_path: Path) -> None:
    loaded = load(file)
    assert loaded.finetuned is not None

    again = save_finetuned(loaded.model, loaded.finetuned, tmp_path / "again.safetensors")

    assert again.read_bytes() == file.read_bytes()


def test_other_forms_made_from_it_hold_the_float_network_alone(file: Path, tmp_path: Path) -> None:
    loaded = load(file)

    for path in (
        save_safetensors(loaded.model, tmp_path / "a.safetensors"),
        save_pth(loaded.model, tmp_path / "a.pth"),
    ):
        assert load(path).finetuned is None
        assert not load(path).int8


def test_info_names_it(file: Path) -> None:
    told = inspect_path(file)["int8"]

    assert told["psnr_after"] == 41
    assert told["steps"] == 3
    assert inspect_path(file)["form"] == "training"


def test_a_plain_checkpoint_has_none(tmp_path: Path) -> None:
    path = save_safetensors(tiny_network(2), tmp_path / "plain.safetensors")

    assert load(path).finetuned is None
    assert inspect_path(path)["int8"] is None


# --- neither is taken for another's ----------------------------------------------------------------------------------


def changed(file: Path, target: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> Path:
    """The file with its tensors and our record of them changed."""
    with safe_open(file, framework="pt") as opened:
        description = json.loads(opened.metadata()["aethernet"])
    tensors = load_file(file)
    change(tensors, description)
    save_file(tensors, target, metadata={"aethernet": json.dumps(description)})
    return target


def one_weight_moves(tensors: dict[str, Tensor], _description: dict[str, Any]) -> None:
    tensors["conv_first.weight"][0, 0, 0, 0] += 1e-6


def the_record_is_lost(_tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    del description["quantized"]


def the_int8_tensors_are_lost(tensors: dict[str, Tensor], _description: dict[str, Any]) -> None:
    for name in [name for name in tensors if name.startswith(PREFIX)]:
        del tensors[name]


def the_facts_are_lost(_tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    del description["quantized"]["facts"]


def the_slope_is_a_word(_tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    description["quantized"]["slope"] = "steep"


def the_record_is_a_list(_tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    description["quantized"] = []


def the_int8_network_is_a_float_one(tensors: dict[str, Tensor], _description: dict[str, Any]) -> None:
    the_int8_tensors_are_lost(tensors, _description)
    tensors |= {f"{PREFIX}{name}": tensor for name, tensor in fuse(tiny_network(2)).state_dict().items()}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (one_weight_moves, "not made from the float weights beside it"),
        (the_record_is_lost, "found only its tensors"),
        (the_int8_tensors_are_lost, "found only the record"),
        (the_facts_are_lost, "fine-tuning is invalid"),
        (the_slope_is_a_word, "fine-tuning is invalid"),
        (the_record_is_a_list, "found only its tensors"),
        (the_int8_network_is_a_float_one, "found another network"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: Any, expected: str, file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=expected) as caught:
        load(changed(file, tmp_path / "changed.safetensors", change))

    assert "fine-tun" in caught.value.hint


def test_tensors_without_their_record_are_refused(file: Path, tmp_path: Path) -> None:
    torch.save(load_file(file), tmp_path / "converted.pth")

    with pytest.raises(CheckpointError, match="found only its tensors"):
        load(tmp_path / "converted.pth")


def a_scale_is_missing(tensors: dict[str, Tensor], _description: dict[str, Any]) -> None:
    del tensors[f"{PREFIX}conv_after_body.input.scale"]


def a_scale_is_infinite(tensors: dict[str, Tensor], _description: dict[str, Any]) -> None:
    tensors[f"{PREFIX}conv_after_body.input.scale"][0] = float("inf")


@pytest.mark.parametrize(
    ("change", "error"), [(a_scale_is_missing, KeyMismatchError), (a_scale_is_infinite, NonFiniteWeightsError)]
)
def test_a_damaged_int8_network_is_refused(change: Any, error: Any, file: Path, tmp_path: Path) -> None:
    with pytest.raises(error, match=r"conv_after_body\.input"):
        load(changed(file, tmp_path / "changed.safetensors", change))


def test_another_networks_int8_form_is_refused(file: Path, tmp_path: Path) -> None:
    other = tiny_network(2, hidden_channels=16)
    with safe_open(save_finetuned(other, finetuned(other), tmp_path / "other.safetensors"), framework="pt") as opened:
        foreign = json.loads(opened.metadata()["aethernet"])["quantized"]
        tensors = {name: opened.get_tensor(name) for name in opened.keys() if name.startswith(PREFIX)}  # noqa: SIM118

    def swap(own: dict[str, Tensor], description: dict[str, Any]) -> None:
        the_int8_tensors_are_lost(own, description)
        own |= tensors
        description["quantized"] = foreign | {"weights": description["quantized"]["weights"]}

    with pytest.raises(CheckpointError, match="another network"):
        load(changed(file, tmp_path / "changed.safetensors", swap))


def test_the_digest_knows_names_shapes_types_and_values() -> None:
    plain = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2)}
    others = [
        {"a": plain["a"].reshape(3, 2), "b": plain["b"]},
        {"a": plain["a"], "c": plain["b"]},
        {"a": plain["a"].double(), "b": plain["b"]},
        {"a": plain["a"] + 1e-6, "b": plain["b"]},
        {"a": plain["a"]},
    ]

    digests = [weights_digest(tensors) for tensors in (plain, *others)]

    assert len(set(digests)) == len(digests)
    assert weights_digest({"b": plain["b"], "a": plain["a"].t().contiguous().t()}) == digests[0]


def test_a_network_has_the_same_digest_before_and_after_saving(tmp_path: Path) -> None:
    network = tiny_network(3)
    path = save_safetensors(network, tmp_path / "net.safetensors")

    assert weights_digest(load(path).model.state_dict()) == weights_digest(network.state_dict())
    assert network.config == tiny_config(3)
