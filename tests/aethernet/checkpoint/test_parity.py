"""Published checkpoints give here what the original networks gave. Each case: a checkpoint, an input, its output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from aethernet.checkpoint import LoadedNetwork, load
from aethernet.networks import FoldState, Norm
from aethernet.networks.fusion import fuse

TOLERANCE = 1e-5

# case, the recorded output to meet, generation, form, scale, (channel, spatial) attention, residual scale
FLOAT_CASES = [
    ("v1_fused_x4", "output", 1, FoldState.MERGED, 4, (False, False), 1.0),
    ("v1_unfused_x2", "output", 1, FoldState.TRAINING, 2, (False, False), 1.0),
    ("v1_qat_x2", "output_float", 1, FoldState.TRAINING, 2, (False, False), 1.0),
    ("v2_fused_attn_x4", "output", 2, FoldState.MERGED, 4, (True, True), 1.0),
    ("v2_unfused_x2", "output", 2, FoldState.TRAINING, 2, (True, True), 1.0),
    ("v2_qat_x2", "output_float", 2, FoldState.MERGED, 2, (False, False), 1.0),
    ("v3_fused_x3", "output", 3, FoldState.MERGED, 3, (False, False), 0.1),
    ("v3_unfused_attn_x2", "output", 3, FoldState.TRAINING, 2, (True, True), 0.1),
    ("v3_qat_x2", "output_float", 3, FoldState.MERGED, 2, (False, False), 0.1),
    ("v3_metadata_res02_x2", "output", 3, FoldState.TRAINING, 2, (False, False), 0.2),
    ("v3_module_prefix_ema_and_params_x2", "output", 3, FoldState.TRAINING, 2, (True, False), 0.1),
]
float_case = pytest.mark.parametrize("case", FLOAT_CASES, ids=lambda case: case[0])


def recorded(folder: Path, name: str, output: str) -> tuple[Tensor, Tensor]:
    """The input and the original network's answer."""
    with np.load(folder / "parity" / f"{name}.npz") as arrays:
        return torch.from_numpy(arrays["input"]), torch.from_numpy(arrays[output])


def loaded(folder: Path, name: str) -> LoadedNetwork:
    """The case's checkpoint."""
    return load(folder / "parity" / f"{name}.pth")


@float_case
def test_a_published_network_computes_the_same_picture(shared_data: Path, case: tuple) -> None:
    picture, expected = recorded(shared_data, case[0], case[1])

    answer = loaded(shared_data, case[0]).model(picture)

    torch.testing.assert_close(answer, expected, rtol=0, atol=TOLERANCE)


@float_case
def test_a_published_network_computes_the_same_picture_when_fused(shared_data: Path, case: tuple) -> None:
    picture, expected = recorded(shared_data, case[0], case[1])

    answer = fuse(loaded(shared_data, case[0]).model)(picture)

    torch.testing.assert_close(answer, expected, rtol=0, atol=TOLERANCE)


@float_case
def test_a_published_network_is_understood(shared_data: Path, case: tuple) -> None:
    name, _, generation, form, scale, attention, residual_scale = case

    network = loaded(shared_data, name)

    config = network.config
    assert (config.generation, network.form, config.scale) == (generation, form, scale)
    assert (config.channel_attention, config.spatial_attention) == attention
    assert config.norm is (Norm.LAYER if generation == 1 else Norm.DEPLOYMENT)
    assert config.residual_scale == residual_scale
    assert (network.quantization is not None) == ("qat" in name)
    assert not network.model.training


def test_every_case_there_is_has_been_named_here(shared_data: Path) -> None:
    there = {path.stem for path in (shared_data / "parity").glob("*.pth")}

    assert there == {case[0] for case in FLOAT_CASES} | {"v1_packed_int8_x2"}


def test_a_wrong_residual_scale_would_show(shared_data: Path) -> None:
    """The control: the tolerance is tight enough to notice the one thing that tensors do not tell."""
    picture, expected = recorded(shared_data, "v3_unfused_attn_x2", "output")

    wrong = load(shared_data / "parity" / "v3_unfused_attn_x2.pth", residual_scale=0.2).model(picture)

    assert float((wrong - expected).abs().max()) > 100 * TOLERANCE


def test_a_packed_int8_network_comes_close_to_its_float_original(shared_data: Path) -> None:
    picture, expected = recorded(shared_data, "v1_packed_int8_x2", "output_float_before_conversion")

    network = loaded(shared_data, "v1_packed_int8_x2")

    error = float((network.model(picture) - expected).square().mean())
    assert -10 * np.log10(error) >= 30  # dB at peak 1; 33.5 measured
    assert network.quantization is not None
    assert network.quantization.origin == "converted"


def test_the_trained_scales_of_a_packed_network_are_kept(shared_data: Path) -> None:
    records = loaded(shared_data, "v1_packed_int8_x2").quantization

    assert records is not None
    assert {"conv_first.scale", "conv_first.zero_point"} <= records.tensors.keys()


def test_error_comp_is_set_aside_and_said_for_quantised_generation_3(shared_data: Path) -> None:
    network = loaded(shared_data, "v3_qat_x2")

    assert set(network.set_aside) == {"quant_fusion_layer.error_comp"}
    assert not network.model.state_dict()["quant_fusion_layer.error_comp"].any()
    assert any("error_comp was set to zero" in note for note in network.notes)


def test_error_comp_stays_where_generation_2_was_trained_with_it(shared_data: Path) -> None:
    network = loaded(shared_data, "v2_qat_x2")

    assert "quant_fusion_layer.error_comp" not in network.set_aside
    assert network.model.state_dict()["quant_fusion_layer.error_comp"].any()


def test_unused_running_statistics_of_merged_generation_2_are_set_aside(shared_data: Path) -> None:
    network = loaded(shared_data, "v2_fused_attn_x4")

    assert "stages.0.0.norm.running_var" in network.set_aside


def test_the_real_network_is_the_published_small_one(shared_data: Path) -> None:
    network = load(
        shared_data / "aether_small_2x" / "net_g_qat.pth",
        expect={"generation": 1, "scale": 2, "embed_dim": 96, "depths": (4, 4, 4, 4), "preset": "small"},
    )

    assert network.form is FoldState.TRAINING
    assert sum(parameter.numel() for parameter in network.model.parameters()) == 1_388_963
    assert network.quantization is not None
    assert network.quantization.origin == "qat"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "expected"), [("7.png", 29.10), ("8.png", 30.36)])
def test_the_real_network_reaches_its_measured_quality(shared_data: Path, name: str, expected: float) -> None:
    network = load(shared_data / "aether_small_2x" / "net_g_qat.pth").model
    small, large = (picture_file(shared_data / "images" / kind / name) for kind in ("lr", "hr"))

    answer = network(small).clamp(0, 1)

    psnr = -10 * float((answer - large).double().square().mean().log10())
    assert psnr == pytest.approx(expected, abs=0.01)


def picture_file(path: Path) -> Tensor:
    """[1, 3, H, W] in [0, 1]."""
    from PIL import Image

    levels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32)
    return torch.from_numpy(levels).permute(2, 0, 1)[None] / 255
