"""Fuse: the reference with everything linear folded, in the files PyTorch users load.

Files of another library's network hold it as that library loads it; it is folded on the way to ONNX.
"""

from __future__ import annotations

from pydantic import BaseModel

from aethernet.artifact import Artifact
from aethernet.checkpoint import load, save_pth, save_safetensors
from aethernet.networks.network import form_of
from aethernet.precision import Precision
from tasks.caching import current_store, stage

__all__ = ["Weights", "fuse"]


class Weights(BaseModel):
    """One precision's PyTorch files."""

    safetensors: Artifact
    pth: Artifact
    parameters: int
    """Of the folded network."""
    form: str


@stage()
def fuse(reference: Artifact, name: str, precision: Precision) -> Weights:
    """Write ``NAME_PRECISION.safetensors`` and ``.pth``."""
    import torch

    store = current_store()
    loaded = load(store.get(reference))
    network = loaded.released
    dtype = torch.float16 if precision is Precision.FP16 else torch.float32
    stem = f"{name}_{precision.value}"
    with store.scratch() as folder:
        return Weights(
            safetensors=store.put(save_safetensors(network, folder / f"{stem}.safetensors", dtype=dtype)),
            pth=store.put(save_pth(network, folder / f"{stem}.pth", dtype=dtype)),
            parameters=sum(parameter.numel() for parameter in loaded.folded.parameters()),
            form=form_of(network).value,
        )
