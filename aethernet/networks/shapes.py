"""What a network's tensors are called and how they are shaped, as data; needs no PyTorch.

Written out a second time, beside the modules that hold the tensors; ``tests/aethernet/networks/test_shapes.py`` holds
the two against each other for every kind of network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from aethernet.networks.config import FoldState, NetworkConfig, Norm

__all__ = ["Entry", "state_entries"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a state dict."""

    shape: tuple[int, ...]
    learned: bool = True
    """A parameter, not a buffer."""
    floating: bool = True
    """Holds floating-point numbers, not integers."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def state_entries(config: NetworkConfig, form: FoldState) -> dict[str, Entry]:
    """Name -> tensor of ``build_network(config, form).state_dict()``, in another order."""
    shapes = dict(_generation1(config, form) if config.generation == 1 else _generation2(config, form))
    entries = {name: Entry(shape, not name.endswith(("running_mean", "running_var"))) for name, shape in shapes.items()}
    if config.generation != 1 or form is FoldState.FUSED:
        entries["mean"] = Entry((1, config.in_channels, 1, 1), learned=False)
    if config.generation != 1:
        name = "scale" if config.generation == 2 else "scale_tensor"
        entries[name] = Entry((), learned=False, floating=False)
    return entries


_Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _conv(name: str, outputs: int, inputs: int, kernel: int, *, bias: bool = True) -> _Shapes:
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    if bias:
        yield f"{name}.bias", (outputs,)


def _linear(name: str, outputs: int, inputs: int) -> _Shapes:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _large_kernel(name: str, config: NetworkConfig, form: FoldState) -> _Shapes:
    channels, kernel = config.embed_dim, config.large_kernel
    if form is not FoldState.TRAINING:
        yield from _conv(f"{name}.fused_conv", channels, 1, kernel)
        return
    yield from _conv(f"{name}.lk_conv", channels, 1, kernel, bias=False)
    yield from _conv(f"{name}.sk_conv", channels, 1, config.small_kernel or min(3, kernel), bias=False)
    yield f"{name}.lk_bias", (channels,)
    yield f"{name}.sk_bias", (channels,)


def _layer_norm(name: str, channels: int) -> _Shapes:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def _norm(name: str, config: NetworkConfig, form: FoldState, *, folds: bool = True) -> _Shapes:
    if config.norm is Norm.LAYER:
        yield from _layer_norm(name, config.embed_dim)
    elif form is not FoldState.FUSED or not folds:
        statistics = ("running_mean", "running_var") if form is FoldState.TRAINING else ()
        for part in ("weight", "bias", *statistics):
            yield f"{name}.{part}", (1, config.embed_dim, 1, 1)


def _shuffles(name: str, widths: list[int], factor: int) -> _Shapes:
    for step, (width, following) in enumerate(pairwise(widths)):
        yield from _conv(f"{name}.{2 * step}", factor**2 * following, width, 3)  # between them stand the shuffles


def _generation1(config: NetworkConfig, form: FoldState) -> _Shapes:
    channels, hidden, width = config.embed_dim, config.hidden_channels, config.upsampled_channels
    yield from _conv("conv_first", channels, config.in_channels, 3)
    for layer, depth in enumerate(config.depths):
        for block in (f"layers.{layer}.{index}" for index in range(depth)):
            yield from _large_kernel(f"{block}.conv", config, form)
            yield from _layer_norm(f"{block}.norm", channels)
            yield from _linear(f"{block}.ffn.fc1_gate", hidden, channels)
            yield from _linear(f"{block}.ffn.fc1_main", hidden, channels)
            yield from _linear(f"{block}.ffn.fc2", channels, hidden)
    yield from _layer_norm("norm", channels)
    yield from _conv("conv_after_body", channels, channels, 3)
    yield from _conv("conv_before_upsample.0", width, channels, 3)
    factor, steps = (3, 1) if config.scale == 3 else (2, config.scale.bit_length() - 1)
    yield from _shuffles("upsample", [width] * (steps + 1), factor)
    yield from _conv("conv_last", config.in_channels, width, 3)


def _generation2(config: NetworkConfig, form: FoldState) -> _Shapes:
    channels, hidden, width = config.embed_dim, config.hidden_channels, config.upsampled_channels
    yield from _conv("conv_first", channels, config.in_channels, 3)
    for stage, depth in enumerate(config.depths):
        for block in (f"stages.{stage}.{index}" for index in range(depth)):
            yield from _large_kernel(f"{block}.conv", config, form)
            yield from _norm(f"{block}.norm", config, form)
            yield from _conv(f"{block}.ffn.conv_gate", hidden, channels, 1)
            yield from _conv(f"{block}.ffn.conv_main", hidden, channels, 1)
            yield from _conv(f"{block}.ffn.conv_out", channels, hidden, 1)
            if form is not FoldState.FUSED:
                yield f"{block}.ffn.temperature", (1,)
            if config.channel_attention:
                yield from _conv(f"{block}.channel_attn.fc.0", channels // 8, channels, 1, bias=False)
                yield from _conv(f"{block}.channel_attn.fc.2", channels, channels // 8, 1, bias=False)
            if config.spatial_attention:
                yield from _conv(f"{block}.spatial_attn.conv", 1, 2, 7, bias=False)
    for stage, share in enumerate(config.fusion_shares):
        yield from _conv(f"fusion_convs.{stage}", share, channels, 1)
    yield from _conv("quant_fusion_layer.fusion_conv", channels, channels, 1)
    if form is not FoldState.FUSED:
        yield "quant_fusion_layer.error_comp", (1, channels, 1, 1)
    yield from _norm("norm", config, form, folds=config.generation == 3)
    yield from _conv("conv_after_body", channels, channels, 3)
    yield from _conv("conv_before_upsample.0", channels, channels, 3)
    if config.scale == 1:
        yield from _conv("upsample.blocks.0", width, channels, 3)
    elif config.scale == 3:
        yield from _shuffles("upsample.blocks", [channels, width], 3)
    else:
        steps = config.scale.bit_length() - 1
        yield from _shuffles("upsample.blocks", [*(channels >> step for step in range(steps)), width], 2)
    yield from _conv("conv_last", config.in_channels, width, 3)
