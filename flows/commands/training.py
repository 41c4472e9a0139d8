"""``python -m flows train`` and ``qat-finetune``: from images to a checkpoint."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer

from aethernet.cli.options import AsJson, ResidualScale, split_list
from aethernet.cli.output import emit_json, say
from aethernet.training import FinetuningRecipe, TrainingRecipe
from flows.session import embedded_server

__all__ = ["FinetuneOptions", "NetworkOptions", "TrainOptions", "qat_finetune", "train"]

PyramidLevels = Annotated[int, typer.Option(help="Sizes each image is used at, each half of the one before.")]
Batch = Annotated[int, typer.Option(help="Crops per step.")]

# What a recipe of the library says where an option does not.
_TRAINING: dict[str, Any] = {one.name: one.default for one in fields(TrainingRecipe)}
_FINETUNING: dict[str, Any] = {one.name: one.default for one in fields(FinetuningRecipe)}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions:
    """Which network is trained."""

    PANEL: ClassVar[str] = "Network"

    generation: Annotated[int, typer.Option(help="1, 2 or 3.")] = 2
    preset: Annotated[str, typer.Option(help="Such as tiny, small, medium, large.")] = "tiny"
    scale: Annotated[int, typer.Option(help="2, 3 or 4.")] = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Fields of :class:`aethernet.training.TrainingRecipe`; defaults are the library's."""

    PANEL: ClassVar[str] = "Schedule and crops"

    name: Annotated[str, typer.Option(help="File stem of the checkpoint.")] = "aether_tiny_2x"
    hours: Annotated[float | None, typer.Option(help="End after this time, over all runs together.")] = None
    steps: Annotated[int | None, typer.Option(help="End after this many steps.")] = None
    learning_rate: Annotated[float, typer.Option(help="Peak step size.")] = _TRAINING["learning_rate"]
    patch: Annotated[int, typer.Option(help="Side of a training crop in low-resolution pixels.")] = _TRAINING["patch"]
    batch: Batch = _TRAINING["batch"]
    seed: Annotated[int, typer.Option(help="Seeds weights and batches.")] = _TRAINING["seed"]
    pyramid_levels: PyramidLevels = _TRAINING["pyramid_levels"]
    candidates: Annotated[int, typer.Option(help="Random crops drawn for each one kept.")] = _TRAINING["candidates"]
    batch_statistics_share: Annotated[
        float, typer.Option("--batch-statistics", help="Share of the training with batch statistics in norms.")
    ] = _TRAINING["batch_statistics_share"]
    kernels: Annotated[
        list[str] | None,
        typer.Option(
            "--kernel",
            help="How images are shrunk: bicubic, box or dpid, in equal shares (default: bicubic and dpid).",
        ),
    ] = None
    synthetic_share: Annotated[
        float,
        typer.Option(
            "--synthetic-patches",
            help="Share of crops replaced by noise, stripes and the like: they bound the network.",
        ),
    ] = _TRAINING["synthetic_share"]
    synthetic_weight: Annotated[float, typer.Option(help="What such a crop's error counts beside a photograph's.")] = (
        _TRAINING["synthetic_weight"]
    )
    loss: Annotated[str, typer.Option(help="l1 (mean absolute error) or psnr (each crop's decibels).")] = _TRAINING[
        "loss"
    ]
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Convolve in bfloat16.")] = False
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the training step; needs a C++ compiler.",
            envvar="AETHERNET_TRAIN_COMPILE_STEP",
        ),
    ] = False

    def recipe(self, network: NetworkOptions) -> TrainingRecipe:
        """The library's recipe.

        Raises:
            UsageError: There is no such network, or the recipe makes no sense.
        """
        from aethernet.networks.config import preset_config

        said = {one.name: getattr(self, one.name) for one in fields(self)}
        said["kernels"] = tuple(self.kernels) if self.kernels else _TRAINING["kernels"]
        return TrainingRecipe(network=preset_config(network.generation, network.preset, network.scale), **said)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneOptions:
    """Fields of :class:`aethernet.training.FinetuningRecipe`; defaults are the library's."""

    PANEL: ClassVar[str] = "Schedule and crops"

    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = _FINETUNING["steps"]
    learning_rate: Annotated[float, typer.Option(help="Peak step size, in steps of each tensor's grid.")] = _FINETUNING[
        "learning_rate"
    ]
    patch: Annotated[int, typer.Option(help="Side of a crop in pixels of the network's input.")] = _FINETUNING["patch"]
    batch: Batch = _FINETUNING["batch"]
    pyramid_levels: PyramidLevels = _FINETUNING["pyramid_levels"]
    seed: Annotated[int, typer.Option(help="Seeds calibration and batches.")] = _FINETUNING["seed"]
    keep_float: Annotated[
        str | None,
        typer.Option(help="Parts to leave in float, such as conv_after_body,quant_fusion_layer."),
    ] = None

    def recipe(self) -> FinetuningRecipe:
        """The library's recipe.

        Raises:
            UsageError: It makes no sense.
        """
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        return FinetuningRecipe(**said | {"keep_float": tuple(split_list(self.keep_float)) or None})


def train(
    images: Annotated[Path, typer.Argument(help="Folder of training images, read recursively.")],
    network: NetworkOptions,
    schedule: TrainOptions,
    output: Annotated[
        Path, typer.Option(help="Folder of the checkpoint and of the state a later run continues from.")
    ] = Path("runs"),
    validation: Annotated[Path | None, typer.Option(help="Folder of held-out images to measure on.")] = None,
    initial: Annotated[Path | None, typer.Option(help="Checkpoint to start from (default: fresh weights).")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a network; the same command continues an interrupted training."""
    from flows.train import train as flow

    _show_log()
    recipe = schedule.recipe(network)
    with embedded_server():
        result = flow(recipe, images.absolute(), output.absolute(), validation and validation.absolute(), initial)
    if as_json:
        emit_json(result)
        return
    print(result["checkpoint"])
    if result["psnr"] is not None:
        say(f"held-out images: {result['psnr']:.2f} dB, bicubic {result['bicubic_psnr']:.2f} dB")


def qat_finetune(
    checkpoint: Annotated[Path, typer.Argument(help="Float checkpoint whose int8 form is to be fine-tuned.")],
    images: Annotated[Path, typer.Option(help="Folder of images as the network gets them, read recursively.")],
    schedule: FinetuneOptions,
    output: Annotated[
        Path | None, typer.Option(help="The .safetensors to write (default: runs/CHECKPOINT_qat.safetensors).")
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(help="Folder of held-out images to choose the best by (default: the same, other crops)."),
    ] = None,
    residual_scale: ResidualScale = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="cpu or cuda (default: a GPU where there is one).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a network for int8 without originals; the same command continues an interrupted run."""
    from flows.qat_finetune import qat_finetune as flow

    _show_log()
    output = output or Path("runs") / f"{checkpoint.stem}_qat.safetensors"
    recipe = schedule.recipe()
    with embedded_server():
        result = flow(
            checkpoint.absolute(),
            images.absolute(),
            output.absolute(),
            recipe=recipe,
            validation=validation and validation.absolute(),
            residual_scale=residual_scale,
            device=device,
        )
    if as_json:
        emit_json(result)
        return
    before, after = result["before"], result["after"]
    print(result["checkpoint"])
    say(
        f"beside the float network: {before['psnr']:.2f} dB before, {after['psnr']:.2f} dB after; "
        f"colour shift of a crop, at most: {before['tint']:.2f} levels before, {after['tint']:.2f} after"
    )
    say(f"next: python -m flows release --checkpoint {os.path.relpath(result['checkpoint'])} --name NAME")


def _show_log() -> None:
    """What the library logs, on stderr: where a training stands when nobody watches a terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("aethernet")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
