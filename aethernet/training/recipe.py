"""What decides the trained weights, as data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from aethernet.errors import UsageError
from aethernet.images.kernels import KERNELS

if TYPE_CHECKING:
    from aethernet.images.kernels import Kernel
    from aethernet.networks.config import NetworkConfig

__all__ = ["FinetuningRecipe", "Loss", "Recipe", "TrainingRecipe"]

Loss = Literal["l1", "psnr"]
"""What training lowers: mean absolute error, or each crop's mean square error by its logarithm (``trainer``)."""


class Recipe(Protocol):
    """What a training continues under, if it is the same as before."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object, equal for equal recipes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecipe:
    """Network, data sampling, optimiser and schedule. A run continues only under an equal recipe.

    Ended by steps alone, equal recipes and images give equal weights on one machine; a time limit counts seconds and
    therefore does not.
    """

    network: NetworkConfig
    """What to train."""
    name: str = "network"
    """Stem of the checkpoint's file name."""
    steps: int | None = None
    """Optimiser steps after which training ends; None leaves that to ``hours``."""
    hours: float | None = None
    """Hours of training, over all resumed runs together, after which it ends; None leaves that to ``steps``."""
    seed: int = 0
    """Seeds the first weights and, together with the step number, each batch."""
    patch: int = 32
    """Side of a training crop in low-resolution pixels."""
    batch: int = 8
    """Crops per step."""
    kernels: tuple[Kernel, ...] = ("bicubic", "dpid")
    """What training images are shrunk with, in equal shares; held-out ones are shrunk with the first."""
    pyramid_levels: int = 2
    """Sizes each image is used at, each half of the one before: photographs are sharper when halved."""
    candidates: int = 3
    """Random crops drawn for each one kept: the one with the most detail is, so that skies do not crowd out leaves."""
    synthetic_share: float = 0.0
    """Chance of each crop to become an extreme image (``extremes``): they bound a network where photographs end."""
    synthetic_weight: float = 1.0
    """What an extreme crop's error counts beside a photograph's. Ten times as large, it decides every step it is in;
    a tenth bounds a network, too."""
    loss: Loss = "l1"
    """``l1`` is robust, ``psnr`` pays for what is measured: decibels, in every crop alike."""
    learning_rate: float = 1e-3
    """Peak step size of Adam; a cosine brings it from there to 0 at the end."""
    warmup_steps: int = 200
    """Steps over which the step size rises from 0 to its peak."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW), per unit of step size."""
    gradient_clip: float = 1.0
    """Largest Euclidean norm of the gradient over all weights."""
    ema_decay: float = 0.999
    """Share of the averaged weights that survives a step; lower at the start, where there is nothing to average."""
    batch_statistics_share: float = 0.1
    """Share of the training in which norms use batch statistics; then the running ones stay, as in deployment."""
    bfloat16: bool = False
    """Convolve in bfloat16 (autocast); weights, averages and optimiser stay float32."""
    compile: bool = False
    """Compile the training step; needs a C++ compiler, takes about a minute, pays off in long runs."""

    def __post_init__(self) -> None:
        if self.steps is None and self.hours is None:
            raise UsageError("expected steps, hours or both, found neither: training would never end")
        _require_positive(
            self, "steps", "hours", "patch", "batch", "pyramid_levels", "candidates", "learning_rate", "gradient_clip"
        )
        if not self.kernels or any(kernel not in KERNELS for kernel in self.kernels):
            raise UsageError(f"expected kernels from {', '.join(KERNELS)}, found {self.kernels}")
        if self.loss not in get_args(Loss):
            raise UsageError(f"expected a loss from {', '.join(get_args(Loss))}, found '{self.loss}'")
        for field in ("seed", "warmup_steps", "weight_decay"):
            if not getattr(self, field) >= 0:
                raise UsageError(f"expected {field} of 0 or more, found {getattr(self, field)}")
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"expected an ema_decay from 0 to below 1, found {self.ema_decay}")
        for field in ("batch_statistics_share", "synthetic_share", "synthetic_weight"):
            if not 0 <= getattr(self, field) <= 1:
                raise UsageError(f"expected {field} from 0 to 1, found {getattr(self, field)}")
        if self.network.scale < 2:
            raise UsageError(
                f"expected a network that enlarges, found scale {self.network.scale}",
                hint="training pairs are made by shrinking images; choose scale 2, 3 or 4",
            )
        if not self.name or self.name.startswith(".") or any(separator in self.name for separator in "/\\"):
            raise UsageError(f"expected a plain file stem as name, found '{self.name}'")

    def progress(self, step: int, seconds: float) -> float:
        """How much of the training is done, 0 to 1: by steps or by time, whichever is further."""
        by_steps = step / self.steps if self.steps is not None else 0.0
        by_time = seconds / (3600 * self.hours) if self.hours is not None else 0.0
        return min(1.0, max(by_steps, by_time))

    def learning_rate_at(self, step: int, progress: float) -> float:
        """Step size for the step after ``step`` done ones."""
        warmth = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.learning_rate * warmth * (1 + math.cos(math.pi * progress)) / 2

    def ema_decay_at(self, step: int) -> float:
        """Decay of the averaged weights in step number ``step``."""
        return min(self.ema_decay, (1 + step) / (10 + step))

    def to_json(self) -> dict[str, Any]:
        """A JSON object, equal for equal recipes."""
        plain = {_stored_as(field.name): getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {"network": self.network.to_json(), "kernels": list(self.kernels)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuningRecipe:
    """How an int8 network is brought near its float network. A run continues only under an equal recipe.

    Equal recipes, checkpoints and images give equal networks on one machine's CPU.
    """

    steps: int = 500
    """Optimiser steps."""
    seed: int = 0
    """Seeds calibration and, together with the step number, each batch."""
    patch: int = 40
    """Side of a crop in pixels of the network's input."""
    batch: int = 4
    """Crops per step."""
    pyramid_levels: int = 1
    """Sizes each image is used at, each half of the one before: more than 1 for images in high resolution."""
    candidates: int = 2
    """Random crops drawn for each one kept, the one with the most detail."""
    learning_rate: float = 0.02
    """Peak step size of Adam, for weights and biases in 127ths of each tensor's largest value (about a step of the
    grid), for scales in 16ths of themselves. A cosine brings it from there to 0 at the end."""
    warmup_steps: int = 20
    """Steps over which the step size rises from 0 to its peak."""
    channel_shift_weight: float = 10.0
    """How much the square of a crop's mean error per channel counts beside its mean square error."""
    keep_float: tuple[str, ...] | None = None
    """Parts of the network to leave in float; None: those that quantising leaves by itself."""

    def __post_init__(self) -> None:
        _require_positive(self, "steps", "patch", "batch", "pyramid_levels", "candidates", "learning_rate")
        for field in ("seed", "channel_shift_weight", "warmup_steps"):
            if not 0 <= getattr(self, field) < math.inf:
                raise UsageError(f"expected {field} of 0 or more, found {getattr(self, field)}")

    def learning_rate_at(self, step: int) -> float:
        """Step size, in 127ths of a tensor's largest value, for the step after ``step`` done ones."""
        warmth = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return self.learning_rate * warmth * (1 + math.cos(math.pi * step / self.steps)) / 2

    def to_json(self) -> dict[str, Any]:
        """A JSON object, equal for equal recipes."""
        plain = {_stored_as(field.name): getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain | {"keep_float": None if self.keep_float is None else list(self.keep_float)}


def _stored_as(field: str) -> str:
    """The name a field has in saved states, so that a run which an earlier version began goes on."""
    earlier = {
        "pyramid_levels": "octaves",
        "synthetic_share": "extreme_share",
        "synthetic_weight": "extreme_weight",
        "channel_shift_weight": "tint_weight",
    }
    return earlier.get(field, field)


def _require_positive(recipe: TrainingRecipe | FinetuningRecipe, *fields: str) -> None:
    for field in fields:
        value = getattr(recipe, field)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UsageError(f"expected a positive {field}, found {value}")
