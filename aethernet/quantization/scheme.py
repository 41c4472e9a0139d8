"""The int8 scheme, stated in one place: which tensors are quantised, on which grid, and what stays float and why.

Grid
    Activations: one scale per tensor, value = scale * q with q in [-128, 127]. Unsigned with zero-point 128 or signed
    with zero-point 0 is the same grid; the first is what ONNX Runtime's x86 kernels are fast for, the second is what
    TensorRT accepts.
    Weights: one scale per output channel, value = scale * q with q in [-127, 127].
    Scales are numbers that half precision holds, so that no form has to round them: TensorRT's has fp16 scales.

Pairs of weights
    Processors with AVX2 but without VNNI multiply unsigned by signed bytes and add two neighbouring products in 16
    bits, which saturates: 255 * 127 + 255 * 127 does not fit. Two weights that are neighbours along the input channels
    therefore never add up to more than 128 in either sign; then no input whatever can overflow, and every machine
    computes the same image. It costs a fraction of a bit in the channels where it binds, where the usual remedy
    (7-bit weights everywhere) costs a whole one.

Quantised
    Every 1x1 and 3x3 convolution (and linear layer over channels, which is a 1x1 convolution) but the first and the
    last, with its input and output; the gate between them, sigmoid and products included, so that it runs on bytes: on
    a CPU, memory traffic decides there. What a gate's last convolution adds to the residual stream leaves as float.

Float
    ``conv_first``: three input channels of full precision, little work.
    ``conv_last``, and the upsampler's last convolution, which is merged with it (:mod:`aethernet.networks.merging`):
    the result is the image, and an integer kernel would have to round that result to 8 bits twice.
    Large depthwise kernels: slower in integers than in float in ONNX Runtime (measured), and few multiplications.
    Norms, residual additions and the residual stream: errors there add up from block to block.
    Attention: few multiplications, and a gate that multiplies everything after it.
    Parts measured to make a share of the error far out of proportion to their share of the work, see
    :func:`aethernet.quantization.sensitivity.out_of_proportion`.

Rewritten
    Generation 1's exact GELU, x * Phi(x), is computed as x * sigmoid(a * x) (Hendrycks and Gimpel 2016,
    arXiv:1606.08415, section 2) with the ``a`` for which the network's image changes least; it folds into the layers
    around it and leaves SiLU, as generations 2 and 3 have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ACTIVATION_MAX",
    "ACTIVATION_MIN",
    "MAC_SHARE",
    "PAIR_MAX",
    "SMALLEST_SCALE",
    "UNSIGNED_ZERO_POINT",
    "WEIGHT_MAX",
    "activation_scale",
    "half_precision",
    "weight_scale",
]

ACTIVATION_MIN, ACTIVATION_MAX = -128, 127
WEIGHT_MAX = 127
UNSIGNED_ZERO_POINT = 128
PAIR_MAX = 128
"""255 * 128 = 32640 fits in 16 bits with sign, 255 * 129 does not."""

MAC_SHARE = 0.9
"""Share of the multiply-accumulates of quantised layers that must run in integer kernels."""

SMALLEST_SCALE = 1e-6
"""Tensors of nothing but zeros have a grid too."""


def activation_scale(low: float, high: float) -> float:
    """The scale whose grid reaches from ``low`` to ``high``, both ends at most half a step outside."""
    import torch  # the numbers above are wanted without it

    return float(half_precision(torch.tensor(max(-low / -ACTIVATION_MIN, high / ACTIVATION_MAX, SMALLEST_SCALE))))


def half_precision(scale: Tensor) -> Tensor:
    """The next scale up that half precision holds exactly, float32: a rounded scale would be another grid."""
    import torch

    half = scale.double().half()
    up = (half.view(torch.int16) + 1).view(torch.float16)  # of positive numbers; nextafter knows no halves on GPUs
    return torch.where(half.double() < scale.double(), up, half).float()


def weight_scale(weight: Tensor) -> Tensor:
    """Scale per output channel, [O], of a convolution's weight [O, I, kH, kW], float32."""
    import torch

    weight = weight.detach().double()
    outputs, inputs = weight.shape[:2]
    largest = weight.abs().reshape(outputs, -1).amax(dim=1)
    if inputs > 1:
        # Neighbours along the input channels: (0, 1), (2, 3), …; kernels walk channels first. Rounding may add half a
        # step to each of two, hence one step less than fits.
        even = inputs - inputs % 2
        pairs = weight[:, :even].reshape(outputs, even // 2, 2, -1)
        positive = pairs.clamp(min=0).sum(dim=2).reshape(outputs, -1).amax(dim=1)
        negative = pairs.clamp(max=0).sum(dim=2).neg().reshape(outputs, -1).amax(dim=1)
        largest = torch.stack([largest / WEIGHT_MAX, positive / (PAIR_MAX - 1), negative / (PAIR_MAX - 1)]).amax(dim=0)
    else:
        largest = largest / WEIGHT_MAX
    return half_precision(largest.clamp(min=SMALLEST_SCALE))
