"""From a fused float network to the network that int8 runs: the same computation, with a quantiser at every place where
:mod:`aethernet.quantization.scheme` puts one.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from aethernet.errors import QuantizationError
from aethernet.networks.blocks import ChannelAttention, ChannelLayerNorm, GatedFeedForward, SpatialAttention
from aethernet.networks.fusion import fold_affine_after, fold_gain_before
from aethernet.networks.generation1 import AetherNet1, Block1, GatedLinear
from aethernet.networks.third_party import ForeignNetwork
from aethernet.quantization.generic import quantize_convolutions, units_of_generic
from aethernet.quantization.modules import QuantizedConv, QuantizedGate, Quantizer, ResidualBlock

if TYPE_CHECKING:
    from aethernet.networks.network import Network

SomeNetwork = TypeVar("SomeNetwork", bound="Network")

__all__ = ["DEFAULT_SLOPE", "belongs", "convs_of", "gated_units", "quantizers_of", "restructure", "units_of"]

DEFAULT_SLOPE = 1.65
"""The ``a`` of x * sigmoid(a * x) where nothing was measured; fitted ones lie around it."""


def units_of(fused: Network) -> list[str]:
    """Names of the parts that are quantised or kept float as one, in the order they run."""
    if isinstance(fused, ForeignNetwork):
        return units_of_generic(fused)
    units = [name for name, module in fused.named_modules() if isinstance(module, GatedLinear | GatedFeedForward)]
    if not isinstance(fused, AetherNet1):
        units.append("quant_fusion_layer")
    upsampling = [
        name for name, module in fused.upsample.named_modules(prefix="upsample") if isinstance(module, nn.Conv2d)
    ]
    # The last of them becomes one with conv_last.
    return [*units, "conv_after_body", "conv_before_upsample", *upsampling[:-1]]


def belongs(layer: str, unit: str) -> bool:
    """Whether the layer of this name is quantised or kept float with ``unit``."""
    if unit == "quant_fusion_layer" and layer.startswith("fusion_convs."):
        return True
    return layer.startswith(f"{unit}.") or layer == unit


def gated_units(fused: Network) -> dict[str, nn.Linear]:
    """Unit -> layer before the exact GELU, for generation 1; empty for the others, whose gate is SiLU already."""
    return {name: module.fc1_gate for name, module in fused.named_modules() if isinstance(module, GatedLinear)}


@torch.no_grad()
def restructure(
    fused: SomeNetwork, *, slopes: Mapping[str, float] | None = None, keep_float: Collection[str] = ()
) -> SomeNetwork:
    """A copy of ``fused`` with quantisers in place, switched off: it still computes in float.

    Float weights that stay are rounded to half precision, so that every form of the network holds the same numbers.

    Args:
        fused: A network in fused form.
        slopes: Generation 1: unit -> ``a`` of x * sigmoid(a * x), which stands for GELU.
        keep_float: Units to leave alone.

    Raises:
        QuantizationError: There is no such unit, or nothing is left to quantise.
    """
    units = units_of(fused)
    unknown = sorted(set(keep_float) - set(units))
    if unknown:
        raise QuantizationError(
            f"expected names of parts to keep float, found {', '.join(unknown)}", hint=f"known are {', '.join(units)}"
        )
    quantized = [unit for unit in units if unit not in keep_float]
    if not quantized:
        raise QuantizationError("every part was to stay float, so nothing is quantised")
    network: Any = copy.deepcopy(fused).eval()
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().float())
    if isinstance(fused, ForeignNetwork):
        quantize_convolutions(network, fused, quantized)
    else:
        _quantize_parts(network, fused, quantized, slopes or {}, keep_float)
    result: SomeNetwork = network.eval().requires_grad_(False)
    return result


def _quantize_parts(
    network: Any, fused: Network, quantized: Collection[str], slopes: Mapping[str, float], keep_float: Collection[str]
) -> None:
    """The same for an AetherNet's copy, in place."""
    # Weights that are quantised keep full precision until then.
    originals = dict(fused.named_modules())
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and any(belongs(name, unit) for unit in quantized):
            source = originals[name]
            module.weight.copy_(source.weight)
            if module.bias is not None:
                module.bias.copy_(source.bias)
    _gates(network, slopes, keep_float)
    if not isinstance(network, AetherNet1) and "quant_fusion_layer" not in keep_float:
        _stage_fusion(network)
    if "conv_after_body" not in keep_float:
        network.conv_after_body = QuantizedConv(network.conv_after_body, input=True)
    _tail(network, quantized)


def _gates(network: Any, slopes: Mapping[str, float], keep_float: Collection[str]) -> None:
    for name, block in list(network.named_modules()):
        ffn = getattr(block, "ffn", None)
        if ffn is None or f"{name}.ffn" in keep_float:
            continue
        if isinstance(block, Block1):
            gate = _gate_from_linear(block.ffn, slopes.get(f"{name}.ffn", DEFAULT_SLOPE))
        else:
            gate = QuantizedGate(ffn.conv_gate, ffn.conv_main, ffn.conv_out)
        attended = any(isinstance(module, ChannelAttention | SpatialAttention) for module in block.children())
        if attended:
            block.ffn = gate
        else:
            parent, _, child = name.rpartition(".")
            plain = ResidualBlock(block.conv, _channels_last(block.norm), gate)
            setattr(network.get_submodule(parent), child, plain)


def _channels_last(norm: nn.Module) -> nn.Module:
    """The same norm for [N, H, W, C]."""
    if not isinstance(norm, ChannelLayerNorm):
        return norm  # layer norms act on the last axis, and a folded norm is an identity
    plain = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
    plain.load_state_dict(norm.state_dict())
    return plain


def _gate_from_linear(ffn: GatedLinear, slope: float) -> QuantizedGate:
    """X * sigmoid(a * x) = SiLU(a * x) / a: the slope goes into the layer before, its inverse into the one after."""
    gate, main, out = (_as_conv(layer) for layer in (ffn.fc1_gate, ffn.fc1_main, ffn.fc2))
    gain = torch.full((gate.out_channels,), slope, dtype=torch.float64)
    fold_affine_after(gate, gain, torch.zeros_like(gain))
    fold_gain_before(out, 1 / slope)
    return QuantizedGate(gate, main, out)


def _as_conv(layer: nn.Linear) -> nn.Conv2d:
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1).to(layer.weight)
    conv.weight.copy_(layer.weight[:, :, None, None])
    assert conv.bias is not None
    conv.bias.copy_(layer.bias)
    return conv


def _stage_fusion(network: Any) -> None:
    """All shares leave on one grid, so that putting them side by side moves bytes and nothing else."""
    several = len(network.fusion_convs) > 1
    whole = QuantizedConv(network.quant_fusion_layer.fusion_conv, input=several)
    for index, conv in enumerate(network.fusion_convs):
        share = QuantizedConv(conv, input=True)
        if several:
            share.output.scale = whole.input.scale
        else:
            whole.sources = [share.output]
        network.fusion_convs[index] = share
    network.quant_fusion_layer.fusion_conv = whole


def _tail(network: Any, quantized: Collection[str]) -> None:
    """From the features to the picture: a chain in which bytes go from one convolution straight to the next."""
    is_first = isinstance(network, AetherNet1)
    layers = network.upsample if is_first else network.upsample.blocks
    prefix = "upsample" if is_first else "upsample.blocks"
    waiting = [
        f"{prefix}.{name}" in quantized for name, layer in layers.named_children() if isinstance(layer, nn.Conv2d)
    ]
    before, activation = network.conv_before_upsample
    source: Any = None  # the quantiser that put the current tensor on its grid
    if "conv_before_upsample" in quantized:
        parts = [QuantizedConv(before, input=True), activation]
        if waiting and waiting[0]:
            source = Quantizer()
            parts.append(source)
        network.conv_before_upsample = nn.Sequential(*parts)
    chain: list[tuple[str, Any]] = []
    for name, layer in layers.named_children():
        if not isinstance(layer, nn.Conv2d):
            chain.append((name, layer))
            if source is not None and waiting and waiting[0]:
                # A shuffle only moves values: the same grid again, so that what follows finds its input on one.
                regrid = Quantizer()
                regrid.scale = source.scale
                chain.append((f"{name}_regrid", regrid))
        elif waiting.pop(0):
            conv = QuantizedConv(layer, input=source is None)
            conv.sources = conv.sources or [source]
            source = conv.output
            chain.append((name, conv))
        else:
            source = None
            chain.append((name, layer))
    sequence = nn.Sequential()
    for name, layer in chain:
        sequence.add_module(name, layer)
    if is_first:
        network.upsample = sequence
    else:
        network.upsample.blocks = sequence


def quantizers_of(network: nn.Module) -> dict[str, Quantizer]:
    """Name -> quantiser, those that share another's scale left out."""
    found: dict[str, Quantizer] = {}
    seen: set[int] = set()
    # The input of the fusion comes before its shares, so that the shared scale bears its name.
    for name, module in sorted(network.named_modules(), key=lambda item: item[0].startswith("fusion_convs.")):
        if isinstance(module, Quantizer) and id(module.scale) not in seen:
            seen.add(id(module.scale))
            found[name] = module
    return found


def convs_of(network: nn.Module) -> Iterator[tuple[str, QuantizedConv]]:
    """Every quantised convolution with its name."""
    return ((name, module) for name, module in network.named_modules() if isinstance(module, QuantizedConv))
