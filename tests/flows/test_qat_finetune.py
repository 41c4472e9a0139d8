"""Fine-tuning by its command, and the release that takes the result."""

from __future__ import annotations

import json

import pytest

from aethernet.checkpoint import load, save_safetensors
from aethernet.release.bundle import open_bundle
from aethernet.release.verification import verify_bundle
from tests.support.networks import calm_network
from tests.support.releases import NAME
from tests.support.workplace import CommandLine, Workplace

pytestmark = pytest.mark.slow

LIMITS = """
[limits.int8]
min_psnr = 30
max_signed_mean = 0.02
max_hr_loss = 5
min_agreement = 0.5
min_speedup = 0.01
"""


@pytest.mark.long
def test_a_fine_tuned_checkpoint_is_released_as_such(workplace: Workplace, command_line: CommandLine) -> None:
    folder = workplace.spec.parent
    save_safetensors(calm_network(1), folder / "tiny.safetensors")
    tuned = folder / "tuned.safetensors"
    options = ["--images", str(folder / "low"), "--output", str(tuned), "--steps", "2", "--batch", "1"]

    finished = command_line(["qat-finetune", str(folder / "tiny.safetensors"), *options, "--json"])

    assert finished.code == 0, finished.err
    assert json.loads(finished.out)["checkpoint"] == str(tuned)
    text = workplace.spec.read_text().replace('"tiny.safetensors"', '"tuned.safetensors"')
    workplace.spec.write_text(text.replace('leave_out = ["int8"]\n', "") + LIMITS)

    finished = command_line(workplace.release)

    assert finished.code == 0, finished.err
    assert verify_bundle(workplace.bundle).problems == ()
    manifest = open_bundle(workplace.bundle).manifest
    assert manifest.checkpoint.finetuned
    released = load(tuned).finetuned
    assert released is not None
    assert {form.precision: form.reason for form in manifest.forms}["int8"] is None
    assert manifest.quantization is not None
    assert manifest.quantization.origin == "qat"
    assert manifest.quantization.finetuning == released.facts
    assert {one.source for one in manifest.quantization.tensors} == {"learned"}
    assert "It was fine-tuned from the trained network" in (workplace.bundle / "README.md").read_text()
    assert load(workplace.bundle / f"{NAME}_int8.safetensors").int8
    assert load(workplace.bundle / f"{NAME}_notfused.safetensors").finetuned is None


def test_misuse_is_told_and_leaves_nothing(workplace: Workplace, command_line: CommandLine) -> None:
    folder = workplace.spec.parent
    options = ["--images", str(folder / "low"), "--output", str(folder / "tuned.pth")]

    finished = command_line(["qat-finetune", str(folder / "tiny.safetensors"), *options])

    assert finished.code == 2
    assert "expected an output that ends in .safetensors" in finished.err
    assert not list(folder.glob("tuned*"))
