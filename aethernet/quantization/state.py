"""An int8 network as plain tensors by name, and back: what ``…_int8.safetensors`` and ``…_int8.pth`` hold.

Names and shapes are those of the fused network. A quantised layer X has ``X.weight`` (int8), ``X.weight_scale`` and
``X.bias`` (float32, per output channel); every activation on a grid has ``NAME.scale`` (float32); all other tensors are
float16. A file of this kind is known by its int8 weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aethernet.errors import KeyMismatchError, NonFiniteWeightsError
from aethernet.quantization.correction import source_name
from aethernet.quantization.modules import Mode, QuantizedConv, Quantizer, set_mode
from aethernet.quantization.structure import belongs, convs_of, quantizers_of, restructure, units_of

if TYPE_CHECKING:
    from aethernet.networks.network import Network

__all__ = ["float_units", "int8_tensors", "is_int8", "is_quantized", "restore", "split"]

_SCALE = "weight_scale"


def is_int8(entries: Mapping[str, Any]) -> bool:
    """Whether a file's entries are those of an int8 network."""
    return any(
        name.endswith(".weight")
        and isinstance(value, Tensor)
        and value.dtype is torch.int8
        and f"{name}_scale" in entries
        for name, value in entries.items()
    )


def is_quantized(network: nn.Module) -> bool:
    """Whether a network is an int8 network."""
    return any(isinstance(module, QuantizedConv) for module in network.modules())


def int8_tensors(network: Network) -> dict[str, Tensor]:
    """The tensors of a finished int8 network, as they are stored."""
    generation = getattr(network.config, "generation", None)
    own = {id(module) for module in network.modules() if isinstance(module, QuantizedConv | Quantizer)}
    tensors: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        if id(module) in own:
            continue
        for part, tensor in (*module.named_parameters(recurse=False), *_buffers(module)):
            tensors[f"{name}.{part}" if name else part] = tensor.half() if tensor.is_floating_point() else tensor
    for name, conv in convs_of(network):
        stored = source_name(name, generation)
        scale = conv.weight_scale.detach()
        integers = torch.round(conv.weight.detach() / scale.view(-1, 1, 1, 1)).to(torch.int8)
        tensors[f"{stored}.weight"] = integers if stored == name else integers[:, :, 0, 0]
        tensors[f"{stored}.{_SCALE}"] = scale
        tensors[f"{stored}.bias"] = conv.bias.detach()
    tensors |= {f"{name}.scale": one.scale.detach() for name, one in quantizers_of(network).items()}
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def _buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    skipped = module._non_persistent_buffers_set
    return [(name, buffer) for name, buffer in module.named_buffers(recurse=False) if name not in skipped]


def split(entries: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Divide an int8 file into the float network it stands for and the scales on top.

    Returns:
        Entries with int8 weights multiplied out, and the scales by name.

    Raises:
        KeyMismatchError: An int8 weight without its scale.
        NonFiniteWeightsError: A scale that is no positive number.
    """
    scales = {
        name: value
        for name, value in entries.items()
        if isinstance(value, Tensor) and value.is_floating_point() and name.endswith((f".{_SCALE}", ".scale"))
    }
    floats: dict[str, Any] = {}
    for name, value in entries.items():
        if name in scales:
            continue
        if isinstance(value, Tensor) and value.dtype is torch.int8:
            scale_name = f"{name.removesuffix('.weight')}.{_SCALE}"
            if scale_name not in scales or scales[scale_name].shape != value.shape[:1]:
                raise KeyMismatchError([scale_name], ())
            floats[name] = value.float() * scales[scale_name].float().view(-1, *[1] * (value.ndim - 1))
        else:
            floats[name] = value
    broken = [name for name, scale in scales.items() if not (scale.isfinite().all() and (scale > 0).all())]
    if broken:
        raise NonFiniteWeightsError(broken)
    return floats, scales


@torch.no_grad()
def restore(fused: Network, entries: Mapping[str, Any], scales: Mapping[str, Tensor]) -> Network:
    """Put quantisers back where a file has scales.

    Args:
        fused: The float network of :func:`split`'s entries.
        entries: Of the file, as read.
        scales: From :func:`split`.

    Raises:
        KeyMismatchError: Scales are missing or left over.
    """
    generation = getattr(fused.config, "generation", None)
    quantized = {
        name.removesuffix(".weight")
        for name, value in entries.items()
        if isinstance(value, Tensor) and value.dtype is torch.int8
    }
    keep_float = float_units(fused, quantized)
    # The slope of generation 1's gates is in the weights already.
    slopes = dict.fromkeys(units_of(fused), 1.0)
    network = restructure(fused, slopes=slopes, keep_float=keep_float)
    wanted = {f"{name}.scale": one.scale for name, one in quantizers_of(network).items()}
    convs = {f"{source_name(name, generation)}.{_SCALE}": conv for name, conv in convs_of(network)}
    missing = (wanted.keys() | convs.keys()) - scales.keys()
    left_over = scales.keys() - wanted.keys() - convs.keys()
    if missing or left_over:
        raise KeyMismatchError(missing, left_over)
    for name, scale in wanted.items():
        scale.copy_(scales[name].reshape(1))
    for name, conv in convs.items():
        conv.weight_scale.copy_(scales[name])
    set_mode(network, Mode.ON)
    return network


def float_units(fused: Network, quantized: Collection[str]) -> list[str]:
    """Units of which no layer is quantised.

    Args:
        fused: The float network.
        quantized: Names in it of the layers that are.
    """
    return [unit for unit in units_of(fused) if not any(belongs(layer, unit) for layer in quantized)]
