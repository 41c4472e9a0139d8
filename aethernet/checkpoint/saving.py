"""Saving: safetensors with the config in the metadata, and ``.pth`` that the strictest safe loaders accept."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from aethernet.artifact import atomic_path
from aethernet.checkpoint.embedding import held_together, weights_digest
from aethernet.checkpoint.format import DESCRIPTION_KEY, METADATA_KEY, RECORD
from aethernet.networks.config import SCHEMA_VERSION
from aethernet.networks.network import form_of
from aethernet.networks.third_party import PREFIX, ThirdPartyNetwork
from aethernet.quantization.finetuned import FinetunedInt8

if TYPE_CHECKING:
    from aethernet.networks.network import Network

__all__ = ["config_metadata", "save_finetuned", "save_pth", "save_safetensors"]


def config_metadata(network: Network) -> dict[str, str]:
    """Safetensors metadata that describes ``network``: schema version, config and form as JSON."""
    return {METADATA_KEY: json.dumps(_description(network), sort_keys=True)}


def _description(network: Network) -> dict[str, Any]:
    described = {
        "schema_version": SCHEMA_VERSION,
        "network": network.config.to_json(),
        "form": form_of(network).value,
    }
    if isinstance(network, ThirdPartyNetwork) and network.left_out:
        described["left_out"] = {name: list(shape) for name, shape in network.left_out.items()}
        described["added"] = sorted(network.added)
    return described


def _plain_tensors(network: Network, dtype: torch.dtype | None) -> dict[str, Tensor]:
    from aethernet.quantization.state import int8_tensors, is_quantized

    if is_quantized(network):
        return {_stored_name(name): tensor for name, tensor in int8_tensors(network).items()}
    stored = network.network if isinstance(network, ThirdPartyNetwork) else network
    # Cloned, so that a parameter that is a view (into a trainer's flat buffer, say) brings nothing but itself.
    return {
        name: tensor.detach()
        .to("cpu", dtype if tensor.is_floating_point() else None)
        .clone(memory_format=torch.contiguous_format)
        for name, tensor in stored.state_dict().items()
    }


def _record(network: Network) -> dict[str, Tensor]:
    """What a ``.pth`` cannot do without where folding changed the tensors of another library's network: our record of
    it, as the bytes of its JSON.
    """
    if not isinstance(network, ThirdPartyNetwork) or not network.left_out:
        return {}
    text = json.dumps(_description(network), sort_keys=True).encode()
    return {RECORD: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def _stored_name(name: str) -> str:
    """Files hold the names of the architecture itself."""
    return name.removeprefix(PREFIX)


def save_safetensors(network: Network, path: Path | str, *, dtype: torch.dtype | None = None) -> Path:
    """Write weights and config to ``path`` in one step; equal networks give equal bytes.

    Args:
        network: Any form of any generation.
        path: Target file.
        dtype: Floating-point tensors are stored in this type (default: as they are). An int8 network has its own.
    """
    return _write(_plain_tensors(network, dtype), config_metadata(network), path)


def save_finetuned(network: Network, finetuned: FinetunedInt8, path: Path | str) -> Path:
    """Write a float network and the int8 network fine-tuned from it as one safetensors file, in one step.

    Args:
        network: The float network, as it was loaded; its tensors are written as they are.
        finetuned: Its int8 network, finished.
        path: Target file.
    """
    quantized = {
        **_description(finetuned.model),
        "weights": weights_digest(network.state_dict()),
        "slope": finetuned.slope,
        "facts": finetuned.facts.model_dump(mode="json"),
    }
    description = {**_description(network), DESCRIPTION_KEY: quantized}
    tensors = held_together(_plain_tensors(network, None), _plain_tensors(finetuned.model, None))
    return _write(tensors, {METADATA_KEY: json.dumps(description, sort_keys=True)}, path)


def _write(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path | str) -> Path:
    from safetensors.torch import save

    data = save(tensors, metadata=metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def save_pth(network: Network, path: Path | str, *, dtype: torch.dtype | None = None) -> Path:
    """Write a bare state dict of plain tensors, no parameters, bools or objects: any safe unpickler reads it.

    Equal networks give equal bytes.
    """
    # torch names the archive's root folder after the file; a buffer gives it a constant name.
    buffer = io.BytesIO()
    torch.save({**_plain_tensors(network, dtype), **_record(network)}, buffer)
    with atomic_path(path) as temporary, buffer.getbuffer() as content:
        temporary.write_bytes(content)
    return Path(path)
