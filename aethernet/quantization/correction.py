"""Bias correction: rounding shifts the mean of what a layer gives, and such shifts add up to a tint in the picture.

The expected shift is measured and taken off the bias, one layer after the other, so that each layer is corrected for
what reaches it from layers corrected before (Nagel et al. 2019, Data-Free Quantization, arXiv:1906.04721, section 4.2,
with pictures instead of statistics). It also takes off the mean of what replacing GELU changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aethernet.networks.third_party import ForeignNetwork
from aethernet.quantization.generic import last_layer
from aethernet.quantization.modules import QuantizedConv

if TYPE_CHECKING:
    from aethernet.networks.network import Network

__all__ = ["correct_biases", "source_name"]

_LINEAR_NAMES = {"conv_gate": "fc1_gate", "conv_main": "fc1_main", "conv_out": "fc2"}


def source_name(name: str, generation: int | None) -> str:
    """Name in the fused network of the layer that became the quantised convolution ``name``."""
    parent, _, child = name.rpartition(".")
    if generation == 1 and child in _LINEAR_NAMES:
        return f"{parent}.{_LINEAR_NAMES[child]}"
    return name


@torch.no_grad()
def correct_biases(network: Network, fused: Network, crops: Tensor, slopes: dict[str, float]) -> float:
    """Shift the biases of ``network``, in place, until every layer's mean per channel is that of ``fused``.

    Args:
        network: A quantised network, switched on.
        fused: The float network it was made from.
        crops: [N, C, H, W] in [0, 1].
        slopes: Generation 1: unit -> slope folded into its gate.

    Returns:
        The largest correction, in units of the picture's range, at the last layer: the tint that was removed.
    """
    last = last_layer(fused) if isinstance(fused, ForeignNetwork) else "conv_last"
    generation = getattr(network.config, "generation", None)
    layers = {name: m for name, m in network.named_modules() if isinstance(m, QuantizedConv) or name == last}
    wanted: dict[str, Tensor] = {}

    def remember(name: str, linear: bool) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            unit = name.rpartition(".")[0]
            gain = slopes.get(unit, 1.0) if name.endswith(".conv_gate") else 1.0
            wanted[name] = output.mean(dim=(0, 1, 2) if linear else (0, 2, 3)) * gain

        return hook

    handles = []
    for name in layers:
        source = fused.get_submodule(source_name(name, generation))
        handles.append(source.register_forward_hook(remember(name, isinstance(source, nn.Linear))))
    _run(fused, crops, handles)
    tint = 0.0

    def correct(name: str) -> Callable[[Any, Any, Tensor], Tensor]:
        def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
            nonlocal tint
            if isinstance(module, QuantizedConv):
                output = module.before_output(module.input(inputs[0]))
            shift = wanted[name] - output.mean(dim=(0, 2, 3))
            if module.bias is None:  # the last layer may have none, and then nothing to correct
                return output
            module.bias += shift
            output = output + shift.view(1, -1, 1, 1)
            if name == last:
                tint = float(shift.abs().max())
            result: Tensor = module.output(output) if isinstance(module, QuantizedConv) else output
            return result

        return hook

    _run(network, crops, [module.register_forward_hook(correct(name)) for name, module in layers.items()])
    return tint


def _run(network: nn.Module, crops: Tensor, handles: list[torch.utils.hooks.RemovableHandle]) -> None:
    try:
        network(crops)
    finally:
        for handle in handles:
            handle.remove()
