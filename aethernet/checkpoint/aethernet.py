"""From a file's content to an AetherNet of any generation and form, strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from aethernet.checkpoint.description import ERROR_COMP_NOTE, description_of, understand
from aethernet.checkpoint.embedding import take_apart, weights_digest
from aethernet.checkpoint.format import DESCRIPTION_KEY, METADATA_KEY
from aethernet.checkpoint.layout import StateDict, separate
from aethernet.checkpoint.loaded import LoadedNetwork
from aethernet.errors import CheckpointError, KeyMismatchError, NonFiniteWeightsError, SpecMismatchError, UsageError
from aethernet.networks import build_network
from aethernet.networks.config import FoldState, NetworkConfig, Norm
from aethernet.networks.network import Network, as_aethernet
from aethernet.quantization.finetuned import FinetunedInt8, FinetuningFacts
from aethernet.quantization.state import is_int8, restore, split

__all__ = ["assemble"]


def assemble(
    entries: Mapping[str, Any],
    metadata: Mapping[str, str],
    *,
    settings: Mapping[str, Any] | None = None,
    file_format: str = "pytorch",
    expect: Mapping[str, Any] | None = None,
    residual_scale: float | None = None,
) -> LoadedNetwork:
    """The AetherNet that a file's content describes: all of :func:`load` but the reading.

    Args:
        entries: Tensors by the network's own names.
        metadata: Safetensors metadata, empty where there is none.
        settings: What else the file says about how the network was built.
        file_format: What the content was read from, ``pytorch`` or ``safetensors``.
        expect: As for :func:`load`.
        residual_scale: As for :func:`load`.

    Raises:
        CheckpointError: As for :func:`load`.
    """
    entries, embedded = take_apart(entries)
    stored, scales = split(entries) if is_int8(entries) else (entries, {})
    weights, records = separate(stored)
    config, form, notes = understand(weights, metadata, settings or {}, residual_scale=residual_scale)
    _check_expectations(config, expect or {})
    dtypes = sorted(
        {str(tensor.dtype).removeprefix("torch.") for tensor in entries.values() if _counts(tensor)}
        if scales
        else {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values() if tensor.is_floating_point()}
    )
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    broken = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise NonFiniteWeightsError(broken)
    weights, set_aside = _settle_norms(weights, config, form)
    if config.generation == 3 and records is not None and "quant_fusion_layer.error_comp" in weights:
        # Generation 3 skips this constant while training quantised, so without it is what was trained.
        set_aside["quant_fusion_layer.error_comp"] = weights["quant_fusion_layer.error_comp"]
        weights["quant_fusion_layer.error_comp"] = torch.zeros_like(weights["quant_fusion_layer.error_comp"])
        notes.append(ERROR_COMP_NOTE)
    model: Network = build_network(config, form)
    _fill(model, weights)
    if scales and form is not FoldState.FUSED:
        raise CheckpointError(f"expected int8 weights of a fused network, found the {form.value} form")
    if scales:
        model = restore(model, entries, scales)
    return LoadedNetwork(
        model=model.eval().requires_grad_(False),
        config=config,
        form=form,
        quantization=records,
        notes=tuple(notes),
        format=file_format,
        stored_dtype="+".join(dtypes),
        int8=bool(scales),
        finetuned=_finetuned(embedded, metadata, model),
        set_aside=set_aside,
    )


def _finetuned(embedded: Mapping[str, Any], metadata: Mapping[str, str], model: Network) -> FinetunedInt8 | None:
    """The int8 network in the file, if there is one and it was made from the very weights beside it."""
    description = description_of(metadata[METADATA_KEY]).get(DESCRIPTION_KEY) if METADATA_KEY in metadata else None
    if not embedded and description is None:
        return None
    hint = "use the file as fine-tuning saved it, or fine-tune again"
    if not embedded or not isinstance(description, Mapping):
        found = "only its tensors" if embedded else "only the record"
        raise CheckpointError(
            f"expected an int8 network and the record of its fine-tuning in the file, found {found}", hint=hint
        )
    if description.get("weights") != weights_digest(model.state_dict()):
        raise CheckpointError(
            "the int8 network in the file was not made from the float weights beside it",
            hint="use the file as fine-tuning saved it, or fine-tune these weights",
        )
    try:
        slope = description.get("slope")
        facts = FinetuningFacts.model_validate(description.get("facts"))
        slope = None if slope is None else float(slope)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the record of the file's fine-tuning is invalid: {error}", hint=hint) from error
    loaded = assemble(embedded, {METADATA_KEY: json.dumps(dict(description))}, file_format="safetensors")
    if not loaded.int8 or loaded.config != model.config:
        raise CheckpointError("expected an int8 form of the same network in the file, found another network", hint=hint)
    return FinetunedInt8(model=as_aethernet(loaded.model), slope=slope, facts=facts)


def _counts(tensor: Any) -> bool:
    return isinstance(tensor, torch.Tensor) and (tensor.is_floating_point() or tensor.dtype is torch.int8)


def _check_expectations(config: NetworkConfig, expect: Mapping[str, Any]) -> None:
    found = config.to_json() | {"preset": config.preset_name()}
    unknown = sorted(set(expect) - set(found))
    if unknown:
        raise UsageError(f"no such network field: {', '.join(unknown)}", hint=f"known are {', '.join(sorted(found))}")
    wrong = [
        f"{name}: expected {expect[name]}, found {found[name]}"
        for name in expect
        if _plain(expect[name]) != found[name]
    ]
    if wrong:
        raise SpecMismatchError("the spec does not describe this checkpoint; " + "; ".join(wrong))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _settle_norms(weights: StateDict, config: NetworkConfig, form: FoldState) -> tuple[StateDict, StateDict]:
    """Running statistics beside merged kernels: generation 2 leaves them unused, generation 3 still needs them."""
    if form is not FoldState.MERGED or config.norm is not Norm.DEPLOYMENT:
        return weights, {}
    leftover = {name: tensor for name, tensor in weights.items() if name.endswith((".running_mean", ".running_var"))}
    settled = {name: tensor for name, tensor in weights.items() if name not in leftover}
    if config.generation == 2:
        return settled, leftover
    for name in leftover:
        norm, _, statistic = name.rpartition(".")
        if statistic == "running_mean" or f"{norm}.running_mean" not in leftover:
            continue
        gain = settled[f"{norm}.weight"].double() / torch.sqrt(leftover[name].double() + config.norm_eps)
        shift = settled[f"{norm}.bias"].double() - leftover[f"{norm}.running_mean"].double() * gain
        settled[f"{norm}.weight"], settled[f"{norm}.bias"] = gain.float(), shift.float()
    return settled, {}


def _fill(model: Network, weights: StateDict) -> None:
    wanted = model.state_dict()
    # A generation-2 file may come without the buffer that names its scale; the value was inferred from shapes.
    optional = {"scale", "mean"} & (wanted.keys() - weights.keys())
    missing = wanted.keys() - weights.keys() - optional
    unexpected = weights.keys() - wanted.keys()
    misshapen = [
        f"{name} (expected {tuple(wanted[name].shape)}, found {tuple(weights[name].shape)})"
        for name in wanted.keys() & weights.keys()
        if wanted[name].shape != weights[name].shape
    ]
    misshapen += [
        f"{name} (expected floating point, found {str(weights[name].dtype).removeprefix('torch.')})"
        for name in wanted.keys() & weights.keys()
        if wanted[name].is_floating_point() and not weights[name].is_floating_point()
    ]
    if missing or unexpected or misshapen:
        raise KeyMismatchError(missing, unexpected, misshapen)
    model.load_state_dict(weights | {name: wanted[name] for name in optional}, strict=True)
