"""Generation 1 (June 2025): transformer-like blocks with layer norms and linear layers over channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aethernet.networks.blocks import (
    ReparameterisedLargeKernelConv,
    StochasticDepth,
    conv3x3,
    merge_children_,
    pixel_shuffle_stages,
)
from aethernet.networks.config import NetworkConfig
from aethernet.networks.fusion import add_to_bias, fold_affine_after, fold_gain_before
from aethernet.networks.ranges import CentreThenScale, RestoreRange, Unchanged

__all__ = ["AetherNet1"]

_BLOCK_NORM_EPS = 1e-6
_BODY_NORM_EPS = 1e-5


class GatedLinear(nn.Module):
    """fc2(GELU(fc1_gate(x)) * fc1_main(x)) on the last axis, exact (erf) GELU."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1_gate = nn.Linear(channels, hidden)
        self.fc1_main = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.dropout(F.gelu(self.fc1_gate(x)) * self.fc1_main(x)))
        return y


class Block1(nn.Module):
    """r + ffn(norm(conv(r))); norm and feed-forward see channels last."""

    def __init__(self, config: NetworkConfig, drop_path: float, dropout: float) -> None:
        super().__init__()
        self.conv = ReparameterisedLargeKernelConv(
            config.embed_dim, config.large_kernel, config.small_kernel or min(3, config.large_kernel)
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=_BLOCK_NORM_EPS)
        self.ffn = GatedLinear(config.embed_dim, config.hidden_channels, dropout)
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv(x).permute(0, 2, 3, 1)  # N, H, W, C
        branch = self.ffn(self.norm(branch)).permute(0, 3, 1, 2)
        y: Tensor = x + self.drop_path(branch)
        return y


class AetherNet1(nn.Module):
    """[N, in, H, W] in [0, image_range] -> [N, in, s*H, s*W], same range, not clipped."""

    mean: Tensor

    def __init__(self, config: NetworkConfig, *, drop_path: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        # Not in the checkpoints of this generation, hence not persistent.
        self.register_buffer("mean", torch.tensor(0.5 if config.in_channels == 3 else 0.0), persistent=False)
        self.enter_range: nn.Module = CentreThenScale(config.image_range)
        self.leave_range: nn.Module = RestoreRange(1 / config.image_range, shift_first=False)
        rates = iter(torch.linspace(0, drop_path, sum(config.depths), device="cpu").tolist())
        self.conv_first = conv3x3(config.in_channels, config.embed_dim)
        self.layers = nn.ModuleList(
            nn.Sequential(*(Block1(config, next(rates), dropout) for _ in range(depth))) for depth in config.depths
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=_BODY_NORM_EPS)
        self.conv_after_body = conv3x3(config.embed_dim, config.embed_dim)
        width = config.upsampled_channels
        self.conv_before_upsample = nn.Sequential(conv3x3(config.embed_dim, width), nn.LeakyReLU(0.01))
        factor = 3 if config.scale == 3 else 2
        steps = 1 if config.scale == 3 else config.scale.bit_length() - 1
        self.upsample = nn.Sequential(*pixel_shuffle_stages([width] * (steps + 1), factor))
        self.conv_last = conv3x3(width, config.in_channels)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_first(self.enter_range(x, self.mean))
        body = first
        for layer in self.layers:
            body = layer(body)
        body = self.norm(body.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        body = self.conv_after_body(body) + first
        y: Tensor = self.leave_range(self.conv_last(self.upsample(self.conv_before_upsample(body))), self.mean)
        return y

    def merge_(self) -> None:
        merge_children_(self)

    def fold_(self) -> None:
        for layer in self.layers:
            for block in layer.children():
                block.drop_path = nn.Identity()
        if isinstance(self.leave_range, RestoreRange):
            fold_gain_before(self.conv_first, self.config.image_range)
            self.enter_range = CentreThenScale(1.0)
            gain = torch.full((self.config.in_channels,), 1 / self.config.image_range, dtype=torch.float64)
            fold_affine_after(self.conv_last, gain, torch.zeros_like(gain))
            add_to_bias(self.conv_last, self.mean)
            self.leave_range = Unchanged()
        # From here on part of the saved weights: it marks a file of this generation as fused.
        mean = self.mean.expand(1, self.config.in_channels, 1, 1).clone()
        del self.mean
        self.register_buffer("mean", mean)
