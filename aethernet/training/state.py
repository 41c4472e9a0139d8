"""The file a training continues from."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aethernet.artifact import atomic_path
from aethernet.errors import TrainingError
from aethernet.training.recipe import Recipe

__all__ = ["TrainingState"]

_SCHEMA_VERSION = 2


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """Everything that changes while training runs."""

    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    """Time spent, over all runs."""
    loss: float = float("nan")
    """Mean absolute error of recent steps, images in [0, 1]."""
    network: dict[str, Tensor]
    """The weights under training."""
    result: dict[str, Tensor]
    """What becomes the checkpoint: the weights' exponential moving average, or the best so far."""
    optimizer: dict[str, Any]
    """Adam's moments."""
    validations: list[tuple[int, float]] = field(default_factory=list)
    """(step, mean PSNR in dB on the held-out images)."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What was found out at the start, as plain values."""

    def save(self, path: Path, recipe: Recipe, sources: Mapping[str, str]) -> None:
        """Write in one step: a crash leaves the old file or the new one.

        Args:
            path: Target file.
            recipe: What is being trained.
            sources: What is read, each with a digest of its content.
        """
        content = {
            "schema_version": _SCHEMA_VERSION,
            "recipe": json.dumps(recipe.to_json(), sort_keys=True),
            "sources": dict(sources),
            **{name: getattr(self, name) for name in self.__slots__},
        }
        with atomic_path(path) as temporary:
            torch.save(content, temporary)

    @classmethod
    def load(cls, path: Path, recipe: Recipe, sources: Mapping[str, str]) -> TrainingState:
        """Read what :meth:`save` wrote, on the CPU, without executing code.

        Raises:
            TrainingError: The file is damaged, or belongs to another recipe or other sources.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            version = content["schema_version"]
            saved, saved_sources = json.loads(content["recipe"]), dict(content["sources"])
            state = cls(**{name: content[name] for name in cls.__slots__})
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
            raise TrainingError(
                f"cannot continue from {path}: not a training state ({error})",
                hint="delete the file to start again, or give another output folder",
            ) from error
        if version != _SCHEMA_VERSION:
            raise TrainingError(f"expected a training state of version {_SCHEMA_VERSION}, found {version} in {path}")
        _refuse_changes(path, saved, recipe)
        for name in sorted(saved_sources.keys() | sources.keys()):
            if saved_sources.get(name) != sources.get(name):
                raise TrainingError(
                    f"cannot continue from {path}: the {name} changed since",
                    hint=f"give the same {name} to continue, or another output folder to start again",
                )
        return state


def _refuse_changes(path: Path, saved: dict[str, Any], recipe: Recipe) -> None:
    wanted = json.loads(json.dumps(recipe.to_json()))
    changed = [
        f"{name} was {saved.get(name)} and is now {wanted.get(name)}"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]
    if changed:
        raise TrainingError(
            f"cannot continue from {path}: the recipe has changed ({'; '.join(changed)})",
            hint="give the same recipe to continue, or another output folder to start again",
        )
