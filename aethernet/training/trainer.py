"""The training loop: L1 or PSNR loss, Adam, cosine schedule, averaged weights, and a state file to continue from."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from aethernet.artifact import file_digest
from aethernet.checkpoint import load, save_safetensors
from aethernet.errors import TrainingError
from aethernet.images.downscaling import Pixels, upsample_bicubic
from aethernet.networks import AetherNet, FoldState, build_network
from aethernet.networks.blocks import DeploymentNorm
from aethernet.training.dataset import Batch, ImageFolder, psnr
from aethernet.training.depthwise import speed_up_depthwise_
from aethernet.training.initialisation import start_as_nearest_neighbour_
from aethernet.training.progress import Alarm, ProgressReport, Standing, show_progress
from aethernet.training.recipe import Loss, TrainingRecipe
from aethernet.training.state import TrainingState

__all__ = ["TrainingResult", "as_tensor", "best_device", "train"]

logger = logging.getLogger(__name__)

_LOOK_EVERY = 50
"""Steps between looks at the loss; each look waits for the device."""
_REPORT_SECONDS = 30.0
_ATTEMPTS = 4
"""At a step whose loss or gradient overflows: each with half the contrast of the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a finished training leaves."""

    checkpoint: Path
    """The averaged weights, training form, float32."""
    steps: int
    """Optimiser steps done."""
    seconds: float
    """Time spent, over all runs."""
    loss: float
    """Mean absolute error of the last steps, images in [0, 1]."""
    psnr: float | None
    """Mean PSNR of the checkpoint on the held-out images in dB (RGB, whole image, 8-bit); None without them."""
    bicubic_psnr: float | None
    """The same for bicubic enlargement."""
    validations: tuple[tuple[int, float], ...]
    """(step, PSNR in dB) of every measurement on the way."""


def train(
    recipe: TrainingRecipe,
    images: Path,
    output: Path,
    *,
    validation: Path | None = None,
    initial: Path | None = None,
    device: str | None = None,
    state_minutes: float = 5.0,
    validation_minutes: float = 5.0,
    progress: ProgressReport | None = None,
) -> TrainingResult:
    """Train a network, or continue where an earlier call with the same recipe, images and output was interrupted.

    ``output`` receives ``NAME.safetensors`` (the averaged weights, renewed with every state) and ``NAME.state.pt``. A
    kill at any moment loses at most ``state_minutes``. A finished training returns at once when called again.

    Args:
        recipe: What decides the weights.
        images: Folder of training images, read recursively.
        output: Folder to write to; made if missing.
        validation: Folder of held-out images; used whole, so keep them small on a CPU.
        initial: Checkpoint of the same network, training form, whose weights to start from instead of fresh ones.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None takes a GPU where there is one.
        state_minutes: Time between two states.
        validation_minutes: Time between two measurements on the held-out images.
        progress: Told where training stands; None shows a bar or log lines on standard error.

    Raises:
        TrainingError: No usable images, a state of another recipe, an initial checkpoint of another network, or
            training that diverged.
    """
    config = recipe.network
    folder = ImageFolder(
        images,
        scale=config.scale,
        channels=config.in_channels,
        kernels=recipe.kernels,
        smallest=recipe.patch,
        pyramid_levels=recipe.pyramid_levels,
    )
    held_out = None
    if validation is not None:
        shrunk_with = recipe.kernels[:1]
        held_out = _HeldOut(
            ImageFolder(validation, scale=config.scale, channels=config.in_channels, kernels=shrunk_with)
        )
    trainer = _Trainer(recipe, folder, held_out, initial, output, torch.device(device or best_device()))
    with nullcontext(progress) if progress else show_progress() as report:
        return trainer.run(60 * state_minutes, 60 * validation_minutes, report)


def _fresh_network(recipe: TrainingRecipe) -> AetherNet:
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = build_network(recipe.network)
    start_as_nearest_neighbour_(network)
    return network


def _initial_weights(checkpoint: Path, recipe: TrainingRecipe) -> dict[str, Tensor]:
    loaded = load(checkpoint)
    if loaded.config != recipe.network or loaded.form is not FoldState.TRAINING:
        raise TrainingError(
            f"expected the recipe's network in training form as initial checkpoint, found another one in {checkpoint}",
            hint="start from a checkpoint of the same network that was not merged or fused, or from fresh weights",
        )
    return loaded.model.state_dict()


def best_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class _HeldOut:
    """Images the training never sees."""

    def __init__(self, folder: ImageFolder) -> None:
        self._pairs = folder.pairs
        self.bicubic_psnr = float(
            np.mean([psnr(upsample_bicubic(pair.low, folder.scale), pair.high) for pair in folder.pairs])
        )
        """Mean over the images, dB."""

    def psnr(self, network: AetherNet) -> float:
        """Mean over the images in dB: RGB, nothing cut off, output rounded to 8 bits."""
        return float(np.mean([psnr(_enlarge(network, pair.low), pair.high) for pair in self._pairs]))


_PSNR_FLOOR = 1e-4
"""Mean square error (40 dB) at which a crop's share in the ``psnr`` loss is halved: flat crops must not decide it."""


def _loss(enlarged: Tensor, high: Tensor, weights: Tensor, kind: Loss = "l1") -> Tensor:
    """A crop's error by its weight; an error beyond 1, which no image reaches, counts by its logarithm.

    A network that leaves the range by orders of magnitude would otherwise lose its gradient to overflow.

    Args:
        enlarged: [N, C, H, W], what the network made.
        high: The same shape, 0 to 1, what it should have made.
        weights: [N], what each crop counts.
        kind: ``l1``: mean absolute error. ``psnr``: a hundredth of the negative PSNR in dB, crop by crop (as in
            Chen et al. 2022, arXiv:2204.04676), which makes gradients about as large as those of ``l1``.
    """
    error = (enlarged - high).abs()
    inside, beyond = error.clamp(max=1), error.clamp(min=1).log()
    if kind == "l1":
        return ((inside + beyond).mean(dim=(1, 2, 3)) * weights).mean()
    square = (inside.square() + 2 * beyond).mean(dim=(1, 2, 3))
    return (0.1 * (square + _PSNR_FLOOR).log10() * weights).mean()


@torch.inference_mode()
def _enlarge(network: AetherNet, low: Pixels) -> Pixels:
    device = next(network.parameters()).device
    enlarged = network(as_tensor(low[None], device)).clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels: Pixels = enlarged[0].permute(1, 2, 0).cpu().numpy()
    return pixels


def as_tensor(pixels: Pixels, device: torch.device) -> Tensor:
    """[N, H, W, C] of 0..255 -> [N, C, H, W] of 0..1, channels last in memory."""
    return torch.from_numpy(pixels).to(device, non_blocking=True).permute(0, 3, 1, 2).float().div(255)


class _Trainer:
    def __init__(
        self,
        recipe: TrainingRecipe,
        folder: ImageFolder,
        held_out: _HeldOut | None,
        initial: Path | None,
        output: Path,
        device: torch.device,
    ) -> None:
        self.recipe = recipe
        self.folder = folder
        self.held_out = held_out
        self.device = device
        self.checkpoint = output / f"{recipe.name}.safetensors"
        self.state_path = output / f"{recipe.name}.state.pt"
        self.sources = {"training images": folder.digest}
        network = _fresh_network(recipe)
        if initial is not None:
            network.load_state_dict(_initial_weights(initial, recipe))
            self.sources["initial checkpoint"] = file_digest(initial)
        self.network: AetherNet = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.train()
        self.averaged = build_network(recipe.network).to(device).eval().requires_grad_(False)
        self.averaged.load_state_dict(self.network.state_dict())
        if device.type == "cpu" and recipe.bfloat16:  # in float32 PyTorch's own are the faster ones, up to twice
            speed_up_depthwise_(self.network)
        self.norms = [module for module in self.network.modules() if isinstance(module, DeploymentNorm)]
        for norm in self.norms:
            # Batch statistics need float32: half-width sums lose the variance, and the running ones are float32.
            norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.step = 0
        self.seconds = 0.0
        self.loss = math.nan
        self.overflows = 0
        """Steps since the last look whose gradient was not finite; they left the weights alone."""
        self.validations: list[tuple[int, float]] = []
        if self.state_path.exists():
            self._restore()

    def _restore(self) -> None:
        state = TrainingState.load(self.state_path, self.recipe, self.sources)
        self.network.load_state_dict(state.network)
        self.averaged.load_state_dict(state.result)
        self.optimizer.load_state_dict(state.optimizer)
        self.step, self.seconds, self.loss = state.step, state.seconds, state.loss
        self.validations = list(state.validations)
        logger.info("continuing from %s at step %d", self.state_path, self.step)

    def _save(self) -> None:
        state = TrainingState(
            step=self.step,
            seconds=self.seconds,
            loss=self.loss,
            network=self.network.state_dict(),
            result=self.averaged.state_dict(),
            optimizer=self.optimizer.state_dict(),
            validations=self.validations,
        )
        state.save(self.state_path, self.recipe, self.sources)
        save_safetensors(self.averaged, self.checkpoint)

    def run(self, state_seconds: float, validation_seconds: float, report: ProgressReport) -> TrainingResult:
        forward = torch.compile(self.network) if self.recipe.compile else self.network
        began, seconds_before = time.monotonic(), self.seconds
        state_due, validation_due, report_due = map(Alarm, (state_seconds, validation_seconds, _REPORT_SECONDS))
        total, looked_at = torch.zeros((), device=self.device), self.step
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="crops") as executor:
            upcoming = executor.submit(self._crops, self.step)
            while self._progress < 1:
                batch = upcoming.result()
                upcoming = executor.submit(self._crops, self.step + 1)
                total += self._train_step(forward, batch)
                self.step += 1
                self.seconds = seconds_before + time.monotonic() - began
                if self.step - looked_at < _LOOK_EVERY and self._progress < 1:
                    continue
                used = self.step - looked_at - self.overflows
                self._look_at(float(total) / used if 2 * used >= self.step - looked_at else math.inf)
                total, looked_at, self.overflows = torch.zeros_like(total), self.step, 0
                if validated := self.held_out is not None and validation_due.rings():
                    self._validate()
                if state_due.rings():
                    self._save()
                if validated or report_due.rings():
                    report(self._standing())
            upcoming.cancel()
        if not self.validations or self.validations[-1][0] != self.step:
            self._validate()
        self._save()
        report(self._standing())
        return TrainingResult(
            checkpoint=self.checkpoint,
            steps=self.step,
            seconds=self.seconds,
            loss=self.loss,
            psnr=self.validations[-1][1] if self.held_out else None,
            bicubic_psnr=self.held_out.bicubic_psnr if self.held_out else None,
            validations=tuple(self.validations),
        )

    @property
    def _progress(self) -> float:
        return self.recipe.progress(self.step, self.seconds)

    def _crops(self, step: int) -> Batch:
        recipe = self.recipe
        return self.folder.batch(
            step,
            seed=recipe.seed,
            size=recipe.batch,
            patch=recipe.patch,
            candidates=recipe.candidates,
            synthetic_share=recipe.synthetic_share,
        )

    def _train_step(self, forward: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        recipe, progress = self.recipe, self._progress
        low, high, extreme = batch
        weights = torch.from_numpy(np.where(extreme, np.float32(recipe.synthetic_weight), np.float32(1))).to(
            self.device
        )
        for norm in self.norms:
            norm.train(progress < recipe.batch_statistics_share)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(self.step, progress)
        for _ in range(_ATTEMPTS):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bfloat16):
                enlarged = forward(as_tensor(low, self.device))
            loss = _loss(enlarged.float(), as_tensor(high, self.device), weights, recipe.loss)
            self.optimizer.zero_grad(set_to_none=True)
            if loss.isfinite():
                loss.backward()  # type: ignore[no-untyped-call]
                if nn.utils.clip_grad_norm_(self.network.parameters(), recipe.gradient_clip).isfinite():
                    break
            low, high = low // 2 + 64, high // 2 + 64  # half the contrast: the most that still has a gradient
        else:
            self.overflows += 1
            return torch.zeros_like(loss)
        self.optimizer.step()
        self._average(recipe.ema_decay_at(self.step))
        return loss.detach()

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        for mean, weight in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)
        for kept, buffer in zip(self.averaged.buffers(), self.network.buffers(), strict=True):
            kept.copy_(buffer)

    def _look_at(self, loss: float) -> None:
        weights_are_finite = all(bool(weight.isfinite().all()) for weight in self.network.parameters())
        if not math.isfinite(loss) or not weights_are_finite:
            raise TrainingError(
                f"training diverged near step {self.step} (loss {loss}); the last state from before is kept",
                hint="train again in another output folder with a lower learning_rate",
            )
        self.loss = loss

    def _validate(self) -> None:
        if self.held_out is not None:
            self.validations.append((self.step, self.held_out.psnr(self.averaged)))

    def _standing(self) -> Standing:
        progress = self._progress
        return Standing(
            step=self.step,
            progress=progress,
            seconds=self.seconds,
            remaining_seconds=self.seconds / progress * (1 - progress) if progress else math.inf,
            loss=self.loss,
            psnr=self.validations[-1][1] if self.validations else None,
            bicubic_psnr=self.held_out.bicubic_psnr if self.held_out else None,
        )
