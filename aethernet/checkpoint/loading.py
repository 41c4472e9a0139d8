"""Loading: one function from a file to a network that computes what was trained, and everything known about it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aethernet.architectures.activations import respelled
from aethernet.architectures.foreign import ForeignNetwork, as_aethernet
from aethernet.architectures.plugins import load_content
from aethernet.checkpoint.embedding import DESCRIPTION_KEY, FinetunedInt8, take_apart, weights_digest
from aethernet.checkpoint.layout import QuantizationRecords, StateDict, infer_config, separate, unwrap
from aethernet.checkpoint.reading import read_checkpoint
from aethernet.checkpoint.saving import METADATA_KEY
from aethernet.errors import CheckpointError, KeyMismatchError, NonFiniteWeightsError, SpecMismatchError, UsageError
from aethernet.fusion import fuse
from aethernet.manifest import FinetuningFacts
from aethernet.network import build_network
from aethernet.network.config import Form, NetworkConfig, Norm

if TYPE_CHECKING:
    from aethernet.architectures.descriptor import Descriptor
    from aethernet.architectures.foreign import Network

__all__ = ["LoadedNetwork", "assemble", "hold_same_tensors", "load"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedNetwork:
    """A network read from a file."""

    model: Network = field(repr=False)
    """In evaluation mode, float32, [N, C, H, W] in [0, 1] -> [N, C', s*H, s*W]."""
    config: NetworkConfig | Descriptor
    form: Form
    """How far the file's weights were folded; ``model`` has the same form."""
    quantization: QuantizationRecords | None
    """Records of quantisation-aware training, kept aside for int8; the model computes without them."""
    notes: tuple[str, ...]
    """What had to be assumed or was set aside: show these."""
    format: str
    """``safetensors`` or ``pytorch``."""
    stored_dtype: str
    """Type the weights had in the file, such as ``float16``."""
    int8: bool = False
    """Whether ``model`` is an int8 network (:mod:`aethernet.quantization`), which cannot be fused or exported again."""
    finetuned: FinetunedInt8 | None = None
    """The int8 network that fine-tuning put beside the float one, which ``model`` is."""
    set_aside: StateDict = field(default_factory=dict, repr=False)
    """Tensors the file holds and the model leaves out, by name."""

    @property
    def folded(self) -> Network:
        """The network as it is exported: everything folded that can be, activations spelled for runtimes."""
        network = self.model if self.form is Form.FUSED or self.int8 else fuse(self.model)
        return respelled(network) if isinstance(network, ForeignNetwork) and not self.int8 else network

    @property
    def released(self) -> Network:
        """The network as PyTorch files hold it: folded; another library's as it is, for that library to load."""
        return self.folded if isinstance(self.config, NetworkConfig) else self.model

    @property
    def nothing_to_fuse(self) -> bool:
        """Whether the network is deployed as it was trained: another library's, without branches to fold."""
        return self.form is Form.FUSED and not isinstance(self.config, NetworkConfig)

    @property
    def traceable_unfused(self) -> bool:
        """Whether the network can be exported without folding: other libraries' branches fold on the way."""
        return isinstance(self.config, NetworkConfig)


def load(
    path: Path | str, *, expect: Mapping[str, Any] | None = None, residual_scale: float | None = None
) -> LoadedNetwork:
    """Read any checkpoint (``.pth``, ``.pt``, ``.ckpt``, ``.safetensors``) of an AetherNet, or of a network that
    spandrel recognises where it is installed; strictly, and without running code.

    Args:
        path: The file.
        expect: Fields of the network's config with the values they must have.
        residual_scale: Generation 3's residual scale, where the file does not record it.

    Raises:
        CheckpointError: One subclass per kind of trouble, see :mod:`aethernet.errors`.
    """
    raw = read_checkpoint(path)
    loaded = load_content(
        raw.content, raw.metadata, file_format=raw.format, expect=expect, residual_scale=residual_scale
    )
    for note in loaded.notes:
        log.warning("%s: %s", Path(path).name, note)
    return loaded


def assemble(
    content: Mapping[str, Any],
    metadata: Mapping[str, str],
    *,
    file_format: str = "pytorch",
    expect: Mapping[str, Any] | None = None,
    residual_scale: float | None = None,
) -> LoadedNetwork:
    """The AetherNet that a file's content describes: all of :func:`load` but the reading.

    Args:
        content: Tensors by name, or wrappers around them.
        metadata: Safetensors metadata, empty where there is none.
        file_format: What the content was read from, ``pytorch`` or ``safetensors``.
        expect: As for :func:`load`.
        residual_scale: As for :func:`load`.

    Raises:
        CheckpointError: As for :func:`load`.
    """
    from aethernet.quantization.state import is_int8, restore, split

    entries, inner_metadata = unwrap(content)
    entries, embedded = take_apart(entries)
    stored, scales = split(entries) if is_int8(entries) else (entries, {})
    weights, records = separate(stored)
    config, form, notes = infer_config(
        weights, _own_metadata(metadata) | dict(inner_metadata), residual_scale=residual_scale
    )
    if METADATA_KEY in metadata:
        config = _agreed_config(metadata[METADATA_KEY], config, form)
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
        notes.append("error_comp was set to zero: generation 3 leaves it out in quantisation-aware training")
    model: Network = build_network(config, form)
    _fill(model, weights)
    if scales and form is not Form.FUSED:
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
    description = _description(metadata[METADATA_KEY]).get(DESCRIPTION_KEY) if METADATA_KEY in metadata else None
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


def hold_same_tensors(paths: Sequence[Path]) -> bool:
    """Whether several checkpoint files build networks with bit-identical tensors; ONNX files never count as such."""
    if len(paths) < 2 or any(path.suffix == ".onnx" for path in paths):
        return len(paths) < 2
    first, *others = [load(path).model.state_dict() for path in paths]
    return all(
        first.keys() == other.keys() and all(torch.equal(first[name], other[name]) for name in first)
        for other in others
    )


def _description(text: str) -> Mapping[str, Any]:
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
    network = _description(metadata[METADATA_KEY])["network"]
    names = {"residual_scale": "res_scale", "image_range": "img_range"}
    return {"arch_config": {names[field]: network[field] for field in names if field in network}}


def _agreed_config(text: str, inferred: NetworkConfig, form: Form) -> NetworkConfig:
    """The recorded config, which must not contradict the tensors."""
    description = _description(text)
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


def _settle_norms(weights: StateDict, config: NetworkConfig, form: Form) -> tuple[StateDict, StateDict]:
    """Running statistics beside merged kernels: generation 2 leaves them unused, generation 3 still needs them."""
    if form is not Form.MERGED or config.norm is not Norm.DEPLOYMENT:
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
