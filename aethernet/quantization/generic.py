"""int8 for convolutional networks of any architecture, by the rules of :mod:`~aethernet.quantization.scheme`.

Every plain 1x1 and 3x3 convolution but the first and the last is quantised, with its input and its output; what lies
between convolutions (activations, sums, shuffles, attention) stays float. Which layers there are, and which feed each
other directly, is seen by running the network once, not read from anybody's code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aethernet.errors import QuantizationError
from aethernet.networks.third_party import ForeignNetwork
from aethernet.quantization.modules import QuantizedConv

__all__ = ["last_layer", "quantize_convolutions", "units_of_generic"]

_KERNELS = ((1, 1), (3, 3))
_LEAST_SHARE = 0.5
"""Networks that spend less of their multiplications than this in convolutions which can be quantised are no
convolutional ones: the rest, in float with rounding around it, eats up what integers gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layers:
    """What one run shows."""

    order: tuple[str, ...]
    """Convolutions in the order they ran, each once."""
    units: tuple[str, ...]
    """Those that are quantised."""
    fed_by: dict[str, str]
    """Convolution -> the one whose output is its input, with nothing in between."""
    share: float
    """Multiply-accumulates of the units, of those of all layers with weights."""


def units_of_generic(network: ForeignNetwork) -> list[str]:
    """Names of the convolutions that are quantised or kept float, in the order they run.

    Raises:
        QuantizationError: The network is not a convolutional one.
    """
    layers = _look(network)
    if not layers.units or layers.share < _LEAST_SHARE:
        raise QuantizationError(
            f"int8 is for convolutional networks: of the multiplications in {network.config.architecture}'s layers "
            f"{layers.share:.0%} are in 1x1 and 3x3 convolutions that can be quantised, {_LEAST_SHARE:.0%} are needed"
        )
    return list(layers.units)


def last_layer(network: ForeignNetwork) -> str:
    """Name of the convolution that runs last."""
    return _look(network).order[-1]


def quantize_convolutions(network: ForeignNetwork, fused: ForeignNetwork, quantized: Sequence[str]) -> None:
    """Put quantisers, switched off, around the convolutions of ``network`` that ``quantized`` names, in place.

    Args:
        network: A copy of ``fused``.
        fused: Whose weights, in full precision, are to be quantised.
        quantized: Some of :func:`units_of_generic`, in their order.
    """
    fed_by = _look(fused).fed_by
    made: dict[str, QuantizedConv] = {}
    for name in quantized:
        source = made.get(fed_by.get(name, ""))
        made[name] = QuantizedConv(fused.get_submodule(name), input=source is None)  # type: ignore[arg-type]
        if source is not None:
            made[name].sources = [source.output]
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, made[name])


@torch.no_grad()
def _look(network: ForeignNetwork) -> _Layers:
    """Run the network once and remember; a network never changes which layers it has."""
    known: _Layers | None = network.layers
    if known is not None:
        return known
    order: list[str] = []
    runs: dict[str, int] = {}
    work: dict[str, int] = {}
    outputs: dict[int, tuple[str, Tensor, int]] = {}
    fed_by: dict[str, str] = {}

    def hook(name: str) -> object:
        def remember(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            runs[name] = runs.get(name, 0) + 1
            weight = module.weight
            assert isinstance(weight, Tensor)
            places = output.numel() // output.shape[1 if isinstance(module, nn.Conv2d) else -1]
            work[name] = work.get(name, 0) + weight.numel() * places
            if isinstance(module, nn.Conv2d):
                order.append(name)
                source, _, version = outputs.get(id(inputs[0]), ("", output, -1))
                if inputs[0]._version == version:  # an activation in place leaves the same tensor, of another version
                    fed_by[name] = source
                outputs[id(output)] = (name, output, output._version)  # kept, so that no other tensor gets its id

        return remember

    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]  # type: ignore[arg-type]
    try:
        network(network.example())
    finally:
        for handle in handles:
            handle.remove()
    order = list(dict.fromkeys(order))
    units = tuple(name for name in order[1:-1] if runs[name] == 1 and _plain(layers[name]))
    found = _Layers(
        order=tuple(order),
        units=units,
        fed_by=fed_by,
        share=sum(work[name] for name in units) / max(1, sum(work.values())),
    )
    network.layers = found
    return found


def _plain(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv2d
        and layer.kernel_size in _KERNELS
        and layer.stride == (1, 1)
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
    )
