"""Fine-tuning for int8: it improves what it is given, leaves the float network alone, and survives a kill."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from aethernet.checkpoint import load, save_safetensors
from aethernet.errors import AethernetError, QuantizationError, TrainingError, UsageError
from aethernet.images.files import list_images, load_image
from aethernet.quantization.finetuned import FinetunedInt8
from aethernet.quantization.modules import Mode, set_mode
from aethernet.quantization.post_training import Quantized, quantize
from aethernet.quantization.scheme import PAIR_MAX, half_precision
from aethernet.quantization.structure import convs_of, quantizers_of
from aethernet.training import FinetuningRecipe, finetuning
from aethernet.training.finetuning import FinetuningResult, finetune
from aethernet.training.progress import Standing
from tests.support.images import natural_image
from tests.support.networks import calm_network, tiny_network


def recipe(**changes: Any) -> FinetuningRecipe:
    return dataclasses.replace(FinetuningRecipe(steps=12, patch=12, batch=2), **changes)


def silent(standing: Standing) -> None:
    """No progress output."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(3):
        levels = natural_image(40, 48, seed=seed)[0].permute(1, 2, 0).mul(255).round().byte().numpy()
        Image.fromarray(levels).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_safetensors(calm_network(), tmp_path_factory.mktemp("network") / "calm.safetensors")


@pytest.fixture(scope="module")
def whole(checkpoint: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> FinetuningResult:
    """A run that nothing interrupted."""
    output = tmp_path_factory.mktemp("whole") / "qat.safetensors"
    return finetune(checkpoint, images, output, recipe(), progress=silent)


def int8_of(path: Path) -> FinetunedInt8:
    found = load(path).finetuned
    assert found is not None
    return found


# --- what is learned -------------------------------------------------------------------------------------------------


def test_the_int8_network_comes_nearer_and_the_loss_falls(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    standings: list[Standing] = []

    result = finetune(checkpoint, images, tmp_path / "qat.safetensors", recipe(steps=40), progress=standings.append)

    assert result.after.psnr > result.before.psnr + 0.5
    assert result.after.error < result.before.error
    assert standings[-1].loss < standings[0].loss
    assert standings[-1].remaining_seconds == 0


def test_a_doubled_scale_costs_much_and_learning_wins_part_of_it_back(
    checkpoint: Path, images: Path, whole: FinetuningResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(*arguments: Any, **options: Any) -> Quantized:
        made = quantize(*arguments, **options)
        quantizers_of(made.model)["conv_before_upsample.0.output"].scale.data.mul_(2)
        set_mode(made.model, Mode.ON)
        return made

    monkeypatch.setattr(finetuning, "quantize", spoilt)

    result = finetune(checkpoint, images, tmp_path / "qat.safetensors", recipe(steps=40), progress=silent)

    assert result.before.psnr < whole.before.psnr - 1
    assert result.after.psnr > result.before.psnr + 0.2


@pytest.mark.slow
def test_learning_that_only_harms_leaves_what_calibration_found(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    harmful = recipe(learning_rate=5.0, warmup_steps=0)

    result = finetune(checkpoint, images, tmp_path / "qat.safetensors", harmful, progress=silent)

    assert result.best_step == 0
    assert result.after == result.before
    assert int8_of(result.checkpoint).facts.steps == 0


@pytest.mark.slow
@pytest.mark.parametrize("generation", [1, 3])
def test_every_generation_learns(generation: int, images: Path, tmp_path: Path) -> None:
    network = tiny_network(generation, channel_attention=generation == 3, spatial_attention=generation == 3)
    source = save_safetensors(network, tmp_path / "tiny.safetensors")

    result = finetune(source, images, tmp_path / "qat.safetensors", recipe(steps=2), progress=silent)

    assert (int8_of(result.checkpoint).slope is not None) == (generation == 1)


# --- what is left ----------------------------------------------------------------------------------------------------


def test_the_float_weights_stay_as_they_were(checkpoint: Path, whole: FinetuningResult) -> None:
    before, after = load(checkpoint), load(whole.checkpoint)

    assert after.config == before.config
    assert after.form == before.form
    assert not after.int8
    weights, kept = before.model.state_dict(), after.model.state_dict()
    assert weights.keys() == kept.keys()
    assert all(torch.equal(weights[name], kept[name]) for name in weights)


def test_what_was_learned_lies_on_the_grid_that_every_form_holds(whole: FinetuningResult) -> None:
    network = int8_of(whole.checkpoint).model

    for quantizer in quantizers_of(network).values():
        assert torch.equal(half_precision(quantizer.scale), quantizer.scale)
    for name, conv in convs_of(network):
        steps = conv.weight / conv.weight_scale.view(-1, 1, 1, 1)
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0, msg=name)
        even = steps.shape[1] // 2 * 2
        pairs = steps.round()[:, :even].reshape(steps.shape[0], even // 2, 2, -1)
        assert pairs.clamp(min=0).sum(dim=2).max() <= PAIR_MAX
        assert pairs.clamp(max=0).sum(dim=2).min() >= -PAIR_MAX


@torch.no_grad()
def test_the_file_holds_the_network_that_was_measured(images: Path, whole: FinetuningResult) -> None:
    learned, reference = int8_of(whole.checkpoint).model, load(whole.checkpoint).model
    # Smaller than a crop, so each of them is held out as a whole.
    shown = [torch.from_numpy(load_image(path)) for path in list_images(images)]

    differences = [learned(one).clamp(0, 1) - reference(one).clamp(0, 1) for one in shown]
    decibels = [-10 * math.log10(float(one.square().mean())) for one in differences]
    assert sum(decibels) / len(shown) == pytest.approx(whole.after.psnr, abs=0.01)
    assert abs(whole.after.psnr - whole.before.psnr) > 0.1  # the control: it is not that of calibration


def test_parts_can_be_kept_in_float(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    kept = recipe(steps=1, keep_float=("conv_after_body",))

    result = finetune(checkpoint, images, tmp_path / "qat.safetensors", kept, progress=silent)

    layers = {name for name, _ in convs_of(int8_of(result.checkpoint).model)}
    assert "conv_after_body" not in layers
    assert "conv_before_upsample.0" in layers


# --- interruption ----------------------------------------------------------------------------------------------------

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
"""As conftest sets it here: the number of threads decides the order of sums."""

_TUNE_UNTIL_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_finetuning import recipe, finetune
finetune(*map(Path, sys.argv[2:]), recipe(), state_minutes=0,
         progress=lambda standing: standing.step < 4 or os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.long
def test_a_run_killed_and_continued_gives_the_file_of_an_uninterrupted_one(
    checkpoint: Path, images: Path, whole: FinetuningResult, tmp_path: Path
) -> None:
    output = tmp_path / "qat.safetensors"
    arguments = [str(Path(__file__).parent), str(checkpoint), str(images), str(output)]
    killed = subprocess.run([sys.executable, "-c", _TUNE_UNTIL_KILLED, *arguments], check=False, env=ONE_THREAD)
    left_behind = torch.load(tmp_path / "qat.state.pt", weights_only=True)["step"]

    assert killed.returncode == -signal.SIGKILL
    assert 0 < left_behind < recipe().steps
    assert not output.exists()
    result = finetune(checkpoint, images, output, recipe(), progress=silent)

    assert result.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def test_a_finished_run_returns_at_once(
    checkpoint: Path, images: Path, whole: FinetuningResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = whole.checkpoint.read_bytes()
    monkeypatch.setattr(finetuning, "quantize", lambda *_, **__: pytest.fail("calibrated again"))

    again = finetune(checkpoint, images, whole.checkpoint, recipe(), progress=silent)

    assert again == whole
    assert again.checkpoint.read_bytes() == content


def test_a_run_is_not_continued_with_another_recipe(checkpoint: Path, images: Path, whole: FinetuningResult) -> None:
    with pytest.raises(TrainingError, match="steps was 12 and is now 13"):
        finetune(checkpoint, images, whole.checkpoint, recipe(steps=13), progress=silent)


def test_a_run_is_not_continued_with_another_checkpoint(images: Path, whole: FinetuningResult, tmp_path: Path) -> None:
    other = save_safetensors(tiny_network(2), tmp_path / "other.safetensors")

    with pytest.raises(TrainingError, match="the checkpoint changed since"):
        finetune(other, images, whole.checkpoint, recipe(), progress=silent)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"steps": 0}, "positive steps"),
        ({"learning_rate": float("nan")}, "positive learning_rate"),
        ({"channel_shift_weight": -1.0}, "channel_shift_weight"),
        ({"warmup_steps": -1}, "warmup_steps"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        recipe(**changes)


def test_an_int8_network_cannot_be_tuned_again(whole: FinetuningResult, images: Path, tmp_path: Path) -> None:
    int8 = save_safetensors(int8_of(whole.checkpoint).model, tmp_path / "int8.safetensors")

    with pytest.raises(UsageError, match="expected a float checkpoint"):
        finetune(int8, images, tmp_path / "qat.safetensors", recipe(), progress=silent)


@pytest.mark.parametrize(
    ("output", "changes", "error"),
    [
        ("qat.pth", {}, UsageError),
        ("qat.safetensors", {"patch": 1000}, TrainingError),
        ("qat.safetensors", {"keep_float": ("nothing",)}, QuantizationError),
    ],
)
def test_what_cannot_be_leaves_nothing_behind(
    output: str, changes: dict[str, Any], error: type[AethernetError], checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(error):
        finetune(checkpoint, images, tmp_path / "run" / output, recipe(**changes), progress=silent)

    assert not (tmp_path / "run").exists()


def test_learning_that_diverges_stops_and_writes_nothing(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="diverged near step"):
        finetune(checkpoint, images, tmp_path / "qat.safetensors", recipe(learning_rate=1e30), progress=silent)

    assert not (tmp_path / "qat.safetensors").exists()
