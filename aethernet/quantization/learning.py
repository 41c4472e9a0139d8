"""Learning an int8 network: which of its numbers may move, and how it becomes a finished network again.

What rounds is PyTorch's own fake quantisation: per output channel for weights, with gradients for the range for
activations (:class:`~aethernet.quantization.modules.Mode`). Weights get their grid from themselves at every step, pairs
of neighbours and half-precision scales included, so that finishing changes almost nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from aethernet.errors import QuantizationError
from aethernet.quantization.calibrated import TensorRange
from aethernet.quantization.correction import source_name
from aethernet.quantization.modules import Mode, QuantizedConv, Quantizer, set_mode
from aethernet.quantization.post_training import Quantized, freeze_weights
from aethernet.quantization.scheme import SMALLEST_SCALE, half_precision, weight_scale
from aethernet.quantization.state import float_units
from aethernet.quantization.structure import convs_of, quantizers_of

if TYPE_CHECKING:
    from aethernet.networks import AetherNet
    from aethernet.quantization.finetuned import FinetunedInt8

__all__ = ["finished", "from_finetuning", "start_learning"]


def start_learning(network: nn.Module) -> list[Tensor]:
    """Switch to learning, in place.

    Returns:
        What may move, every parameter once: weights of quantised convolutions, scales of activations, and all biases,
        also of convolutions that stay float: the last one's decides over tints.
    """
    set_mode(network, Mode.LEARN)
    moving: dict[int, Tensor] = {}
    for module in network.modules():
        if isinstance(module, QuantizedConv):
            moving |= {id(module.weight): module.weight, id(module.bias): module.bias}
        elif isinstance(module, Quantizer):
            moving[id(module.scale)] = module.scale
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            moving[id(module.bias)] = module.bias
    for parameter in moving.values():
        parameter.requires_grad_(True)
    return list(moving.values())


@torch.no_grad()
def finished(network: AetherNet) -> AetherNet:
    """A copy of a learning network with everything where the int8 files can hold it, rounding on, on the CPU."""
    done = copy.deepcopy(network).cpu().requires_grad_(False)
    for module in done.modules():
        if isinstance(module, Quantizer):
            module.scale.copy_(half_precision(module.scale.clamp(min=SMALLEST_SCALE)))
        elif isinstance(module, QuantizedConv):
            module.weight_scale.copy_(weight_scale(module.weight))
    freeze_weights(done)
    return done


def from_finetuning(
    finetuned: FinetunedInt8, fused: AetherNet, *, keep_float: Collection[str] | None = None
) -> Quantized:
    """What :func:`~aethernet.quantization.post_training.quantize` gives, for an int8 network that a checkpoint holds.

    Args:
        finetuned: From the checkpoint.
        fused: The float network beside it, in fused form.
        keep_float: Units that must be the ones left in float; None: whichever fine-tuning left.

    Raises:
        QuantizationError: Fine-tuning left other units in float.
    """
    model = finetuned.model
    kept = float_units(fused, [source_name(name, fused.config.generation) for name, _ in convs_of(model)])
    if keep_float is not None and set(keep_float) != set(kept):
        raise QuantizationError(
            f"expected {', '.join(sorted(keep_float)) or 'nothing'} to stay float, "
            f"but this checkpoint was fine-tuned with {', '.join(kept) or 'nothing'} in float",
            hint="leave keep_float out, or fine-tune again with the same keep_float",
        )
    return Quantized(
        model=model,
        tensors=tuple(
            TensorRange(name=name, scale=float(one.scale), source="learned")
            for name, one in quantizers_of(model).items()
        ),
        keep_float=tuple(kept),
        slope=finetuned.slope,
        tint_removed=None,
    )
