"""Load: an untrusted checkpoint becomes the reference, safetensors in the form it was trained in."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from aethernet.artifact import Artifact
from aethernet.checkpoint import load as load_checkpoint
from aethernet.checkpoint import save_safetensors
from aethernet.networks.config import FoldState
from aethernet.networks.sizes import SizeRequirements
from aethernet.release.manifest import CheckpointFacts
from tasks.caching import current_store, stage

__all__ = ["LoadedCheckpoint", "load"]


_NOTHING_TO_FUSE = "nothing to fuse, the network is deployed as it was trained"


class LoadedCheckpoint(BaseModel):
    """The reference and what is known about where it came from."""

    weights: Artifact
    architecture: str
    size: SizeRequirements
    facts: CheckpointFacts


@stage()
def load(checkpoint: Artifact, name: str, network: dict[str, Any], residual_scale: float | None) -> LoadedCheckpoint:
    """Read strictly, hold against the spec, write ``NAME_notfused.safetensors`` (``_source`` if it arrived folded)."""
    store = current_store()
    loaded = load_checkpoint(store.get(checkpoint), expect=network, residual_scale=residual_scale)
    suffix = "notfused" if loaded.form is FoldState.TRAINING else "source"
    with store.scratch() as folder:
        path = save_safetensors(loaded.model, folder / f"{name}_{suffix}.safetensors")
        weights = store.put(path)
    return LoadedCheckpoint(
        weights=weights,
        architecture=loaded.config.descriptor.architecture,
        size=loaded.config.size,
        facts=CheckpointFacts(
            file=checkpoint.name,
            sha256=checkpoint.sha256,
            size=checkpoint.size,
            format=loaded.format,
            form=loaded.form.value,
            stored_dtype=loaded.stored_dtype,
            quantization_records=len(loaded.quantization.tensors) if loaded.quantization else 0,
            finetuned=loaded.finetuned is not None,
            notes=(*loaded.notes, *((_NOTHING_TO_FUSE,) if loaded.nothing_to_fuse else ())),
        ),
    )
