"""Whatever frameworks put around a network comes off, for any network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aethernet.checkpoint import load
from aethernet.checkpoint.loading import load_content
from aethernet.checkpoint.wrappers import unwrap, what_it_is
from aethernet.cli.inspection import inspect_path
from aethernet.errors import NotACheckpointError, SpecMismatchError, UnknownNetworkError, UsageError
from aethernet.networks import build_network
from aethernet.networks.config import FoldState
from tests.support.networks import tiny_config

State = dict[str, Tensor]


def compact() -> State:
    spandrel = pytest.importorskip("spandrel.architectures.Compact.__arch.SRVGG", reason="needs spandrel")
    torch.manual_seed(0)
    state: State = spandrel.SRVGGNetCompact(num_feat=8, num_conv=2, upscale=2).state_dict()
    return state


def aethernet() -> State:
    torch.manual_seed(0)
    return dict(build_network(tiny_config(2), FoldState.TRAINING).state_dict())


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


COUNT = torch.tensor(7)
WRAPPERS: dict[str, Callable[[State], dict[str, Any]]] = {
    "nothing": lambda s: s,
    "torch.compile": lambda s: prefixed("_orig_mod.", s),
    "DistributedDataParallel": lambda s: prefixed("module.", s),
    "compiled, then distributed": lambda s: prefixed("module._orig_mod.", s),
    "distributed, then compiled": lambda s: {"params": prefixed("_orig_mod.module.", s)},
    "AveragedModel": lambda s: {"n_averaged": COUNT, **prefixed("module.", s)},
    "AveragedModel of a compiled one": lambda s: {"n_averaged": COUNT, **prefixed("module._orig_mod.", s)},
    "Lightning": lambda s: {"epoch": 3, "state_dict": prefixed("net_g.", s), "optimizer_states": [{"state": {0: s}}]},
    "Lightning, model": lambda s: {"state_dict": prefixed("model.", s), "loops": {"a": 1}},
    "Lightning with a loss": lambda s: {
        "state_dict": {**prefixed("generator.", s), **prefixed("loss.vgg.", {"a.weight": torch.ones(2, 2)})}
    },
    "a name of its own": lambda s: {"state_dict": prefixed("my_upscaler.", s)},
    "MMagic": lambda s: {
        "meta": {"epoch": 1},
        "state_dict": {"step_counter": COUNT, **prefixed("generator.", s)},
    },
    "wrapper in wrapper": lambda s: {"checkpoint": {"model_state_dict": {"module": prefixed("module.", s)}}},
    "optimizer beside it": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(3, 3)}}}},
}


@pytest.mark.parametrize("make", [compact, aethernet], ids=["Compact", "AetherNet"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_comes_off_every_network(make: Callable[[], State], wrapper: str) -> None:
    state = make()

    loaded = load_content(WRAPPERS[wrapper](state), {})

    found = {name.removeprefix("network."): value for name, value in loaded.model.state_dict().items()}
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("make", [compact, aethernet], ids=["Compact", "AetherNet"])
@pytest.mark.parametrize(
    ("wrap", "key", "other"),
    [
        (lambda s, e: {"params": s, "params_ema": e}, "params_ema", "params"),
        (
            lambda s, e: {"state_dict": {"step": COUNT, **prefixed("generator.", s), **prefixed("generator_ema.", e)}},
            "state_dict.generator_ema",
            "generator",
        ),
        (lambda s, e: {"model": prefixed("module.", s), "model_ema": prefixed("module.", e)}, "model_ema", "model"),
    ],
    ids=["BasicSR", "MMagic", "two dictionaries"],
)
def test_averaged_weights_win_and_the_others_can_be_had(
    make: Callable[[], State], wrap: Callable[[State, State], dict[str, Any]], key: str, other: str
) -> None:
    raw = make()
    averaged = {name: value * 0.5 if value.is_floating_point() else value for name, value in raw.items()}
    content = wrap(raw, averaged)
    name = next(name for name, value in raw.items() if value.ndim == 4)

    taken, chosen = load_content(content, {}), load_content(content, {}, weights=other)

    def first(loaded: Any) -> Tensor:
        return next(v for n, v in loaded.model.state_dict().items() if n.removeprefix("network.") == name)

    assert torch.equal(first(taken), averaged[name])
    assert any(f"'{key}' were taken" in note for note in taken.notes)
    assert torch.equal(first(chosen), raw[name])


def test_two_networks_have_to_be_chosen_between() -> None:
    content = {"net_a": compact(), "net_b": aethernet()}

    with pytest.raises(UsageError, match=r"found 2: 'net_a' .* 'net_b'") as caught:
        load_content(content, {})

    assert "--weights" in caught.value.hint
    assert load_content(content, {}, weights="net_b").config.descriptor.architecture.startswith("AetherNet")
    with pytest.raises(UsageError, match="found 'net_c'"):
        load_content(content, {}, weights="net_c")


def test_info_is_about_the_network_that_was_chosen(tmp_path: Path) -> None:
    torch.save({"net_a": compact(), "net_b": aethernet()}, tmp_path / "two.pth")
    (tmp_path / "a.onnx").touch()

    assert (
        inspect_path(tmp_path / "two.pth", "net_b")["network"] != inspect_path(tmp_path / "two.pth", "net_a")["network"]
    )
    with pytest.raises(UsageError, match="expected a checkpoint with --weights"):
        inspect_path(tmp_path / "a.onnx", "net_b")


def test_a_prefix_that_only_some_tensors_carry_is_a_name() -> None:
    found = unwrap({"module.a": torch.ones(1), "b": torch.ones(1)})

    assert set(found.entries) == {"module.a", "b"}


@pytest.mark.parametrize("content", [{}, {"params": {}}, {"epoch": 3}, {"params": [1, 2]}], ids=str)
def test_a_file_without_tensors_is_no_checkpoint(content: dict[str, Any]) -> None:
    with pytest.raises(NotACheckpointError, match="expected tensors by name"):
        unwrap(content)


# --- settings beside the weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"arch_config": {"scale": 4}},
        {"scale": 4},
        {"hyper_parameters": {"network_g": {"upscale": 4}}},
        {"opt": {"network_g": {"type": "SRVGGNetCompact", "upscale": 4}}},
        {"config": {"generator": {"upscale_factor": 4}}},
        {"hyper_parameters": {"num_in_ch": 1}},
    ],
    ids=str,
)
def test_settings_that_contradict_the_tensors_are_refused_with_both(settings: dict[str, Any]) -> None:
    with pytest.raises(SpecMismatchError, match=r"say \w+ = [41], its tensors say [23]"):
        load_content({"params": compact(), **settings}, {})


def test_settings_that_agree_with_the_tensors_are_taken() -> None:
    settings = {"scale": 2, "hyper_parameters": {"network_g": {"upscale": 2, "num_in_ch": 3, "lr": 1e-4}}}

    assert load_content({"params": compact(), **settings}, {}).config.scale == 2


def test_the_authors_residual_scale_is_read_and_gives_his_output(shared_data: Path) -> None:
    folder = shared_data / "turn2"
    if not (folder / "author_gen3.pth").is_file():
        pytest.skip("needs author_gen3.pth in shared/data/turn2 beside the repository")
    truth = np.load(folder / "author_gen3.npz")

    loaded = load(folder / "author_gen3.pth")

    assert loaded.config.residual_scale == 0.07  # type: ignore[union-attr]
    assert not loaded.notes
    found = loaded.model(torch.from_numpy(truth["x"])).numpy()
    assert np.abs(found - truth["y"]).max() < 1e-5


@pytest.mark.parametrize("where", ["beside the weights", "in hyper_parameters", "in safetensors metadata"])
def test_the_residual_scale_is_read_wherever_it_stands(where: str) -> None:
    state = dict(build_network(tiny_config(3), FoldState.TRAINING).state_dict())
    settings = {"res_scale": 0.07}
    content: dict[str, Any] = {"params_ema": state}
    metadata: dict[str, str] = {}
    if where == "in safetensors metadata":
        metadata["arch_config"] = '{"res_scale": 0.07}'
    else:
        content["arch_config" if where == "beside the weights" else "hyper_parameters"] = settings

    loaded = load_content(content, metadata)

    assert loaded.config.residual_scale == 0.07  # type: ignore[union-attr]
    assert not loaded.notes


# --- files that are something else -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lora_unet_up.lora_down.weight", "lora_unet_up.alpha"], "a LoRA"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "a diffusion model"),
        (["first_stage_model.encoder.conv_in.weight"], "autoencoder"),
        (["conv0.weight", "conv1.weight_orig", "conv1.weight_u"], "a discriminator"),
    ],
)
def test_other_networks_are_called_by_their_names(names: list[str], words: str) -> None:
    assert words in (what_it_is(names) or "")
    with pytest.raises(UnknownNetworkError, match=words):
        load_content({name: torch.ones(2, 2) for name in names}, {})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'{"error": "not found"}', "JSON"),
        (b"Entry not found", "text that begins with 'Entry not found'"),
        (b"GGUF\x03\0\0\0", "a GGUF file"),
    ],
)
def test_files_that_are_something_else_are_called_by_their_names(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "net.pth").write_bytes(data)

    with pytest.raises(NotACheckpointError, match=words):
        load(tmp_path / "net.pth")


def test_no_nesting_makes_loading_crash_or_take_the_wrong_tensors() -> None:
    state = compact()
    draw = np.random.default_rng(20261127)
    names = ["module", "_orig_mod", "net_g", "model", "generator", "net"]
    for _ in range(25):
        content: dict[str, Any] = dict(state)
        for _ in range(draw.integers(0, 4)):
            content = prefixed(f"{draw.choice(names)}.", content)
        for _ in range(draw.integers(0, 4)):
            content = {str(draw.choice(["params", "state_dict", "model", "trainer"])): content, "epoch": 3}
            if draw.random() < 0.5:
                content["optimizer"] = {"state": {0: {"exp_avg": torch.ones(3, 3)}}}

        loaded = load_content(content, {})

        found = {name.removeprefix("network."): value for name, value in loaded.model.state_dict().items()}
        assert all(torch.equal(found[name], state[name]) for name in state)
