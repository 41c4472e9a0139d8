"""What a file's own description says about its network, held against its tensors; needs no PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aethernet.checkpoint.format import METADATA_KEY
from aethernet.checkpoint.layout import StateDict, infer_config
from aethernet.errors import CheckpointError, SpecMismatchError, UsageError
from aethernet.networks.config import FoldState, NetworkConfig

__all__ = ["ERROR_COMP_NOTE", "description_of", "understand"]

ERROR_COMP_NOTE = "error_comp was set to zero: generation 3 leaves it out in quantisation-aware training"


def understand(
    weights: StateDict, metadata: Mapping[str, str], settings: Mapping[str, Any], *, residual_scale: float | None
) -> tuple[NetworkConfig, FoldState, list[str]]:
    """The network that tensors are, with what its file says beside them.

    Args:
        weights: Tensors by name, records removed.
        metadata: Safetensors metadata, empty where there is none.
        settings: What else the file says about how the network was built.
        residual_scale: As for :func:`aethernet.load`.

    Returns:
        The config, the form, and notes on what had to be assumed.

    Raises:
        CheckpointError: As for :func:`aethernet.load`.
    """
    config, form, notes = infer_config(
        weights, _own_metadata(metadata) or {"arch_config": settings}, residual_scale=residual_scale
    )
    if METADATA_KEY in metadata:
        config = _agreed_config(metadata[METADATA_KEY], config, form)
    return config, form, notes


def description_of(text: str) -> Mapping[str, Any]:
    """What our metadata says, of which only the network's config is sure to be there.

    Raises:
        CheckpointError: It is something else.
    """
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("the file's aethernet metadata is not JSON", hint="save the network again") from error
    if not isinstance(description, Mapping) or not isinstance(description.get("network"), Mapping):
        raise CheckpointError("the file's aethernet metadata has no network config", hint="save the network again")
    return description


def _own_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Our own record, in the shape of the one the original trainer writes, so that one code path uses both."""
    if METADATA_KEY not in metadata:
        return {}
    network = description_of(metadata[METADATA_KEY])["network"]
    names = {"residual_scale": "res_scale", "image_range": "img_range"}
    return {"arch_config": {names[field]: network[field] for field in names if field in network}}


def _agreed_config(text: str, inferred: NetworkConfig, form: FoldState) -> NetworkConfig:
    """The recorded config, which must not contradict the tensors."""
    description = description_of(text)
    try:
        recorded = NetworkConfig.from_json(description["network"])
    except UsageError as error:
        raise CheckpointError(
            f"the file's aethernet metadata is invalid: {error}", hint="save the network again"
        ) from error
    untold = {"small_kernel", "residual_scale", "image_range", "norm_eps", "reconstruction_channels"}
    facts, found = recorded.to_json(), inferred.to_json()
    differing = [name for name in facts if name not in untold and facts[name] != found[name]]
    if recorded.upsampled_channels != inferred.upsampled_channels:
        differing.append("reconstruction_channels")
    if description.get("form") != form.value:
        differing.append("form")
    if differing:
        raise SpecMismatchError(f"the file's recorded config and its tensors disagree on {', '.join(differing)}")
    return recorded
