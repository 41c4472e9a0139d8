"""A float checkpoint that brings along the int8 network which fine-tuning made of it, as one safetensors file.

The float weights lie in the file as they always do, so they stay the reference of every comparison and every loader
that passes over unknown tensors still finds them. The int8 network's tensors (:mod:`aethernet.quantization.state`)
lie beside them, each name preceded by ``quantized.``; our metadata says how they came about and holds a digest of the
float weights, so that an int8 network is never taken for that of other weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aethernet.checkpoint.format import DESCRIPTION_KEY, PREFIX

__all__ = ["DESCRIPTION_KEY", "PREFIX", "held_together", "take_apart", "weights_digest"]


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and values of a network's tensors."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def held_together(floats: Mapping[str, Tensor], int8: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of both networks in one dictionary."""
    return {**floats, **{f"{PREFIX}{name}": tensor for name, tensor in int8.items()}}


def take_apart(entries: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of the float network and, by their own names, those of the int8 network (empty without one)."""
    floats = {name: value for name, value in entries.items() if not name.startswith(PREFIX)}
    int8 = {name.removeprefix(PREFIX): value for name, value in entries.items() if name.startswith(PREFIX)}
    return floats, int8
