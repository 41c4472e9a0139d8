"""Generations 2 and 3 (July 2025 and later): convolutional blocks, every stage contributes to a fused feature map.

Generation 3 differs in the order of a few affine steps, in defaults, and in a residual scale; each difference is one
overridden method or module here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aethernet.networks.blocks import (
    AffineMap,
    Block,
    ChannelAttention,
    ReparameterisedLargeKernelConv,
    SpatialAttention,
    TemperedGatedFeedForward,
    Upsampler,
    conv3x3,
    make_norm,
    merge_children_,
)
from aethernet.networks.config import NetworkConfig
from aethernet.networks.fusion import Foldable, add_to_bias, fold_affine_after, fold_gain_before
from aethernet.networks.ranges import CentreThenScale, RestoreRange, ScaleThenCentre, Unchanged

__all__ = ["AetherNet2", "AetherNet3"]


class StageFusion(nn.Module):
    """1x1 convolution over the concatenated shares of all stages, [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fusion_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fusion_conv(x)
        return y


class CompensatedInputFusion(StageFusion, Foldable):
    """Generation 2: a learned constant is added before the convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.error_comp = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.error_comp)

    def fold(self) -> StageFusion:
        plain = StageFusion(self.fusion_conv.in_channels).to(self.error_comp)
        plain.fusion_conv = self.fusion_conv
        add_to_bias(plain.fusion_conv, self.fusion_conv.weight[:, :, 0, 0] @ self.error_comp.reshape(-1))
        return plain


class CompensatedOutputFusion(StageFusion, Foldable):
    """Generation 3: a learned constant is added after the convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.error_comp = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.error_comp

    def fold(self) -> StageFusion:
        plain = StageFusion(self.fusion_conv.in_channels).to(self.error_comp)
        plain.fusion_conv = self.fusion_conv
        add_to_bias(plain.fusion_conv, self.error_comp)
        return plain


class AetherNet2(nn.Module):
    """[N, in, H, W] in [0, image_range] -> [N, in, s*H, s*W], same range, not clipped."""

    mean: Tensor

    def __init__(self, config: NetworkConfig, *, drop_path: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.full((1, config.in_channels, 1, 1), 0.5))
        self.enter_range, self.leave_range = self._ranges()
        channels = config.embed_dim
        rates = iter(torch.linspace(0, drop_path, sum(config.depths), device="cpu").tolist())
        self.conv_first = conv3x3(config.in_channels, channels)
        self.stages = nn.ModuleList(
            nn.Sequential(*(_block(config, next(rates), dropout) for _ in range(depth))) for depth in config.depths
        )
        self.fusion_convs = nn.ModuleList(nn.Conv2d(channels, share, 1) for share in config.fusion_shares)
        self.quant_fusion_layer = self._stage_fusion()
        self.norm: nn.Module = make_norm(config.norm, channels, config.norm_eps)
        self.conv_after_body = conv3x3(channels, channels)
        self.conv_before_upsample = nn.Sequential(conv3x3(channels, channels), nn.LeakyReLU(0.01))
        self.upsample = Upsampler(config.scale, channels, config.upsampled_channels)
        self.conv_last = conv3x3(config.upsampled_channels, config.in_channels)
        # The published files name the scale in a buffer, and the generations are told apart by the buffer's name.
        self.register_buffer("scale", torch.tensor(config.scale))

    def _ranges(self) -> tuple[nn.Module, nn.Module]:
        image_range = self.config.image_range
        return CentreThenScale(image_range), RestoreRange(1 / image_range, shift_first=False)

    def _stage_fusion(self) -> StageFusion:
        return CompensatedInputFusion(self.config.embed_dim)

    def _body(self, fused: Tensor, first: Tensor) -> Tensor:
        body = fused + first
        y: Tensor = self.conv_after_body(self.norm(body)) + body
        return y

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_first(self.enter_range(x, self.mean))
        out, shares = first, []
        for stage, fusion_conv in zip(self.stages, self.fusion_convs, strict=True):
            out = stage(out)
            shares.append(fusion_conv(out))
        body = self._body(self.quant_fusion_layer(torch.cat(shares, dim=1)), first)
        y: Tensor = self.leave_range(self.conv_last(self.upsample(self.conv_before_upsample(body))), self.mean)
        return y

    def merge_(self) -> None:
        merge_children_(self)

    def fold_(self) -> None:
        for block in [module for module in self.stages.modules() if isinstance(module, Block)]:
            block.fold_()
        if isinstance(self.quant_fusion_layer, CompensatedInputFusion | CompensatedOutputFusion):
            self.quant_fusion_layer = self.quant_fusion_layer.fold()
        self._fold_body_norm()
        if isinstance(self.leave_range, RestoreRange):
            self._fold_ranges()
            self.enter_range, self.leave_range = CentreThenScale(1.0), Unchanged()

    def _fold_body_norm(self) -> None:
        """Generation 2's body norm stays an affine map: what follows pads with zeros, what precedes is a skip too."""

    def _fold_ranges(self) -> None:
        image_range, channels = self.config.image_range, self.config.in_channels
        fold_gain_before(self.conv_first, image_range)
        gain = torch.full((channels,), 1 / image_range, dtype=torch.float64)
        fold_affine_after(self.conv_last, gain, self.mean.expand(1, channels, 1, 1))


class AetherNet3(AetherNet2):
    """Generation 3; shapes and ranges as generation 2."""

    def __init__(self, config: NetworkConfig, *, drop_path: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__(config, drop_path=drop_path, dropout=dropout)
        del self.scale
        self.register_buffer("scale_tensor", torch.tensor(config.scale))

    def _ranges(self) -> tuple[nn.Module, nn.Module]:
        image_range = self.config.image_range
        return ScaleThenCentre(1 / image_range), RestoreRange(image_range, shift_first=True)

    def _stage_fusion(self) -> StageFusion:
        return CompensatedOutputFusion(self.config.embed_dim)

    def _body(self, fused: Tensor, first: Tensor) -> Tensor:
        body = self.norm(fused) + first
        y: Tensor = self.conv_after_body(body) + body
        return y

    def _fold_body_norm(self) -> None:
        if isinstance(self.norm, AffineMap):
            fold_affine_after(self.quant_fusion_layer.fusion_conv, self.norm.weight, self.norm.bias)
            self.norm = nn.Identity()

    def _fold_ranges(self) -> None:
        # conv_first(x / r - mean) = (conv_first / r)(x - r * mean); (y + mean) * r = y * r + mean * r
        image_range, channels = self.config.image_range, self.config.in_channels
        fold_gain_before(self.conv_first, 1 / image_range)
        gain = torch.full((channels,), image_range, dtype=torch.float64)
        fold_affine_after(self.conv_last, gain, self.mean.expand(1, channels, 1, 1) * image_range)
        self.mean.mul_(image_range)


def _block(config: NetworkConfig, drop_path: float, dropout: float) -> Block:
    channels = config.embed_dim
    small_kernel = config.small_kernel or min(3, config.large_kernel)
    return Block(
        conv=ReparameterisedLargeKernelConv(channels, config.large_kernel, small_kernel),
        norm=make_norm(config.norm, channels, config.norm_eps),
        ffn=TemperedGatedFeedForward(channels, config.hidden_channels, dropout),
        channel_attn=ChannelAttention(channels) if config.channel_attention else nn.Identity(),
        spatial_attn=SpatialAttention() if config.spatial_attention else nn.Identity(),
        residual_scale=config.residual_scale,
        drop_path=drop_path,
    )
