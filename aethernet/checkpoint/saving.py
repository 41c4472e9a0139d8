"""Saving: safetensors with the config in the metadata, and ``.pth`` that the strictest safe loaders accept."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aethernet.artifact import atomic_path
from aethernet.network.config import SCHEMA_VERSION, Form

if TYPE_CHECKING:
    from aethernet.network import AetherNet

__all__ = ["METADATA_KEY", "config_metadata", "form_of", "save_pth", "save_safetensors"]

METADATA_KEY = "aethernet"
"""The one key of the safetensors metadata; its value is JSON."""


def form_of(network: AetherNet) -> Form:
    """How far a network has been folded, from its modules."""
    from aethernet.fusion import Foldable
    from aethernet.network.blocks import ReparameterisedLargeKernelConv

    modules = list(network.modules())
    if any(isinstance(module, ReparameterisedLargeKernelConv) for module in modules):
        return Form.TRAINING
    return Form.MERGED if any(isinstance(module, Foldable) for module in modules) else Form.FUSED


def config_metadata(network: AetherNet) -> dict[str, str]:
    """Safetensors metadata that describes ``network``: schema version, config and form as JSON."""
    description = {
        "schema_version": SCHEMA_VERSION,
        "network": network.config.to_json(),
        "form": form_of(network).value,
    }
    return {METADATA_KEY: json.dumps(description, sort_keys=True)}


def _plain_tensors(network: AetherNet, dtype: torch.dtype | None) -> dict[str, Tensor]:
    from aethernet.quantization.state import int8_tensors, is_quantized

    if is_quantized(network):
        return int8_tensors(network)
    # Cloned, so that a parameter that is a view (into a trainer's flat buffer, say) brings nothing but itself.
    return {
        name: tensor.detach()
        .to("cpu", dtype if tensor.is_floating_point() else None)
        .clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }


def save_safetensors(network: AetherNet, path: Path | str, *, dtype: torch.dtype | None = None) -> Path:
    """Write weights and config to ``path`` in one step; equal networks give equal bytes.

    Args:
        network: Any form of any generation.
        path: Target file.
        dtype: Floating-point tensors are stored in this type (default: as they are). An int8 network has its own.
    """
    from safetensors.torch import save

    data = save(_plain_tensors(network, dtype), metadata=config_metadata(network))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def save_pth(network: AetherNet, path: Path | str, *, dtype: torch.dtype | None = None) -> Path:
    """Write a bare state dict of plain tensors, no parameters, bools or objects: any safe unpickler reads it.

    Equal networks give equal bytes.
    """
    # torch names the archive's root folder after the file; a buffer gives it a constant name.
    buffer = io.BytesIO()
    torch.save(_plain_tensors(network, dtype), buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return Path(path)
