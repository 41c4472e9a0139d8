"""Depthwise convolutions whose weight gradient is fast in bfloat16 on a CPU.

PyTorch's bfloat16 kernels take many times longer for the gradient of a large depthwise kernel than for the convolution
itself. The gradient is a correlation of input and output gradient per image and channel, so a grouped convolution
gives the same numbers; in bfloat16 a whole step of the tiny preset then takes about three quarters of the time. In
float32, with channels last, PyTorch's own kernels are the faster ones: this would double the time of a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aethernet.networks.blocks import ReparameterisedLargeKernelConv
from aethernet.networks.fusion import merge_parallel

__all__ = ["speed_up_depthwise_"]


class _DepthwiseFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, padding=padding, groups=weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        count, channels, height, width = x.shape
        kernel = weight.shape[-1]
        to_x = F.conv2d(gradient, weight.flip(2, 3), padding=kernel - 1 - ctx.padding, groups=channels)
        images = x.transpose(0, 1).reshape(1, channels * count, height, width)
        kernels = gradient.transpose(0, 1).reshape(channels * count, 1, *gradient.shape[2:])
        each = F.conv2d(images, kernels, padding=ctx.padding, groups=channels * count)  # [1, C*N, K, K]
        to_weight = each.view(channels, count, kernel, kernel).sum(dim=1).unsqueeze(1)
        return to_x, to_weight, None


class _DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution of stride 1 without bias; same parameter, same output."""

    def forward(self, x: Tensor) -> Tensor:
        return _depthwise(x, self.weight)


def _depthwise(x: Tensor, weight: Tensor) -> Tensor:
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    y: Tensor = _DepthwiseFunction.apply(x, weight, weight.shape[-1] // 2)
    return y


class _MergedLargeKernelConv(ReparameterisedLargeKernelConv):
    """Both kernels as one convolution: the sum of their outputs is the output of their sum, gradients included."""

    def forward(self, x: Tensor) -> Tensor:
        weight = merge_parallel(self.lk_conv.weight, self.sk_conv.weight)
        y: Tensor = _depthwise(x, weight) + (self.lk_bias + self.sk_bias).view(1, -1, 1, 1)
        return y


def speed_up_depthwise_(network: nn.Module) -> None:
    """Replace the depthwise convolutions inside ``network``; parameters and their names stay."""
    for module in network.modules():
        if type(module) is ReparameterisedLargeKernelConv and _is_plain_depthwise(module.lk_conv):
            module.__class__ = _MergedLargeKernelConv  # the same parameters, another order of adding up
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and _is_plain_depthwise(child):
                fast = _DepthwiseConv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,  # type: ignore[arg-type]
                    padding=child.padding,  # type: ignore[arg-type]
                    groups=child.groups,
                    bias=False,
                    device="meta",
                )
                fast.weight = child.weight
                setattr(module, name, fast)


def _is_plain_depthwise(conv: nn.Conv2d) -> bool:
    same_padding = all(padding == kernel // 2 for padding, kernel in zip(conv.padding, conv.kernel_size, strict=True))
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    return depthwise and same_padding and conv.bias is None and conv.stride == conv.dilation == (1, 1)
