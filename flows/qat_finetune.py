"""Fine-tune a checkpoint for int8; the same command continues an interrupted run."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from prefect import flow

from aethernet.records import published_names
from aethernet.training import FinetuningRecipe
from flows.session import limited, located

__all__ = ["qat_finetune"]


@flow(name="qat-finetune", flow_run_name="qat-finetune {checkpoint}", persist_result=False)
def qat_finetune(
    checkpoint: Path,
    images: Path,
    output: Path = Path("runs/finetuned_qat.safetensors"),
    recipe: FinetuningRecipe = FinetuningRecipe(),  # noqa: B008 (immutable)
    validation: Path | None = None,
    residual_scale: float | None = None,
    device: Literal["cpu", "cuda"] | None = None,
) -> dict[str, Any]:
    """Fine-tune a network for int8 without originals; the same parameters continue an interrupted run.

    Args:
        checkpoint: Float checkpoint.
        images: Folder of images as the network gets them.
        output: The file to write; the state a later run continues from lies beside it.
        recipe: Steps, step size, crops, seed, parts to leave in float: what decides the result.
        validation: Folder of held-out images to choose the best by.
        residual_scale: Generation 3's, where the checkpoint does not record it.
        device: ``cpu`` or ``cuda``; None takes a GPU where there is one.
    """
    from aethernet.training.finetuning import finetune

    with nullcontext() if device == "cpu" else limited("aethernet-gpu"):
        result = finetune(
            located(checkpoint),
            located(images),
            located(output),
            recipe,
            validation=validation and located(validation),
            residual_scale=residual_scale,
            device=device,
        )
    return {
        "checkpoint": str(result.checkpoint),
        "steps": result.steps,
        "best_step": result.best_step,
        "minutes": round(result.seconds / 60, 1),
        "before": published_names(asdict(result.before)),
        "after": published_names(asdict(result.after)),
    }
