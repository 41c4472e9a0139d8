"""Images made from a seed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["natural_image"]


def natural_image(height: int = 14, width: int = 11, *, channels: int = 3, batch: int = 1, seed: int = 0) -> Tensor:
    """[N, C, H, W] float32 in [0, 1] with what images have and noise lacks: slopes, waves, edges, a little grain."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.linspace(0, 1, height).view(1, 1, -1, 1)
    x = torch.linspace(0, 1, width).view(1, 1, 1, -1)
    channel_shift = torch.rand(batch, channels, 1, 1, generator=generator)
    slope = 0.3 * channel_shift + 0.3 * y + 0.2 * x
    waves = 0.15 * torch.sin(9 * x + 5 * y + 6 * channel_shift)
    edge = 0.25 * (x + 0.4 * y > 0.4 + 0.4 * channel_shift)
    grain = 0.03 * torch.randn(batch, channels, height, width, generator=generator)
    return (slope + waves + edge + grain).clamp(0, 1)
