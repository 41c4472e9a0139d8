"""Networks of other architectures through the whole release flow, and images through what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import aethernet
from aethernet.export.lint import lint_onnx
from aethernet.release.bundle import open_bundle
from aethernet.release.verification import verify_bundle
from tests.flows.test_int8 import LIMITS
from tests.support.images import natural_image
from tests.support.releases import NAME
from tests.support.third_party import compact, spandrel
from tests.support.workplace import CommandLine, Workplace

pytestmark = pytest.mark.long


def _edit(place: Workplace, checkpoint: Path, first: str = "", last: str = "") -> None:
    kept = [line for line in place.spec.read_text().splitlines() if not line.startswith(("leave_out", "checkpoint"))]
    place.spec.write_text("\n".join([f'checkpoint = "{checkpoint.as_posix()}"', first, *kept, last]))


def test_a_convolutional_network_is_released_in_every_form(
    workplace: Workplace, command_line: CommandLine, tmp_path: Path
) -> None:
    checkpoint = compact(tmp_path / "net.pth")
    _edit(workplace, checkpoint, last=LIMITS)

    finished = command_line([*workplace.release, "--precisions", "fp32,fp16,int8"])

    assert finished.code == 0, finished.err
    assert verify_bundle(workplace.bundle).problems == ()
    manifest = open_bundle(workplace.bundle).manifest
    assert manifest.network.family == "Compact"
    assert manifest.network.receptive_radius == 5
    assert any("nothing to fuse" in note for note in manifest.checkpoint.notes)
    assert json.loads((workplace.bundle / "config.json").read_text())["network"]["scale"] == 2
    assert "Compact 8nf 3nc" in (workplace.bundle / "README.md").read_text()
    assert lint_onnx(workplace.bundle / f"{NAME}_int8.onnx").ok
    image = (natural_image(40, 50).numpy()[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    given = torch.from_numpy(image.transpose(2, 0, 1)[None]).float() / 255
    # What anybody's loader makes of the file for PyTorch is what the release gives, in tiles too.
    network = spandrel.ModelLoader().load_from_file(workplace.bundle / f"{NAME}_fp32.safetensors")
    wanted = np.rint(network(given).numpy()[0].transpose(1, 2, 0) * 255)
    for tile in (None, 30):
        with aethernet.Upscaler(workplace.bundle, "fp32", "onnxruntime-cpu", tile=tile) as upscaler:
            assert upscaler.exact_tiles
            assert np.abs(upscaler.upscale(image).astype(int) - wanted).max() <= 1
    with aethernet.Upscaler(workplace.bundle, "fp32", "onnxruntime-cpu", tile=24, overlap=2) as upscaler:
        assert not upscaler.exact_tiles
        assert upscaler.upscale(image).shape == wanted.shape


def test_a_network_of_one_size_gets_it_into_its_names_and_takes_any_image(
    workplace: Workplace, command_line: CommandLine, tmp_path: Path
) -> None:
    checkpoint = compact(tmp_path / "net.pth")
    _edit(workplace, checkpoint, first='leave_out = ["int8"]', last="[export]\nstatic = [48, 64]")

    finished = command_line(workplace.release)

    assert finished.code == 0, finished.err
    manifest = open_bundle(workplace.bundle).manifest
    assert (workplace.bundle / f"{NAME}_48x64_fp32.onnx").is_file()
    assert manifest.network.config["size"]["fixed"] == [48, 64]
    assert {item.shape for item in manifest.measurements} == {(1, 48, 64)}
    image = (natural_image(70, 91).numpy()[0].transpose(1, 2, 0) * 255).astype(np.uint8)
    with aethernet.Upscaler(workplace.bundle, "fp32", "onnxruntime-cpu") as upscaler:
        found = upscaler.upscale(image)
    given = torch.from_numpy(image.transpose(2, 0, 1)[None]).float() / 255
    wanted = np.rint(spandrel.ModelLoader().load_from_file(checkpoint)(given).numpy()[0].transpose(1, 2, 0) * 255)
    assert np.abs(found.astype(int) - wanted).max() <= 1
