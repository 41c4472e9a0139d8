"""Train a network on a folder of images; the same command continues an interrupted training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from aethernet.training import TrainingRecipe

__all__ = ["train"]


@flow(name="train", flow_run_name="train {recipe.name}", persist_result=False, validate_parameters=False)
def train(
    recipe: TrainingRecipe, images: Path, output: Path, validation: Path | None = None, initial: Path | None = None
) -> dict[str, Any]:
    """Train as the recipe says and leave ``NAME.safetensors`` in ``output``.

    Args:
        recipe: Everything that decides the weights.
        images: Folder of training images.
        output: Folder of the checkpoint and of the state a later run continues from.
        validation: Folder of held-out images to measure on.
        initial: Checkpoint to start from.
    """
    from aethernet.training.trainer import train as run

    result = run(recipe, images, output, validation=validation, initial=initial)
    return {
        "checkpoint": str(result.checkpoint),
        "steps": result.steps,
        "hours": round(result.seconds / 3600, 3),
        "loss": result.loss,
        "psnr": result.psnr,
        "bicubic_psnr": result.bicubic_psnr,
    }
