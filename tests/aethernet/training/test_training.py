"""Training: what it reads, what it learns, and that an interruption changes nothing."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from aethernet.checkpoint import save_safetensors
from aethernet.errors import TrainingError, UsageError
from aethernet.images.downscaling import Pixels, downscale, upsample_bicubic
from aethernet.networks import FoldState, NetworkConfig, build_network, preset_config
from aethernet.training import TrainingRecipe, trainer
from aethernet.training.dataset import ImageFolder, psnr
from aethernet.training.depthwise import speed_up_depthwise_
from aethernet.training.initialisation import start_as_nearest_neighbour_
from aethernet.training.progress import Standing
from aethernet.training.synthetic_patches import extreme
from aethernet.training.trainer import train

MICRO = NetworkConfig(
    generation=2, scale=2, embed_dim=16, depths=(1,), hidden_channels=16, large_kernel=5, small_kernel=3
)


def recipe(**changes: object) -> TrainingRecipe:
    plain = TrainingRecipe(
        network=MICRO, name="micro", steps=60, patch=8, batch=2, warmup_steps=5, pyramid_levels=1, learning_rate=2e-3
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def image(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    """Coloured stripes at an angle: edges that enlargement can get wrong."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    phase = rows * random.uniform(0.2, 0.8) + columns * random.uniform(0.2, 0.8)
    stripes = 127.5 + 120 * np.sin(phase[..., None] + random.uniform(0, 6, 3))
    return Image.fromarray(stripes.round().astype(np.uint8))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    image(1).save(folder / "one.png")
    image(2).save(folder / "deeper" / "two.webp", lossless=True)
    image(3).save(folder / "deeper" / "three.JPG", quality=95)
    return folder


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    folder = tmp_path / "held_out"
    folder.mkdir()
    image(4).save(folder / "four.png")
    return folder


def silent(standing: Standing) -> None:
    """No progress output."""


# --- what is learned -------------------------------------------------------------------------------------------------


def test_loss_falls_and_the_network_improves(images: Path, held_out: Path, tmp_path: Path) -> None:
    standings: list[Standing] = []

    result = train(
        recipe(steps=200, learning_rate=4e-3),
        images,
        tmp_path / "run",
        validation=held_out,
        validation_minutes=0,
        progress=standings.append,
    )

    assert result.steps == 200
    assert result.loss == standings[-1].loss
    assert standings[-1].loss < 0.6 * standings[0].loss
    assert result.psnr is not None
    assert standings[0].psnr is not None
    assert result.psnr > standings[0].psnr > 0
    assert standings[-1].remaining_seconds == 0


def test_the_loss_in_decibels_is_lowered_and_told_in_hundredths(images: Path, held_out: Path, tmp_path: Path) -> None:
    result = train(recipe(loss="psnr", steps=120), images, tmp_path / "out", validation=held_out, progress=silent)
    first = train(recipe(loss="psnr", steps=1), images, tmp_path / "first", progress=silent)

    assert result.psnr > result.bicubic_psnr
    assert -0.5 < result.loss < first.loss < 0


def test_flat_crops_do_not_decide_the_loss_in_decibels() -> None:
    off = torch.tensor([1e-4, 1e-1]).view(2, 1, 1, 1).expand(2, 3, 4, 4).clone().requires_grad_()

    trainer._loss(off, torch.zeros_like(off), torch.ones(2), "psnr").backward()  # type: ignore[no-untyped-call]

    nearly_perfect, bad = off.grad.abs().sum(dim=(1, 2, 3))
    assert nearly_perfect < bad  # by its logarithm alone it would be pulled a thousand times as hard


def test_equal_recipes_give_equal_weights_and_another_seed_other_ones(images: Path, tmp_path: Path) -> None:
    first = train(recipe(steps=3), images, tmp_path / "first", progress=silent).checkpoint.read_bytes()

    assert train(recipe(steps=3), images, tmp_path / "again", progress=silent).checkpoint.read_bytes() == first
    assert train(recipe(steps=3, seed=1), images, tmp_path / "other", progress=silent).checkpoint.read_bytes() != first


def test_checkpoint_holds_the_averaged_weights_in_training_form(images: Path, tmp_path: Path) -> None:
    result = train(recipe(), images, tmp_path / "run", progress=silent)

    saved = load_file(result.checkpoint)
    state = torch.load(tmp_path / "run" / "micro.state.pt", weights_only=True)
    assert result.checkpoint == tmp_path / "run" / "micro.safetensors"
    assert saved.keys() == build_network(MICRO).state_dict().keys()
    assert all(torch.equal(saved[name], state["result"][name]) for name in saved)
    assert not torch.equal(saved["conv_last.weight"], state["network"]["conv_last.weight"])


def test_average_follows_the_stated_decay(images: Path, tmp_path: Path) -> None:
    result = train(recipe(steps=1), images, tmp_path / "run", progress=silent)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = build_network(MICRO)
    start_as_nearest_neighbour_(start)
    trained = torch.load(tmp_path / "run" / "micro.state.pt", weights_only=True)["network"]["conv_last.weight"]
    expected = 0.1 * start.conv_last.weight.detach() + 0.9 * trained
    torch.testing.assert_close(load_file(result.checkpoint)["conv_last.weight"], expected)


def test_norms_collect_statistics_in_the_stated_share_only(images: Path, tmp_path: Path) -> None:
    never = train(recipe(steps=4, batch_statistics_share=0.0), images, tmp_path / "never", progress=silent)
    half = train(recipe(steps=4, batch_statistics_share=0.5), images, tmp_path / "half", progress=silent)

    assert torch.all(load_file(never.checkpoint)["norm.running_mean"] == 0)
    assert torch.any(load_file(half.checkpoint)["norm.running_mean"] != 0)


def test_frozen_norms_keep_the_statistics_they_start_with(images: Path, tmp_path: Path) -> None:
    first = train(recipe(steps=4), images, tmp_path / "first", progress=silent).checkpoint
    frozen = recipe(steps=4, batch_statistics_share=0.0)

    second = train(frozen, images, tmp_path / "second", initial=first, progress=silent).checkpoint

    before, after = load_file(first), load_file(second)
    assert torch.equal(before["norm.running_var"], after["norm.running_var"])
    assert not torch.equal(before["conv_last.weight"], after["conv_last.weight"])


@pytest.mark.parametrize("gain", [1e3, 1e15])
def test_a_network_far_outside_the_range_is_brought_back(gain: float, images: Path, tmp_path: Path) -> None:
    network = build_network(MICRO)
    network.conv_last.bias.data += gain
    initial = save_safetensors(network, tmp_path / "initial.safetensors")
    standings: list[Standing] = []

    train(recipe(steps=100), images, tmp_path / "run", initial=initial, progress=standings.append)

    # The logarithm: 7.9 and 35.5 at first instead of 1e3 and 1e15, whose gradient would drown every other.
    assert 1 < standings[-1].loss <= np.log(gain) + 1.1


def test_a_network_that_overflows_is_called_diverged(images: Path, tmp_path: Path) -> None:
    network = build_network(MICRO)
    network.conv_first.bias.data += 1e30
    initial = save_safetensors(network, tmp_path / "initial.safetensors")

    with pytest.raises(TrainingError, match="training diverged near step 50"):
        train(recipe(batch_statistics_share=0.0), images, tmp_path / "run", initial=initial, progress=silent)


def test_single_steps_that_overflow_leave_the_weights_alone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, spoilt = trainer.as_tensor, iter([True, *[False] * 1000])

    def overflowing(pixels: Pixels, device: torch.device) -> torch.Tensor:
        return batch(pixels, device) * (float("inf") if next(spoilt) else 1)

    monkeypatch.setattr(trainer, "as_tensor", overflowing)

    result = train(recipe(batch_statistics_share=0.0), images, tmp_path / "run", progress=silent)

    assert np.isfinite(result.loss)
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(result.checkpoint).values())


def test_bfloat16_training_keeps_float32_weights(images: Path, tmp_path: Path) -> None:
    result = train(recipe(steps=2, bfloat16=True), images, tmp_path / "run", progress=silent)

    floating = [tensor for tensor in load_file(result.checkpoint).values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floating} == {torch.float32}


def test_time_limit_ends_training(images: Path, tmp_path: Path) -> None:
    result = train(recipe(steps=None, hours=0.2 / 3600), images, tmp_path / "run", progress=silent)

    assert result.seconds >= 0.2
    assert result.steps > 0


def test_held_out_psnr_is_reported_beside_bicubic(images: Path, held_out: Path, tmp_path: Path) -> None:
    result = train(recipe(steps=1), images, tmp_path / "run", validation=held_out, progress=silent)

    high = np.asarray(Image.open(held_out / "four.png"))
    low = np.asarray(Image.open(held_out / "four.png").resize((24, 20), Image.Resampling.BICUBIC))
    bicubic = np.asarray(Image.fromarray(low).resize((48, 40), Image.Resampling.BICUBIC))
    assert result.bicubic_psnr == psnr(bicubic, high)
    assert result.psnr is not None
    assert result.validations == ((1, result.psnr),)


def test_without_held_out_images_there_is_no_psnr(images: Path, tmp_path: Path) -> None:
    result = train(recipe(steps=1), images, tmp_path / "run", progress=silent)

    assert result.psnr is None
    assert result.bicubic_psnr is None


# --- interruption ----------------------------------------------------------------------------------------------------

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
"""As conftest sets it here: the number of threads decides the order of sums."""

_TRAIN_UNTIL_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_training import recipe, train
train(recipe(), Path(sys.argv[2]), Path(sys.argv[3]), validation=Path(sys.argv[4]), state_minutes=0,
      validation_minutes=0, progress=lambda standing: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.long
def test_training_killed_and_continued_gives_the_weights_of_an_uninterrupted_one(
    images: Path, held_out: Path, tmp_path: Path
) -> None:
    arguments = [str(Path(__file__).parent), str(images), str(tmp_path / "killed"), str(held_out)]
    killed = subprocess.run([sys.executable, "-c", _TRAIN_UNTIL_KILLED, *arguments], check=False, env=ONE_THREAD)
    left_behind = torch.load(tmp_path / "killed" / "micro.state.pt", weights_only=True)["step"]

    continued = train(recipe(), images, tmp_path / "killed", progress=silent)
    uninterrupted = train(recipe(), images, tmp_path / "whole", progress=silent)

    assert killed.returncode == -signal.SIGKILL
    assert 0 < left_behind < 60
    assert continued.checkpoint.read_bytes() == uninterrupted.checkpoint.read_bytes()


def test_finished_training_returns_at_once(images: Path, tmp_path: Path) -> None:
    first = train(recipe(steps=2), images, tmp_path / "run", progress=silent)
    content = first.checkpoint.read_bytes()

    again = train(recipe(steps=2), images, tmp_path / "run", progress=silent)

    assert again.steps == 2
    assert again.seconds == first.seconds
    assert again.checkpoint.read_bytes() == content


def test_changed_recipe_is_refused_and_the_change_named(images: Path, tmp_path: Path) -> None:
    train(recipe(steps=1), images, tmp_path / "run", progress=silent)

    with pytest.raises(
        TrainingError, match=r"learning_rate was 0\.002 and is now 0\.5; steps was 1 and is now 2"
    ) as caught:
        train(recipe(steps=2, learning_rate=0.5), images, tmp_path / "run", progress=silent)

    assert "another output folder" in caught.value.hint


def test_changed_images_are_refused(images: Path, tmp_path: Path) -> None:
    train(recipe(steps=1), images, tmp_path / "run", progress=silent)
    image(9).save(images / "new.png")

    with pytest.raises(TrainingError, match="the training images changed since"):
        train(recipe(steps=1), images, tmp_path / "run", progress=silent)


def test_training_may_start_from_a_checkpoint(images: Path, tmp_path: Path) -> None:
    first = train(recipe(steps=5), images, tmp_path / "first", progress=silent).checkpoint
    standstill = recipe(steps=1, learning_rate=1e-30, batch_statistics_share=0.0)

    second = train(standstill, images, tmp_path / "second", initial=first, progress=silent).checkpoint

    before, after = load_file(first), load_file(second)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_continuing_with_another_initial_checkpoint_is_refused(images: Path, tmp_path: Path) -> None:
    first = train(recipe(steps=1), images, tmp_path / "first", progress=silent).checkpoint

    with pytest.raises(TrainingError, match="the initial checkpoint changed since"):
        train(recipe(steps=1), images, tmp_path / "first", initial=first, progress=silent)


@pytest.mark.parametrize("form", [FoldState.TRAINING, FoldState.FUSED])
def test_initial_checkpoint_of_another_network_or_form_is_refused(
    form: FoldState, images: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(MICRO, embed_dim=24) if form is FoldState.TRAINING else MICRO
    initial = save_safetensors(build_network(config, form), tmp_path / "initial.safetensors")

    with pytest.raises(TrainingError, match="the recipe's network in training form"):
        train(recipe(steps=1), images, tmp_path / "run", initial=initial, progress=silent)


@pytest.mark.parametrize("damage", [b"", b"not a state", b"PK\x03\x04 cut short"])
def test_damaged_state_is_a_clear_error(damage: bytes, images: Path, tmp_path: Path) -> None:
    (tmp_path / "micro.state.pt").write_bytes(damage)

    with pytest.raises(TrainingError, match=r"micro\.state\.pt: not a training state"):
        train(recipe(steps=1), images, tmp_path, progress=silent)


def test_state_that_would_run_code_is_refused(images: Path, tmp_path: Path) -> None:
    torch.save({"schema_version": Path}, tmp_path / "micro.state.pt")

    with pytest.raises(TrainingError, match="not a training state"):
        train(recipe(steps=1), images, tmp_path, progress=silent)


def test_diverging_training_stops_and_leaves_no_checkpoint(images: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="training diverged near step") as caught:
        train(recipe(learning_rate=1e30, warmup_steps=0), images, tmp_path / "run", progress=silent)

    assert "learning_rate" in caught.value.hint
    assert not (tmp_path / "run").exists()


# --- images --------------------------------------------------------------------------------------------------------


def test_unusable_images_are_skipped_and_named(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    (images / "broken.png").write_bytes(b"no image")
    (images / "cut.png").write_bytes((images / "one.png").read_bytes()[:400])
    (images / "gone.png").symlink_to("nowhere.png")
    (images / "notes.txt").write_text("not meant as an image")
    (images / "twin.png").write_bytes((images / "one.png").read_bytes())
    Image.new("I;16", (48, 48)).save(images / "deep.png")
    image(5, width=15).save(images / "narrow.png")

    with caplog.at_level(logging.WARNING):
        folder = ImageFolder(images, scale=2, channels=3, smallest=8)

    assert [pair.name for pair in folder.pairs] == ["deeper/three.JPG", "deeper/two.webp", "one.png"]
    skipped = sorted(message.split(":")[0] for message in caplog.messages)
    assert skipped == [f"skipped {name}.png" for name in ("broken", "cut", "deep", "gone", "narrow", "twin")]


@pytest.mark.parametrize("content", [{}, {"broken.png": b"no image"}])
def test_folder_without_usable_images_is_a_clear_error(content: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)

    with pytest.raises(TrainingError, match="no usable image") as caught:
        train(recipe(), tmp_path, tmp_path / "run", progress=silent)

    assert "at least 16 pixels a side" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="expected a folder of images"):
        train(recipe(), tmp_path / "nowhere", tmp_path / "run", progress=silent)


def test_downsampling_is_pillows_antialiased_bicubic() -> None:
    colours = image(6)

    expected = np.asarray(colours.resize((24, 20), Image.Resampling.BICUBIC))
    assert np.array_equal(downscale(np.asarray(colours), 2), expected)


def test_bicubic_kernel_is_the_cubic_with_a_half_widened_by_the_factor() -> None:
    impulse = np.zeros((32, 32, 1), np.uint8)
    impulse[16] = 255

    def cubic(x: float) -> float:
        x = abs(x)
        return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    centres = np.arange(16) * 2 + 0.5
    expected = np.clip(np.round([255 * cubic((16 - centre) / 2) / 2 for centre in centres]), 0, 255)
    assert downscale(impulse, 2)[:, 16 // 2, 0].tolist() == expected.tolist()


def test_box_kernel_is_the_mean() -> None:
    pixels = np.asarray(image(7))

    mean = pixels.reshape(20, 2, 24, 2, 3).mean(axis=(1, 3))
    assert np.abs(downscale(pixels, 2, "box") - mean).max() <= 1


def test_dpid_keeps_a_line_that_the_mean_blurs() -> None:
    line = np.zeros((16, 16, 3), np.uint8)
    line[:, 8] = 200

    assert downscale(line, 2, "box")[4, 4].tolist() == [100] * 3
    # Distances to the surrounding mean (50 at the line): 150 and 50, so the line weighs sqrt(3) times as much.
    assert downscale(line, 2, "dpid")[4, 4].tolist() == [round(200 * 3**0.5 / (3**0.5 + 1))] * 3


def test_dpid_keeps_flat_areas() -> None:
    flat = np.full((12, 18, 3), 77, np.uint8)

    assert np.array_equal(downscale(flat, 3, "dpid"), flat[:4, :6])


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match="divide by 2, found 47x40"):
        downscale(np.asarray(image(1, width=47)), 2)


def test_bicubic_enlargement_is_pillows() -> None:
    colours = image(8)

    expected = np.asarray(colours.resize((96, 80), Image.Resampling.BICUBIC))
    assert np.array_equal(upsample_bicubic(np.asarray(colours), 2), expected)


def test_crops_are_a_function_of_seed_and_step(images: Path) -> None:
    folder = ImageFolder(images, scale=2, channels=3, smallest=8)

    low, high, _ = folder.batch(3, seed=1, size=4, patch=8, candidates=2)

    again, _, _ = folder.batch(3, seed=1, size=4, patch=8, candidates=2)
    later, _, _ = folder.batch(4, seed=1, size=4, patch=8, candidates=2)
    assert low.shape == (4, 8, 8, 3)
    assert high.shape == (4, 16, 16, 3)
    assert np.array_equal(low, again)
    assert not np.array_equal(low, later)


def test_without_extremes_the_batches_stay_as_they_were(images: Path) -> None:
    folder = ImageFolder(images, scale=2, channels=3, smallest=8)

    plain, _, _ = folder.batch(3, seed=1, size=16, patch=8, candidates=2)
    mixed, _, extremes = folder.batch(3, seed=1, size=16, patch=8, candidates=2, synthetic_share=0.5)

    same = [bool(np.array_equal(one, other)) for one, other in zip(plain, mixed, strict=True)]
    assert 3 <= sum(same) <= 13
    assert extremes.tolist() == [not one for one in same]


@pytest.mark.parametrize("channels", [1, 3])
def test_extremes_are_shrunk_like_photographs(channels: int, images: Path) -> None:
    folder = ImageFolder(images, scale=2, channels=channels, smallest=8, kernels=("dpid",))

    low, high, _ = folder.batch(0, seed=0, size=32, patch=8, candidates=1, synthetic_share=1.0)

    assert high.shape == (32, 16, 16, channels)
    assert all(np.array_equal(downscale(pixels, 2, "dpid"), small) for pixels, small in zip(high, low, strict=True))


def test_extremes_reach_black_and_white_from_one_pixel_to_the_next() -> None:
    grey = np.full((32, 32, 3), 128, np.uint8)

    images = [extreme(np.random.default_rng(seed), grey, 2).astype(np.int16) for seed in range(200)]

    steps = [int(np.abs(np.diff(pixels, axis=1)).max()) for pixels in images]
    assert sum(step == 255 for step in steps) > 5
    assert sum(50 < step < 250 for step in steps) > 50
    assert any(np.unique(pixels).tolist() == [0, 255] for pixels in images)


@pytest.mark.parametrize(("weight", "learns"), [(0.0, False), (0.1, True)])
def test_extremes_count_by_their_weight(weight: float, learns: bool, images: Path, tmp_path: Path) -> None:
    changes = {"steps": 3, "synthetic_share": 1.0, "synthetic_weight": weight, "batch_statistics_share": 0.0}
    found = train(recipe(**changes), images, tmp_path / "run", progress=silent)

    fresh = train(
        recipe(steps=3, learning_rate=1e-12, batch_statistics_share=0.0), images, tmp_path / "fresh", progress=silent
    )
    assert (found.loss > 0) == learns
    weights, before = (load_file(one.checkpoint) for one in (found, fresh))
    moved = max(float((weights[name] - before[name]).abs().max()) for name in weights)
    assert (moved > 1e-6) == learns


def test_both_sides_of_a_pair_are_turned_alike(images: Path) -> None:
    folder = ImageFolder(images, scale=2, channels=3, smallest=8, kernels=("box",))

    low, high, _ = folder.batch(0, seed=0, size=16, patch=8, candidates=1)

    mean = high.reshape(16, 8, 2, 8, 2, 3).mean(axis=(2, 4))
    assert np.abs(low - mean).max() <= 1


def test_detail_is_preferred_to_flat_areas(tmp_path: Path) -> None:
    half_flat = np.zeros((40, 200, 3), np.uint8)
    half_flat[:, 160:] = np.asarray(image(1, width=40))
    Image.fromarray(half_flat).save(tmp_path / "half_flat.png")
    folder = ImageFolder(tmp_path, scale=2, channels=3, smallest=8)

    random, _, _ = folder.batch(0, seed=0, size=64, patch=8, candidates=1)
    chosen, _, _ = folder.batch(0, seed=0, size=64, patch=8, candidates=4)

    assert chosen.any(axis=(1, 2, 3)).mean() > random.any(axis=(1, 2, 3)).mean() + 0.2


def test_pyramid_levels_add_halved_copies_until_too_small(images: Path) -> None:
    folder = ImageFolder(images, scale=2, channels=3, smallest=8, pyramid_levels=5)

    sizes = [pair.high.shape[:2] for pair in folder.pairs if pair.name == "one.png"]
    assert sizes == [(40, 48), (20, 24)]


def test_grey_networks_get_grey_images(images: Path) -> None:
    folder = ImageFolder(images, scale=2, channels=1, smallest=8)

    assert folder.pairs[0].low.shape == (20, 24, 1)


def test_equal_images_have_infinite_psnr() -> None:
    pixels = np.asarray(image(1))

    assert psnr(pixels, pixels) == float("inf")
    assert psnr(pixels, pixels ^ np.uint8(1)) == pytest.approx(48.13, abs=0.01)


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("generation", "preset"), [(1, "small"), (2, "tiny"), (3, "mobile")])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_first_weights_enlarge_like_nearest_neighbour(generation: int, preset: str, scale: int) -> None:
    torch.manual_seed(0)
    network = build_network(preset_config(generation, preset, scale)).eval()
    start_as_nearest_neighbour_(network)
    x = torch.rand(1, 3, 12, 12)

    with torch.no_grad():
        difference = network(x) - F.interpolate(x, scale_factor=scale, mode="nearest")

    assert difference.abs().mean() < 0.02  # 0.25 with PyTorch's own first weights


def test_faster_depthwise_convolutions_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    network = build_network(MICRO)
    faster = build_network(MICRO)
    faster.load_state_dict(network.state_dict())
    speed_up_depthwise_(faster)
    x = torch.rand(3, 3, 9, 11)

    network(x).square().mean().backward()
    faster(x).square().mean().backward()

    assert list(faster.state_dict()) == list(network.state_dict())
    assert type(faster.get_submodule("stages.0.0.conv.lk_conv")) is not torch.nn.Conv2d
    for (name, weight), other in zip(network.named_parameters(), faster.parameters(), strict=True):
        torch.testing.assert_close(other.grad, weight.grad, msg=f"another gradient for {name}")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"steps": None}, "never end"),
        ({"patch": 0}, "positive patch"),
        ({"learning_rate": float("nan")}, "positive learning_rate"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"batch_statistics_share": 2.0}, "batch_statistics_share"),
        ({"synthetic_share": -0.1}, "synthetic_share"),
        ({"kernels": ("lanczos",)}, "expected kernels from matlab-bicubic, bicubic, box, dpid"),
        ({"kernels": ()}, "expected kernels"),
        ({"loss": "huber"}, "expected a loss from l1, psnr"),
        ({"name": "../up"}, "file stem"),
        ({"network": dataclasses.replace(MICRO, scale=1)}, "enlarges"),
    ],
)
def test_impossible_recipes_are_refused(change: dict[str, object], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        recipe(**change)


def test_step_size_warms_up_and_falls_to_zero() -> None:
    plain = recipe(learning_rate=1.0, warmup_steps=10)

    assert plain.learning_rate_at(0, 0.0) == pytest.approx(0.1)
    assert plain.learning_rate_at(30, 0.5) == pytest.approx(0.5)
    assert plain.learning_rate_at(60, 1.0) == pytest.approx(0.0)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, aethernet.training; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
