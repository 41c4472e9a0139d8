"""Saved files come back the same, byte for byte and pixel for pixel, and open in the strictest loaders."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from aethernet.artifact import file_digest
from aethernet.checkpoint import load, save_pth, save_safetensors
from aethernet.checkpoint.format import METADATA_KEY
from aethernet.errors import StoreError
from aethernet.networks import AetherNet, FoldState, NetworkConfig, build_network
from aethernet.networks.fusion import fuse, merge_kernels
from aethernet.networks.network import form_of
from tests.support.networks import (
    ONE_OF_EACH_GENERATION,
    SELECTED_CONFIGS,
    largest_difference,
    randomised,
    tiny_network,
)
from tests.support.pictures import natural_picture

Save = Callable[..., Path]
Fold = Callable[[AetherNet], AetherNet]


def as_trained(network: AetherNet) -> AetherNet:
    """The training form."""
    return network


each_generation = pytest.mark.parametrize("config", ONE_OF_EACH_GENERATION.values(), ids=ONE_OF_EACH_GENERATION.keys())
each_form = pytest.mark.parametrize(
    ("fold", "form"),
    [(as_trained, FoldState.TRAINING), (merge_kernels, FoldState.MERGED), (fuse, FoldState.FUSED)],
    ids=["training", "merged", "fused"],
)
each_format = pytest.mark.parametrize(
    ("save", "name"), [(save_safetensors, "net.safetensors"), (save_pth, "net.pth")], ids=["safetensors", "pth"]
)


@each_form
@each_generation
def test_safetensors_come_back_as_they_were(tmp_path: Path, config: NetworkConfig, fold: Fold, form: FoldState) -> None:
    network = fold(randomised(build_network(config)))

    loaded = load(save_safetensors(network, tmp_path / "net.safetensors"))

    assert (loaded.config, loaded.form, loaded.notes) == (config, form, ())
    torch.testing.assert_close(loaded.model.state_dict(), network.state_dict(), rtol=0, atol=0)
    assert largest_difference(network, loaded.model, natural_picture()) == 0


@each_form
@each_generation
def test_pth_files_come_back_as_they_were(tmp_path: Path, config: NetworkConfig, fold: Fold, form: FoldState) -> None:
    network = fold(randomised(build_network(config)))
    stated = 0.2 if config.generation == 3 and form is not FoldState.FUSED else None

    loaded = load(save_pth(network, tmp_path / "net.pth"), residual_scale=stated)

    assert loaded.form is form
    assert largest_difference(network, loaded.model, natural_picture()) == 0


@pytest.mark.parametrize("config", SELECTED_CONFIGS.values(), ids=SELECTED_CONFIGS.keys())
def test_a_fused_pth_file_tells_everything_by_itself(tmp_path: Path, config: NetworkConfig) -> None:
    fused = fuse(randomised(build_network(config)))

    loaded = load(save_pth(fused, tmp_path / "net.pth"))

    assert (loaded.form, loaded.notes) == (FoldState.FUSED, ())
    assert largest_difference(fused, loaded.model, natural_picture(channels=config.in_channels)) == 0


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_a_fused_file_carries_its_image_range_folded(tmp_path: Path, generation: int) -> None:
    fused = fuse(tiny_network(generation, image_range=2.0))

    loaded = load(save_pth(fused, tmp_path / "net.pth"))

    assert largest_difference(fused, loaded.model, natural_picture()) == 0


@each_format
@each_form
@each_generation
def test_saving_twice_gives_the_same_bytes(
    tmp_path: Path, config: NetworkConfig, fold: Fold, form: FoldState, save: Save, name: str
) -> None:
    first = save(fold(randomised(build_network(config))), tmp_path / name)
    second = save(fold(randomised(build_network(config))), tmp_path / "folder" / f"another-{name}")

    assert first.read_bytes() == second.read_bytes()


@each_format
@each_generation
def test_loading_and_saving_again_gives_the_same_bytes(
    tmp_path: Path, config: NetworkConfig, save: Save, name: str
) -> None:
    first = save(fuse(randomised(build_network(config))), tmp_path / name)

    second = save(load(first).model, tmp_path / f"again-{name}")

    assert second.read_bytes() == first.read_bytes()


@each_format
def test_parameters_that_are_views_are_saved_alone(tmp_path: Path, save: Save, name: str) -> None:
    network = tiny_network(2)
    expected = file_digest(save(network, tmp_path / name))
    flat = torch.cat([parameter.data.reshape(-1) for parameter in network.parameters()])
    for parameter, piece in zip(
        network.parameters(), flat.split([parameter.numel() for parameter in network.parameters()]), strict=True
    ):
        parameter.data = piece.view(parameter.shape)

    assert file_digest(save(network, tmp_path / f"flat-{name}")) == expected


@each_format
def test_the_memory_layout_does_not_show(tmp_path: Path, save: Save, name: str) -> None:
    expected = file_digest(save(tiny_network(2), tmp_path / name))

    network = tiny_network(2).to(memory_format=torch.channels_last)

    assert file_digest(save(network, tmp_path / f"last-{name}")) == expected


@each_format
def test_one_other_weight_gives_other_bytes(tmp_path: Path, save: Save, name: str) -> None:
    network = tiny_network(2)
    before = file_digest(save(network, tmp_path / name))

    network.conv_last.bias.data[0] += 1e-6

    assert file_digest(save(network, tmp_path / name)) != before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@each_format
def test_weights_can_be_stored_in_another_type(tmp_path: Path, save: Save, name: str, dtype: torch.dtype) -> None:
    network = fuse(tiny_network(2))

    loaded = load(save(network, tmp_path / name, dtype=dtype))

    assert loaded.stored_dtype == str(dtype).removeprefix("torch.")
    expected = {name: tensor.to(dtype).to(tensor.dtype) for name, tensor in network.state_dict().items()}
    torch.testing.assert_close(loaded.model.state_dict(), expected, rtol=0, atol=0)


def test_storing_in_another_type_leaves_the_network_alone(tmp_path: Path) -> None:
    network = tiny_network(2)

    save_pth(network, tmp_path / "net.pth", dtype=torch.float16)

    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_the_config_travels_in_one_json_record(tmp_path: Path) -> None:
    network = fuse(tiny_network(3))

    with safe_open(save_safetensors(network, tmp_path / "net.safetensors"), framework="pt") as file:
        metadata = file.metadata()

    record = json.loads(metadata[METADATA_KEY])
    assert set(metadata) == {METADATA_KEY}
    assert record == {"schema_version": 1, "network": network.config.to_json(), "form": "fused"}


@each_form
@each_generation
def test_the_form_is_known_from_the_modules(config: NetworkConfig, fold: Fold, form: FoldState) -> None:
    assert form_of(fold(build_network(config))) is form


def test_nothing_half_written_is_left_when_saving_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Path, data: Any) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)

    with pytest.raises(StoreError, match="No space left on device"):
        save_pth(tiny_network(2), tmp_path / "net.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=str)
@each_form
@each_generation
def test_pth_files_open_in_the_strictest_unpickler(
    tmp_path: Path, config: NetworkConfig, fold: Fold, form: FoldState, dtype: torch.dtype | None
) -> None:
    """The one of spandrel allows tensors and dictionaries, nothing else; chaiNNer and others load through it."""
    reason = "needs spandrel with torchvision: pip install 'aethernet-sr[spandrel]'"
    unpickler = pytest.importorskip("spandrel.__helpers.unpickler", reason=reason, exc_type=ImportError)
    network = fold(randomised(build_network(config)))
    path = save_pth(network, tmp_path / "net.pth", dtype=dtype)

    tensors = torch.load(path, pickle_module=unpickler.RestrictedUnpickle, weights_only=False)

    assert type(tensors) is dict
    assert {type(tensor) for tensor in tensors.values()} == {torch.Tensor}
    assert tensors.keys() == network.state_dict().keys()


def test_pth_files_name_nothing_but_tensors(tmp_path: Path) -> None:
    import pickletools

    with zipfile.ZipFile(save_pth(tiny_network(3), tmp_path / "net.pth")) as archive:
        operations = list(pickletools.genops(archive.read("archive/data.pkl")))

    named = {argument for operation, argument, _ in operations if operation.name == "GLOBAL"}
    assert named == {
        "torch._utils _rebuild_tensor_v2",
        "collections OrderedDict",
        "torch FloatStorage",
        "torch LongStorage",
    }
