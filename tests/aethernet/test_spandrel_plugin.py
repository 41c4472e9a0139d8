"""Through spandrel every AetherNet file gives the image our own loader gives, and other networks stay themselves."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aethernet import spandrel_plugin
from aethernet.checkpoint import load, save_finetuned, save_pth, save_safetensors
from aethernet.errors import MissingDependencyError
from aethernet.networks import NETWORK_PRESETS, AetherNet, NetworkConfig, build_network, preset_config
from aethernet.networks.fusion import fuse, merge_kernels
from aethernet.quantization.finetuned import FinetunedInt8, FinetuningFacts
from aethernet.quantization.post_training import quantize
from tests.support.images import natural_image
from tests.support.networks import (
    ONE_OF_EACH_GENERATION,
    SELECTED_CONFIGS,
    WRAPPERS,
    randomised,
    tiny_config,
    tiny_network,
)
from tests.support.spandrel_registry import registry_as_it_was

spandrel = pytest.importorskip(
    "spandrel", reason="needs spandrel with torchvision: pip install 'aethernet-sr[spandrel]'", exc_type=ImportError
)

QUICK = {(1, "small"), (2, "tiny"), (3, "mobile"), (3, "tiny")}
SLOW = {(1, "medium"), (2, "small"), (3, "medium")}
PRESETS_AT_SOME_SCALE = [
    pytest.param(generation, name, scale, marks=[] if (generation, name) in QUICK else [pytest.mark.slow])
    for generation, presets in NETWORK_PRESETS.items()
    for name, scale in zip(presets, itertools.cycle((2, 4, 1, 3)), strict=False)
    if (generation, name) in QUICK | SLOW
]
"""Larger ones have more of the same. The scale decides one part of the network, whichever the preset."""


@pytest.fixture(autouse=True)
def registry() -> Iterator[Any]:
    """spandrel's main registry with AetherNet in it; as it was before afterwards."""
    with registry_as_it_was():
        spandrel_plugin.install()
        yield spandrel.MAIN_REGISTRY


def as_trained(network: AetherNet) -> AetherNet:
    """The training form."""
    return network


def assert_same_image(path: Path, image: torch.Tensor) -> Any:
    """spandrel and our own loader answer alike (spandrel clips); returns spandrel's descriptor."""
    descriptor = spandrel.ModelLoader().load_from_file(path)
    with torch.inference_mode():
        expected = load(path).model(image).clamp(0, 1)
    assert descriptor.architecture.id == "AetherNet"
    torch.testing.assert_close(descriptor(image), expected, rtol=0, atol=0)
    return descriptor


@pytest.mark.parametrize(("generation", "name", "scale"), PRESETS_AT_SOME_SCALE)
def test_presets_load_as_in_our_own_loader(tmp_path: Path, generation: int, name: str, scale: int) -> None:
    network = randomised(build_network(preset_config(generation, name, scale)))
    fused = fuse(network)
    files = [
        save_pth(fused, tmp_path / "fused.pth"),
        save_safetensors(fused, tmp_path / "fused.safetensors"),
        save_pth(network, tmp_path / "training.pth"),
    ]

    descriptors = [assert_same_image(path, natural_image(9, 8)) for path in files]

    assert {descriptor.scale for descriptor in descriptors} == {scale}
    assert [descriptor.tags[:2] for descriptor in descriptors] == [[name, f"v{generation}"]] * 3


@pytest.mark.parametrize("config", SELECTED_CONFIGS.values(), ids=SELECTED_CONFIGS.keys())
def test_every_kind_of_fused_network_loads_as_in_our_own_loader(tmp_path: Path, config: NetworkConfig) -> None:
    path = save_pth(fuse(randomised(build_network(config))), tmp_path / "net.pth")

    assert_same_image(path, natural_image(channels=config.in_channels))


def test_a_fine_tuned_checkpoint_loads_as_its_float_network(tmp_path: Path) -> None:
    network = tiny_network(2)
    made = quantize(fuse(network), images=[natural_image(16, 16).numpy()])
    facts = FinetuningFacts(
        steps=1,
        images=1,
        images_sha256="0" * 64,
        psnr_before=40,
        psnr_after=41,
        channel_shift_before=0,
        channel_shift_after=0,
    )
    int8 = FinetunedInt8(model=made.model, slope=None, facts=facts)

    assert_same_image(save_finetuned(network, int8, tmp_path / "qat.safetensors"), natural_image())


@pytest.mark.parametrize("fold", [as_trained, merge_kernels])
@pytest.mark.parametrize("config", ONE_OF_EACH_GENERATION.values(), ids=ONE_OF_EACH_GENERATION.keys())
def test_other_forms_load_as_in_our_own_loader(
    tmp_path: Path, config: NetworkConfig, fold: Callable[[AetherNet], AetherNet]
) -> None:
    path = save_pth(fold(randomised(build_network(config))), tmp_path / "net.pth")

    assert_same_image(path, natural_image())


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_what_trainers_wrap_loads(tmp_path: Path, wrap: Callable[..., dict[str, Any]]) -> None:
    path = tmp_path / "net_g.pth"
    torch.save(wrap(tiny_network(2).state_dict()), path)

    assert_same_image(path, natural_image())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_files_load(tmp_path: Path, dtype: torch.dtype) -> None:
    path = save_safetensors(fuse(tiny_network(3)), tmp_path / "net.safetensors", dtype=dtype)

    assert_same_image(path, natural_image())


@pytest.mark.parametrize(
    "name", ["v1_unfused_x2", "v1_fused_x4", "v2_fused_attn_x4", "v3_fused_x3", "v3_module_prefix_ema_and_params_x2"]
)
def test_published_networks_load(shared_data: Path, name: str) -> None:
    assert_same_image(shared_data / "parity" / f"{name}.pth", natural_image())


@pytest.mark.parametrize("name", ["v1_qat_x2", "v2_qat_x2", "v3_qat_x2"])
def test_published_quantised_networks_load_as_floats(shared_data: Path, name: str) -> None:
    """As state dicts: the switches among their records are of types spandrel's own unpickler refuses."""
    path = shared_data / "parity" / f"{name}.pth"
    descriptor = spandrel.ModelLoader().load_from_state_dict(torch.load(path, weights_only=True))

    answer = descriptor(natural_image())

    torch.testing.assert_close(answer, load(path).model(natural_image()).clamp(0, 1), rtol=0, atol=0)


@pytest.mark.parametrize("config", SELECTED_CONFIGS.values(), ids=SELECTED_CONFIGS.keys())
def test_no_other_architecture_claims_our_networks(registry: Any, config: NetworkConfig) -> None:
    network = build_network(config)
    state_dicts = [fold(network).state_dict() for fold in (as_trained, merge_kernels, fuse)]

    for state_dict in state_dicts:
        claims = [support.architecture.id for support in registry if support.detect(state_dict)]
        assert claims == ["AetherNet"]


FOREIGN = {
    "Compact": lambda nets: nets.Compact.Compact(num_feat=8, num_conv=2, upscale=2),
    "SPAN": lambda nets: nets.SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2),
    "ESRGAN": lambda nets: nets.ESRGAN.ESRGAN(num_filters=8, num_blocks=1, scale=4),
    "PLKSR": lambda nets: nets.PLKSR.RealPLKSR(dim=8, n_blocks=1, upscaling_factor=2),
    "SwinIR": lambda nets: nets.SwinIR.SwinIR(embed_dim=12, depths=[2], num_heads=[2], window_size=8, upscale=2),
}


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # SwinIR's
@pytest.mark.parametrize("name", FOREIGN)
def test_other_networks_are_still_detected_as_themselves(registry: Any, name: str) -> None:
    state_dict = FOREIGN[name](spandrel.architectures).state_dict()

    assert not registry["AetherNet"].detect(state_dict)
    assert spandrel.ModelLoader().load_from_state_dict(dict(state_dict)).architecture.id == name


def test_a_real_checkpoint_of_another_network_is_still_detected_as_itself(shared_data: Path) -> None:
    descriptor = spandrel.ModelLoader().load_from_file(shared_data / "realesrgan" / "realesr-animevideov3.pth")

    assert (descriptor.architecture.id, descriptor.scale) == ("Compact", 4)


# --- what the descriptor says ----------------------------------------------------------------------------------------


def described(config: NetworkConfig) -> Any:
    """spandrel's descriptor of a fused network."""
    return spandrel.ModelLoader().load_from_state_dict(fuse(build_network(config)).state_dict())


def test_the_descriptor_of_a_colour_network() -> None:
    descriptor = described(tiny_config(2, scale=4))

    assert isinstance(descriptor, spandrel.ImageModelDescriptor)
    assert (descriptor.scale, descriptor.input_channels, descriptor.output_channels) == (4, 3, 3)
    assert (descriptor.purpose, descriptor.supports_half, descriptor.supports_bfloat16) == ("SR", True, True)
    assert descriptor.size_requirements.none
    assert descriptor.tags == ["custom", "v2", "16dim", "1-2", "7x7 kernel"]


def test_the_descriptor_of_a_grey_network() -> None:
    descriptor = described(tiny_config(2, in_channels=1))

    assert (descriptor.input_channels, descriptor.output_channels) == (1, 1)


def test_a_network_that_does_not_enlarge_restores() -> None:
    assert described(tiny_config(2, scale=1)).purpose == "Restoration"


@pytest.mark.parametrize(
    ("attention", "tiling"),
    [({}, "SUPPORTED"), ({"spatial_attention": True}, "SUPPORTED"), ({"channel_attention": True}, "DISCOURAGED")],
    ids=str,
)
def test_tiling_is_discouraged_where_the_whole_image_is_pooled(attention: dict[str, bool], tiling: str) -> None:
    assert described(tiny_config(3, **attention)).tiling is spandrel.ModelTiling[tiling]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_precisions_it_promises_work(dtype: torch.dtype) -> None:
    descriptor = spandrel.ModelLoader().load_from_state_dict(fuse(tiny_network(2)).state_dict())
    expected = descriptor(natural_image())

    answer = descriptor.to(dtype)(natural_image().to(dtype))

    assert answer.dtype == dtype
    torch.testing.assert_close(answer.float(), expected, rtol=0, atol=0.1)


def test_a_guessed_residual_scale_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        spandrel.ModelLoader().load_from_state_dict(tiny_network(3).state_dict())

    assert "does not record its residual scale" in caplog.text


def test_nothing_is_logged_for_a_fused_file(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        spandrel.ModelLoader().load_from_state_dict(fuse(tiny_network(3)).state_dict())

    assert caplog.text == ""


# --- installing ------------------------------------------------------------------------------------------------------


def test_installing_twice_is_refused_unless_duplicates_are_ignored(registry: Any) -> None:
    with pytest.raises(spandrel.DuplicateArchitectureError):
        spandrel_plugin.install()

    assert spandrel_plugin.install(ignore_duplicates=True) == []
    assert [support.architecture.id for support in registry].count("AetherNet") == 1


def test_installing_returns_what_was_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spandrel, "MAIN_REGISTRY", spandrel.ArchRegistry())

    added = spandrel_plugin.install()

    assert [support.architecture.id for support in added] == ["AetherNet"]


def test_a_missing_spandrel_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)

    with pytest.raises(MissingDependencyError, match="spandrel") as caught:
        spandrel_plugin.install()

    assert "aethernet-sr[spandrel]" in caught.value.hint


def test_importing_the_module_loads_neither_torch_nor_spandrel() -> None:
    check = "import sys, aethernet.spandrel_plugin; print({'torch', 'spandrel'} & sys.modules.keys())"

    output = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout

    assert output.strip() == "set()"
