"""Fine-tune a checkpoint for int8; the same command continues an interrupted run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow

from aethernet.training import FinetuningRecipe

__all__ = ["qat_finetune"]


@flow(
    name="qat-finetune", flow_run_name="qat-finetune {checkpoint.stem}", persist_result=False, validate_parameters=False
)
def qat_finetune(
    recipe: FinetuningRecipe,
    checkpoint: Path,
    images: Path,
    output: Path,
    validation: Path | None = None,
    residual_scale: float | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Fine-tune as the recipe says and leave ``output``, a checkpoint for the release flow.

    Args:
        recipe: What decides the result.
        checkpoint: The float network.
        images: Folder of images as the network gets them.
        output: The file to write; the state a later run continues from lies beside it.
        validation: Folder of held-out images to choose the best by.
        residual_scale: Generation 3's, where the checkpoint does not record it.
        device: ``cpu`` or ``cuda``; None takes a GPU where there is one.
    """
    from aethernet.training.finetuning import finetune

    result = finetune(
        checkpoint, images, output, recipe, validation=validation, residual_scale=residual_scale, device=device
    )
    return {
        "checkpoint": str(result.checkpoint),
        "steps": result.steps,
        "best_step": result.best_step,
        "minutes": round(result.seconds / 60, 1),
        "before": asdict(result.before),
        "after": asdict(result.after),
    }
