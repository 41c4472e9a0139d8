"""Fine-tuning for int8: the float network teaches its own int8 form, on any folder of pictures, without originals.

The student starts where calibration ends and learns weights, biases and ranges with rounding on, its gradient passing
straight through (Jacob et al. 2018, arXiv:1712.05877; ranges: Esser et al. 2020, arXiv:1902.08153). What it comes to
resemble is the float network's output (Hinton et al. 2015, arXiv:1503.02531), so pictures need no partner in high
resolution. Interrupted at any moment it goes on to the very result it would have had.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from aethernet.artifact import file_digest
from aethernet.checkpoint import LoadedNetwork, load, save_finetuned
from aethernet.errors import TrainingError, UsageError
from aethernet.images.downscaling import Pixels
from aethernet.networks import AetherNet
from aethernet.networks.fusion import fuse
from aethernet.networks.network import as_aethernet
from aethernet.quantization.calibration import as_input, crops_of
from aethernet.quantization.finetuned import FinetunedInt8, FinetuningFacts
from aethernet.quantization.learning import finished, start_learning
from aethernet.quantization.modules import Mode, set_mode
from aethernet.quantization.post_training import quantize
from aethernet.quantization.structure import gated_units, restructure
from aethernet.training.pictures import PictureFolder
from aethernet.training.progress import Alarm, ProgressReport, Standing, show_progress
from aethernet.training.recipe import FinetuningRecipe
from aethernet.training.state import TrainingState
from aethernet.training.trainer import as_tensor, best_device

if TYPE_CHECKING:
    from aethernet.images.files import ImageArray

__all__ = ["Closeness", "FinetuningResult", "finetune"]

logger = logging.getLogger(__name__)

_CROP_SIDE, _CALIBRATION_CROPS, _HELD_OUT_CROPS = 96, 16, 16
"""Calibration and every measurement look at so many crops of this side, spread over the pictures."""
_MEASUREMENTS = 10
"""On the way; the best of them is kept."""
_LOOK_EVERY = 20
"""Steps between looks at the loss; each look waits for the device."""
_REPORT_SECONDS = 30.0
_LEAST = 0.01
"""Mean square error that is as good as none, in squares of 8-bit levels: 68 dB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closeness:
    """How near an int8 network's pictures are to the float network's, both clipped to [0, 1], over held-out crops."""

    psnr: float
    """dB, mean over the crops."""
    tint: float
    """Largest mean error of a channel over one crop, in 8-bit levels."""
    error: float
    """What fine-tuning makes small, mean over the crops; see :func:`_errors`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuningResult:
    """What a finished fine-tuning leaves."""

    checkpoint: Path
    """The float weights as they were, and the int8 network beside them."""
    steps: int
    seconds: float
    """Time spent, over all runs."""
    before: Closeness
    """After calibration alone."""
    after: Closeness
    """Of the network that was kept."""
    best_step: int
    """After which that was; 0: calibration could not be improved."""


def finetune(
    checkpoint: Path,
    pictures: Path,
    output: Path,
    recipe: FinetuningRecipe | None = None,
    *,
    validation: Path | None = None,
    residual_scale: float | None = None,
    device: str | None = None,
    state_minutes: float = 2.0,
    progress: ProgressReport | None = None,
) -> FinetuningResult:
    """Fine-tune a checkpoint's int8 form, or continue where an earlier call with the same arguments was interrupted.

    Writes ``output``, a checkpoint for the release flow, when it is done, and ``output`` with ``.state.pt`` for its
    suffix on the way: a kill at any moment loses at most ``state_minutes``.

    Args:
        checkpoint: Any AetherNet checkpoint that is not int8 already.
        pictures: Folder of pictures as the network gets them (low resolution), read recursively.
        output: The safetensors file to write.
        recipe: What decides the result.
        validation: Folder of held-out pictures to choose the best by; None: other crops of the same pictures.
        residual_scale: Generation 3's residual scale, where the checkpoint does not record it.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None takes a GPU where there is one.
        state_minutes: Time between two states.
        progress: Told where fine-tuning stands; None shows a bar or log lines on standard error.

    Raises:
        UsageError: ``output`` is no safetensors file, or the checkpoint is an int8 network.
        TrainingError: No usable pictures, a state of another run, or learning that diverged.
        CheckpointError: The checkpoint cannot be used.
    """
    recipe = recipe or FinetuningRecipe()
    if output.suffix != ".safetensors":
        raise UsageError(f"expected an output that ends in .safetensors, found {output}")
    loaded = load(checkpoint, residual_scale=residual_scale)
    if loaded.int8:
        raise UsageError(f"expected a float checkpoint to fine-tune, found an int8 network: {checkpoint}")
    channels = loaded.config.in_channels
    folder = PictureFolder(pictures, scale=1, channels=channels, smallest=recipe.patch, octaves=recipe.octaves)
    held_out = PictureFolder(validation, scale=1, channels=channels) if validation is not None else folder
    sources = {
        "checkpoint": file_digest(checkpoint),
        "residual scale": str(as_aethernet(loaded.model).config.residual_scale),
        "pictures": folder.digest,
        "held-out pictures": held_out.digest,
    }
    tuner = _Finetuner(recipe, loaded, folder, held_out, sources, output, torch.device(device or best_device()))
    with nullcontext(progress) if progress else show_progress() as report:
        return tuner.run(60 * state_minutes, report)


class _Finetuner:
    def __init__(
        self,
        recipe: FinetuningRecipe,
        loaded: LoadedNetwork,
        folder: PictureFolder,
        held_out: PictureFolder,
        sources: dict[str, str],
        output: Path,
        device: torch.device,
    ) -> None:
        self.recipe, self.loaded, self.folder, self.sources, self.device = recipe, loaded, folder, sources, device
        self.output, self.state_path = output, output.with_suffix(".state.pt")
        self.fused = fuse(as_aethernet(loaded.model)).eval().requires_grad_(False)
        self.teacher = self._placed(copy.deepcopy(self.fused))
        self.held_out = [
            (crop, _answer(self.teacher, crop))
            for crop in (
                as_input(crop).to(device) for crop in _spread_crops(held_out, _HELD_OUT_CROPS, recipe.seed + 1)
            )
        ]
        if self.state_path.exists():
            state = TrainingState.load(self.state_path, recipe, sources)
            logger.info("continuing from %s at step %d", self.state_path, state.step)
        else:
            state = self._first_state()
        self.network = self._placed(self._network(state.network, state.facts))
        moving = start_learning(self.network)
        self.units: list[float] = state.facts.setdefault("units", [_unit(one.detach()) for one in moving])
        self.optimizer = torch.optim.Adam([{"params": [one]} for one in moving], betas=(0.9, 0.99))
        if state.optimizer:
            self.optimizer.load_state_dict(state.optimizer)
        self.step, self.seconds, self.loss = state.step, state.seconds, state.loss
        self.result, self.validations, self.facts = state.result, state.validations, state.facts

    def _placed(self, network: AetherNet) -> AetherNet:
        placed: AetherNet = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return placed

    def _first_state(self) -> TrainingState:
        recipe = self.recipe
        calibrated = quantize(
            self.fused,
            pictures=_spread_crops(self.folder, _CALIBRATION_CROPS, recipe.seed),
            records=self.loaded.quantization,
            keep_float=recipe.keep_float,
            seed=recipe.seed,
            freeze=False,
        )
        start = finished(as_aethernet(calibrated.model))
        closeness = asdict(self._closeness(self._placed(start)))
        return TrainingState(
            network=calibrated.model.state_dict(),
            result=start.state_dict(),
            optimizer={},
            facts={
                "slope": calibrated.slope,
                "keep_float": list(calibrated.keep_float),
                "before": closeness,
                "after": closeness,
                "best_step": 0,
            },
        )

    def _network(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> AetherNet:
        # The slope of generation 1's gates is in the tensors already.
        slopes = dict.fromkeys(gated_units(self.fused), 1.0)
        network = restructure(self.fused, slopes=slopes, keep_float=facts["keep_float"])
        network.load_state_dict(tensors)
        return network

    def _save(self) -> None:
        state = TrainingState(
            step=self.step,
            seconds=self.seconds,
            loss=self.loss,
            network=self.network.state_dict(),
            result=self.result,
            optimizer=self.optimizer.state_dict(),
            validations=self.validations,
            facts=self.facts,
        )
        state.save(self.state_path, self.recipe, self.sources)

    def run(self, state_seconds: float, report: ProgressReport) -> FinetuningResult:
        steps = self.recipe.steps
        measure_every = max(1, steps // _MEASUREMENTS)
        began, seconds_before = time.monotonic(), self.seconds
        state_due, report_due = Alarm(state_seconds), Alarm(_REPORT_SECONDS)
        total, looked_at = torch.zeros((), device=self.device), self.step
        if self.step == 0:
            self._save()  # calibration takes long enough not to be done twice
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="crops") as executor:
            upcoming = executor.submit(self._crops, self.step)
            while self.step < steps:
                low = upcoming.result()
                upcoming = executor.submit(self._crops, self.step + 1)
                total += self._learn(low)
                self.step += 1
                if measured := self.step % measure_every == 0 or self.step == steps:
                    self._measure()
                self.seconds = seconds_before + time.monotonic() - began
                if measured or self.step - looked_at >= _LOOK_EVERY:
                    self._look_at(float(total) / (self.step - looked_at))
                    total, looked_at = torch.zeros_like(total), self.step
                    if state_due.rings() or self.step == steps:
                        self._save()
                    if measured or report_due.rings():
                        report(self._standing())
            upcoming.cancel()
        return self._finish()

    def _crops(self, step: int) -> Pixels:
        recipe = self.recipe
        low, _, _ = self.folder.batch(
            step, seed=recipe.seed, size=recipe.batch, patch=recipe.patch, candidates=recipe.candidates
        )
        return low

    def _learn(self, low: Pixels) -> Tensor:
        pictures = as_tensor(low, self.device)
        with torch.no_grad():
            wanted = self.teacher(pictures)
        loss = _errors(self.network(pictures), wanted, self.recipe.tint_weight).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        rate = self.recipe.learning_rate_at(self.step)
        for group, unit in zip(self.optimizer.param_groups, self.units, strict=True):
            group["lr"] = rate * unit
        self.optimizer.step()
        return loss.detach()

    def _look_at(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"fine-tuning diverged near step {self.step} (loss {loss}); the last state from before is kept",
                hint="fine-tune again into another output file with a lower learning_rate",
            )
        self.loss = loss

    def _measure(self) -> None:
        candidate = finished(self.network)
        closeness = self._closeness(self._placed(candidate))
        self.validations.append((self.step, closeness.psnr))
        if closeness.error < self.facts["after"]["error"]:
            self.facts |= {"after": asdict(closeness), "best_step": self.step}
            self.result = candidate.state_dict()

    def _closeness(self, network: AetherNet) -> Closeness:
        answers = [(_answer(network, crop), wanted) for crop, wanted in self.held_out]
        errors = [float(_errors(answer, wanted, self.recipe.tint_weight)) for answer, wanted in answers]
        differences = [answer.clamp(0, 1) - wanted.clamp(0, 1) for answer, wanted in answers]
        squares = [max(float(one.square().mean()), 1e-12) for one in differences]
        return Closeness(
            psnr=float(np.mean([-10 * math.log10(square) for square in squares])),
            tint=255 * max(float(one.mean(dim=(2, 3)).abs().max()) for one in differences),
            error=float(np.mean(errors)),
        )

    def _standing(self) -> Standing:
        done = self.step / self.recipe.steps
        return Standing(
            step=self.step,
            progress=done,
            seconds=self.seconds,
            remaining_seconds=self.seconds / done * (1 - done),
            loss=self.loss,
            psnr=self.validations[-1][1] if self.validations else None,
        )

    def _finish(self) -> FinetuningResult:
        network = self._network(self.result, self.facts)
        set_mode(network, Mode.ON)
        before, after = Closeness(**self.facts["before"]), Closeness(**self.facts["after"])
        facts = FinetuningFacts(
            steps=self.facts["best_step"],
            pictures=len({pair.name for pair in self.folder.pairs}),
            pictures_sha256=self.folder.digest,
            psnr_before=before.psnr,
            psnr_after=after.psnr,
            tint_before=before.tint,
            tint_after=after.tint,
        )
        finetuned = FinetunedInt8(model=network, slope=self.facts["slope"], facts=facts)
        return FinetuningResult(
            checkpoint=save_finetuned(self.loaded.model, finetuned, self.output),
            steps=self.step,
            seconds=self.seconds,
            before=before,
            after=after,
            best_step=self.facts["best_step"],
        )


def _unit(tensor: Tensor) -> float:
    """By what a tensor moves in a step of size one: layers differ by orders of magnitude, steps of their grids do not.

    A scale may move eight times as far: its gradient is a sum over all values it rounds (measured on a small network:
    1.9 dB gained in 60 steps, without it 0.7).
    """
    return float(tensor.abs().max()) / (16 if tensor.numel() == 1 else 127)


def _errors(answer: Tensor, wanted: Tensor, tint_weight: float) -> Tensor:
    """Per picture, [N]: mean square error plus weighted square of each channel's mean error, in dB (0: one level).

    Only what a viewer sees counts: where the wanted value lies beyond [0, 1], so may the answer. In decibels a crop on
    which the network is far off does not drown the others.
    """
    seen = torch.where(wanted >= 1, answer.clamp(max=1), torch.where(wanted <= 0, answer.clamp(min=0), answer))
    difference = 255 * (seen - wanted.clamp(0, 1))
    tint = difference.mean(dim=(2, 3)).square().mean(dim=1)
    return 10 * torch.log10(difference.square().mean(dim=(1, 2, 3)) + tint_weight * tint + _LEAST)


@torch.no_grad()
def _answer(network: AetherNet, picture: Tensor) -> Tensor:
    answer: Tensor = network(picture)
    return answer


def _spread_crops(folder: PictureFolder, number: int, seed: int) -> list[ImageArray]:
    """At most ``number`` crops, from pictures spread evenly over the folder."""
    pairs = folder.pairs
    chosen = [pairs[index] for index in np.linspace(0, len(pairs) - 1, min(number, len(pairs))).astype(int)]
    pictures = (pair.low.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255) for pair in chosen)
    return crops_of(pictures, _CROP_SIDE, -(-number // len(chosen)), seed)[:number]
