"""The building blocks, each defined once: convolutions, norms, gates, attention, upsampling.

Tensors are [N, C, H, W] unless stated. ``forward`` is mathematics only; what differs between training and deployment is
which module stands in a place, not a flag inside it. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aethernet.networks.config import Norm
from aethernet.networks.fusion import Foldable, fold_affine_after, fold_gain_before, merge_parallel

__all__ = [
    "AffineMap",
    "Block",
    "ChannelAttention",
    "ChannelLayerNorm",
    "DeploymentNorm",
    "Gain",
    "GatedFeedForward",
    "MergedLargeKernelConv",
    "ReparameterisedLargeKernelConv",
    "SpatialAttention",
    "StochasticDepth",
    "TemperedGatedFeedForward",
    "Upsampler",
    "conv3x3",
    "make_norm",
    "merge_children_",
    "pixel_shuffle_stages",
]


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3x3 convolution with bias that keeps height and width."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class ReparameterisedLargeKernelConv(Foldable):
    """A large depthwise kernel beside a small one, which helps training (RepLKNet, arXiv:2203.06717)."""

    def __init__(self, channels: int, large_kernel: int, small_kernel: int) -> None:
        super().__init__()
        self.lk_conv = _depthwise(channels, large_kernel, bias=False)
        self.sk_conv = _depthwise(channels, small_kernel, bias=False)
        self.lk_bias = nn.Parameter(torch.zeros(channels))
        self.sk_bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        large = self.lk_conv(x) + self.lk_bias.view(1, -1, 1, 1)
        small = self.sk_conv(x) + self.sk_bias.view(1, -1, 1, 1)
        y: Tensor = large + small
        return y

    def fold(self) -> MergedLargeKernelConv:
        channels, _, kernel, _ = self.lk_conv.weight.shape
        merged = MergedLargeKernelConv(channels, kernel).to(self.lk_conv.weight)
        merged.fused_conv.weight.data = merge_parallel(self.lk_conv.weight, self.sk_conv.weight)
        merged.fused_conv.bias = nn.Parameter(self.lk_bias + self.sk_bias)
        return merged


class MergedLargeKernelConv(nn.Module):
    """The same convolution with one kernel."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.fused_conv = _depthwise(channels, kernel, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fused_conv(x)
        return y


def _depthwise(channels: int, kernel: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=bias)


class DeploymentNorm(Foldable):
    """Batch norm with [1, C, 1, 1] parameters: batch statistics (biased) in training, running ones in evaluation."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("running_mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("running_var", torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training:
            x = x.to(self.running_mean.dtype)  # autocast hands over half precision, too coarse for statistics
            mean = x.mean(dim=(0, 2, 3), keepdim=True)
            variance = x.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance, self.momentum)
        return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias

    def fold(self) -> AffineMap:
        gain = self.weight / torch.sqrt(self.running_var + self.eps)
        affine = AffineMap(gain.shape[1]).to(gain)
        affine.weight.data = gain
        affine.bias.data = self.bias - self.running_mean * gain
        return affine


class AffineMap(nn.Module):
    """x * weight + bias per channel: what is left of a deployment norm at inference."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def make_norm(norm: Norm, channels: int, eps: float) -> DeploymentNorm | ChannelLayerNorm:
    """The norm a config asks for."""
    return DeploymentNorm(channels, eps) if norm is Norm.DEPLOYMENT else ChannelLayerNorm(channels, eps=eps)


class GatedFeedForward(nn.Module):
    """conv_out(SiLU(conv_gate(x)) * conv_main(x)), all 1x1 (GLU variants: Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv_gate = nn.Conv2d(channels, hidden, 1)
        self.conv_main = nn.Conv2d(channels, hidden, 1)
        self.conv_out = nn.Conv2d(hidden, channels, 1)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def gate(self, x: Tensor) -> Tensor:
        """Pre-activation of the gate, [N, hidden, H, W]."""
        y: Tensor = self.conv_gate(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_out(self.dropout(F.silu(self.gate(x)) * self.conv_main(x)))
        return y


class TemperedGatedFeedForward(GatedFeedForward, Foldable):
    """The same with a learned scalar on the gate."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(channels, hidden, dropout)
        self.temperature = nn.Parameter(torch.ones(1))

    def gate(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv_gate(x) * self.temperature
        return y

    def fold(self) -> GatedFeedForward:
        hidden, channels, _, _ = self.conv_gate.weight.shape
        plain = GatedFeedForward(channels, hidden).to(self.conv_gate.weight)
        plain.conv_gate, plain.conv_main, plain.conv_out = self.conv_gate, self.conv_main, self.conv_out
        temperature = self.temperature.expand(hidden)
        fold_affine_after(plain.conv_gate, temperature, torch.zeros_like(temperature))
        return plain


class ChannelAttention(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018, arXiv:1709.01507), reduction 8, no biases. Pools the whole picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = channels // 8
        self.fc = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.fc(x.mean(dim=(2, 3), keepdim=True))
        return y

    def expect_gain_(self, gain: float) -> None:
        """From now on the input arrives multiplied by ``gain``: keep the gate as it was."""
        fold_gain_before(self.fc[0], 1 / gain)  # type: ignore[arg-type]  # nn.Sequential forgets its types


class SpatialAttention(nn.Module):
    """A gate per pixel from the maximum and mean over channels (CBAM, Woo et al. 2018, arXiv:1807.06521)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        summary = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(summary))

    def expect_gain_(self, gain: float) -> None:
        """As for channel attention; max and mean commute with a positive gain."""
        fold_gain_before(self.conv, 1 / gain)


class StochasticDepth(nn.Module):
    """Drops a sample's whole branch with probability ``rate`` in training (Huang et al. 2016, arXiv:1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.rand(x.shape[0], 1, 1, 1, device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


class Gain(Foldable):
    """Multiplies by a fixed positive number that is no parameter (the residual scale)."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain

    def fold(self) -> nn.Module:
        return nn.Identity()


class Block(nn.Module):
    """One residual block of generations 2 and 3: large kernel, norm, gated feed-forward, attention, scale, skip."""

    def __init__(
        self,
        *,
        conv: nn.Module,
        norm: nn.Module,
        ffn: nn.Module,
        channel_attn: nn.Module,
        spatial_attn: nn.Module,
        residual_scale: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.ffn = ffn
        self.channel_attn = channel_attn
        self.spatial_attn = spatial_attn
        self.residual_gain: nn.Module = Gain(residual_scale) if residual_scale != 1 else nn.Identity()
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.ffn(self.norm(self.conv(x)))
        branch = self.spatial_attn(self.channel_attn(branch))
        y: Tensor = x + self.drop_path(self.residual_gain(branch))
        return y

    def fold_(self) -> None:
        """In place, after merging: the norm goes into the large kernel, temperature and residual scale into 1x1s."""
        if isinstance(self.norm, AffineMap):
            fold_affine_after(self.conv.fused_conv, self.norm.weight, self.norm.bias)  # type: ignore[arg-type]
            self.norm = nn.Identity()
        if isinstance(self.ffn, TemperedGatedFeedForward):
            self.ffn = self.ffn.fold()
        if isinstance(self.residual_gain, Gain):
            gain = torch.tensor(self.residual_gain.gain, dtype=torch.float64).expand(self.ffn.conv_out.out_channels)  # type: ignore[union-attr,arg-type]
            fold_affine_after(self.ffn.conv_out, gain, torch.zeros_like(gain))  # type: ignore[arg-type]
            for attention in (self.channel_attn, self.spatial_attn):
                if isinstance(attention, ChannelAttention | SpatialAttention):
                    attention.expect_gain_(self.residual_gain.gain)
            self.residual_gain = self.residual_gain.fold()
        self.drop_path = nn.Identity()


class Upsampler(nn.Module):
    """Convolution and pixel shuffle per step (ESPCN, Shi et al. 2016, arXiv:1609.05158); one convolution at scale 1."""

    def __init__(self, scale: int, channels: int, out_channels: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*_upsampler_layers(scale, channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(x)
        return y


def _upsampler_layers(scale: int, channels: int, out_channels: int) -> Iterator[nn.Module]:
    if scale == 1:
        yield conv3x3(channels, out_channels)
    elif scale == 3:
        yield from pixel_shuffle_stages([channels, out_channels], 3)
    else:
        steps = scale.bit_length() - 1
        yield from pixel_shuffle_stages([*(channels >> step for step in range(steps)), out_channels], 2)


def pixel_shuffle_stages(widths: list[int], factor: int) -> Iterator[nn.Module]:
    """For every step between two widths: a convolution to factor^2 times the next width, then the shuffle."""
    for width, next_width in pairwise(widths):
        yield conv3x3(width, factor**2 * next_width)
        yield nn.PixelShuffle(factor)


def merge_children_(network: nn.Module) -> None:
    """Replace every parallel kernel and every norm with running statistics inside ``network`` by its plain form."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ReparameterisedLargeKernelConv | DeploymentNorm):
                setattr(module, name, child.fold())
