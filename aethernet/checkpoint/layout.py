"""From tensors by name to a network config: the only place that infers anything from names and shapes.

Everything is read from the tensors and from metadata; the single thing neither may tell (generation 3's residual scale)
becomes a note that callers show.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from aethernet.checkpoint.tensors import is_tensor
from aethernet.checkpoint.wrappers import what_it_is
from aethernet.errors import (
    CheckpointError,
    HalfFusedError,
    KeyMismatchError,
    SpecMismatchError,
    UnknownNetworkError,
    UsageError,
)
from aethernet.networks.config import NETWORK_PRESETS, NORM_EPS, FoldState, NetworkConfig, Norm
from aethernet.quantization.recorded import QuantizationRecords

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["StateDict", "infer_config", "is_aethernet", "separate"]

StateDict: TypeAlias = "dict[str, Tensor]"

_RECORD = re.compile(r"(^|\.)(weight_fake_quant|activation_post_process)\.")
_MOST_DOUBLINGS = 6
"""An upsampler with more steps is no network anyone trained."""
_BLOCK = re.compile(r"^(?:stages|layers)\.(\d+)\.(\d+)\.conv\.(lk_conv\.weight|fused_conv\.weight)$")


def is_aethernet(entries: Mapping[str, Any]) -> bool:
    """Whether tensors by name are an AetherNet's; nothing is raised about what they are not."""
    return any(name.startswith(("layers.0.0.conv.", "stages.0.0.conv.")) for name in entries)


def separate(entries: Mapping[str, Any]) -> tuple[StateDict, QuantizationRecords | None]:
    """Divide entries into float weights and quantisation records; packed int8 weights come back dequantised."""
    weights: StateDict = {}
    records: StateDict = {}
    foreign: list[str] = []
    packed = False
    for name, value in entries.items():
        module = name.rpartition(".")[0]
        if _RECORD.search(name):
            if _is_plain(value):
                records[name] = value
        elif name.endswith("._packed_params._packed_params") and _is_packed(value):
            packed = True
            linear = name.removesuffix("._packed_params._packed_params")
            weight, bias = value
            weights[f"{linear}.weight"] = weight.dequantize()
            if bias is not None:
                weights[f"{linear}.bias"] = bias.detach()
        elif name.endswith("._packed_params.dtype"):
            packed = True
        elif not _is_plain(value):
            foreign.append(name)
        elif name.endswith((".scale", ".zero_point")) and f"{module}.zero_point" in entries:
            records[name] = value
        else:
            packed = packed or value.is_quantized
            weights[name] = value.dequantize() if value.is_quantized else value.detach()
    if foreign:
        raise KeyMismatchError((), foreign)
    if not records:
        return weights, None
    return weights, QuantizationRecords(origin="converted" if packed else "qat", tensors=records)


def _is_plain(value: Any) -> TypeGuard[Tensor]:
    """A dense tensor with data: neither sparse nor a placeholder without any."""
    return is_tensor(value) and str(value.layout) == "torch.strided" and not value.is_meta


def _is_packed(value: Any) -> bool:
    """The weight and bias of PyTorch's packed linear module."""
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and _is_plain(value[0])
        and (value[1] is None or _is_plain(value[1]))
    )


def infer_config(
    weights: StateDict, metadata: Mapping[str, Any], *, residual_scale: float | None
) -> tuple[NetworkConfig, FoldState, list[str]]:
    """Read generation, form and every size from tensors, and what tensors cannot tell from metadata.

    Args:
        weights: Tensors by name, records removed.
        metadata: The file's own ``metadata``; its ``arch_config`` must agree with the tensors.
        residual_scale: What the caller knows generation 3's residual scale to be.

    Returns:
        The config, the form, and notes on what had to be assumed.

    Raises:
        UnknownNetworkError, HalfFusedError, KeyMismatchError, SpecMismatchError: See :mod:`aethernet.errors`.
    """
    generation = _generation(weights)
    group = "layers" if generation == 1 else "stages"
    form = _form(weights, generation)
    notes: list[str] = []
    try:
        config = _shapes(weights, generation, group, form)
    except KeyError as error:
        raise KeyMismatchError([str(error.args[0])], ()) from None
    except (IndexError, UsageError) as error:
        raise UnknownNetworkError(f"an AetherNet of generation {generation} with impossible shapes: {error}") from error
    stated = metadata.get("arch_config", {})
    stated = stated if isinstance(stated, Mapping) else {}
    _check_stated(config, stated)
    config = dataclasses.replace(config, image_range=_positive(stated, "img_range") or 1.0)
    if generation == 3 and form is not FoldState.FUSED:
        scale, note = _residual_scale(config, _positive(stated, "res_scale"), residual_scale)
        config = dataclasses.replace(config, residual_scale=scale)
        notes += [note] if note else []
    elif residual_scale is not None and residual_scale != config.residual_scale:
        raise SpecMismatchError(
            f"a residual scale of {residual_scale} was stated, but "
            + ("it is already folded into these weights" if generation == 3 else f"generation {generation} has none")
        )
    return config, form, notes


def _generation(weights: StateDict) -> int:
    if any(name.startswith("layers.0.0.conv.") for name in weights):
        return 1
    if any(name.startswith("stages.0.0.conv.") for name in weights):
        return 3 if "scale_tensor" in weights else 2
    listed = ", ".join(sorted(weights)[:5])
    if other := what_it_is(weights):
        raise UnknownNetworkError(f"expected a network from image to image, found {other} ({listed}, …)")
    raise UnknownNetworkError(
        f"expected the tensors of an AetherNet (layers.0.0.conv.… or stages.0.0.conv.…), found {listed}, …"
    )


def _form(weights: StateDict, generation: int) -> FoldState:
    kernels = [match for name in weights if (match := _BLOCK.match(name))]
    merged = [match[0] for match in kernels if match[3].startswith("fused")]
    parallel = [match[0] for match in kernels if match[3].startswith("lk")]
    if merged and parallel:
        raise HalfFusedError(merged, parallel)
    if parallel:
        return FoldState.TRAINING
    # A fused file of generation 1 is known by the mean it carries, one of 2 and 3 by the folded temperature.
    fused = "mean" in weights if generation == 1 else not any(name.endswith(".ffn.temperature") for name in weights)
    return FoldState.FUSED if fused else FoldState.MERGED


def _shapes(weights: StateDict, generation: int, group: str, form: FoldState) -> NetworkConfig:
    depths: dict[int, int] = {}
    for name in weights:
        if match := re.match(rf"^{group}\.(\d{{1,4}})\.(\d{{1,4}})\.", name):
            stage, block = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)
    if sum(depths.values()) > len(weights):  # before so many are built
        raise UsageError(f"{sum(depths.values())} blocks in {len(weights)} tensors")
    first = weights["conv_first.weight"]
    start = f"{group}.0.0"
    large = weights[f"{start}.conv.{'lk_conv' if form is FoldState.TRAINING else 'fused_conv'}.weight"]
    small = weights[f"{start}.conv.sk_conv.weight"].shape[-1] if form is FoldState.TRAINING else None
    gate = weights[f"{start}.ffn.{'fc1_gate' if generation == 1 else 'conv_gate'}.weight"]
    norm = weights.get(f"{start}.norm.weight")
    is_layer_norm = generation == 1 or (norm is not None and norm.ndim == 1)
    if norm is None and not (form is FoldState.FUSED and generation != 1):
        raise KeyError(f"{start}.norm.weight")
    config = NetworkConfig(
        generation=generation,
        scale=_scale(weights, generation),
        embed_dim=first.shape[0],
        in_channels=first.shape[1],
        depths=tuple(depths.get(stage, 0) for stage in range(max(depths) + 1)),
        hidden_channels=gate.shape[0],
        large_kernel=large.shape[-1],
        small_kernel=small,
        norm=Norm.LAYER if is_layer_norm else Norm.DEPLOYMENT,
        norm_eps=1e-5 if is_layer_norm and generation != 1 else NORM_EPS[generation],
        channel_attention=f"{start}.channel_attn.fc.0.weight" in weights,
        spatial_attention=f"{start}.spatial_attn.conv.weight" in weights,
    )
    width = weights["conv_last.weight"].shape[1]
    return config if config.upsampled_channels == width else dataclasses.replace(config, reconstruction_channels=width)


def _scale(weights: StateDict, generation: int) -> int:
    prefix = "upsample." if generation == 1 else "upsample.blocks."
    convs = [tensor for name, tensor in weights.items() if re.match(rf"^{re.escape(prefix)}\d+\.weight$", name)]
    width = weights["conv_last.weight"].shape[1]
    if not convs:
        scale = 1 if generation == 1 else 0
    elif len(convs) > 1:
        scale = 1 << len(convs) if len(convs) <= _MOST_DOUBLINGS else 0
    else:
        scale = next((scale for scale in (1, 2, 3) if convs[0].shape[0] == scale**2 * width), 0)
    if not scale:
        raise UnknownNetworkError(
            f"cannot tell the scale: {len(convs)} upsampling convolutions before {width} channels"
        )
    for name in ("scale", "scale_tensor"):
        said = weights.get(name)
        if said is not None and (said.numel() != 1 or said.item() != scale):
            found = said.item() if said.numel() == 1 else f"{said.numel()} numbers"
            raise CheckpointError(
                f"the buffer '{name}' says {found}, the upsampler's shapes say {scale}",
                hint="the file was put together from different networks",
            )
    return scale


def _check_stated(config: NetworkConfig, stated: Mapping[str, Any]) -> None:
    facts: dict[str, int | list[int]] = {
        "in_chans": config.in_channels,
        "embed_dim": config.embed_dim,
        "depths": list(config.depths),
        "lk_kernel": config.large_kernel,
        "scale": config.scale,
        "use_channel_attn": config.channel_attention,
        "use_spatial_attn": config.spatial_attention,
    }
    if config.small_kernel is not None:
        facts["sk_kernel"] = config.small_kernel
    for name, found in facts.items():
        if name in stated and not _agree(stated[name], found):
            raise SpecMismatchError(f"the file's arch_config says {name} = {stated[name]}, its tensors say {found}")


def _agree(stated: Any, found: int | list[int]) -> bool:
    """Whether metadata nobody vouches for says the same as the tensors."""
    if isinstance(found, list):
        return isinstance(stated, list | tuple) and len(stated) == len(found) and all(map(_agree, stated, found))
    return isinstance(stated, int | float) and stated == found


def _positive(stated: Mapping[str, Any], name: str) -> float | None:
    value = stated.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise CheckpointError(
            f"expected a positive number as the file's {name}, found {value!r}", hint="correct or remove the metadata"
        )
    return float(value)


def _residual_scale(config: NetworkConfig, recorded: float | None, stated: float | None) -> tuple[float, str | None]:
    if recorded is not None:
        if stated is not None and recorded != stated:
            raise SpecMismatchError(f"the file records a residual scale of {recorded}, the spec says {stated}")
        return recorded, None
    if stated is not None:
        return stated, None
    small = {(NETWORK_PRESETS[3][name].embed_dim, NETWORK_PRESETS[3][name].depths) for name in ("mobile", "tiny")}
    guess = 0.2 if (config.embed_dim, config.depths) in small else 0.1
    return guess, (
        f"this generation-3 file does not record its residual scale; {guess} was assumed from its width and depths "
        "(state it with residual_scale if you know better: a wrong value gives a wrong image)"
    )
