"""Checkpoints in and out: read safely, understand completely, save with the config beside the weights."""

from __future__ import annotations

from aethernet.checkpoint.loaded import LoadedNetwork
from aethernet.checkpoint.loading import hold_same_tensors, load
from aethernet.checkpoint.saving import save_finetuned, save_pth, save_safetensors
from aethernet.quantization.finetuned import FinetunedInt8

__all__ = [
    "FinetunedInt8",
    "LoadedNetwork",
    "hold_same_tensors",
    "load",
    "save_finetuned",
    "save_pth",
    "save_safetensors",
]
