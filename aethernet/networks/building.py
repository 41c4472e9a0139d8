"""From a config to a network."""

from __future__ import annotations

import torch

from aethernet.networks.config import FoldState, NetworkConfig
from aethernet.networks.fusion import fuse, merge_kernels
from aethernet.networks.generation1 import AetherNet1
from aethernet.networks.generation2 import AetherNet2, AetherNet3

__all__ = ["AetherNet", "AetherNet1", "AetherNet2", "AetherNet3", "build_network"]

AetherNet = AetherNet1 | AetherNet2
"""Any generation (3 is a 2)."""

_CLASSES: dict[int, type[AetherNet1 | AetherNet2]] = {1: AetherNet1, 2: AetherNet2, 3: AetherNet3}


def build_network(
    config: NetworkConfig, form: FoldState = FoldState.TRAINING, *, drop_path: float = 0.0, dropout: float = 0.0
) -> AetherNet:
    """A network with fresh float32 weights, [N, in, H, W] in [0, 1] -> [N, in, s*H, s*W], not clipped.

    The folded forms are made by folding, so there is no second description of their structure.

    Args:
        config: What to build.
        form: Training form, or the structure that merging or fusing leaves.
        drop_path: Largest stochastic-depth rate, rising linearly from 0 over the blocks (training form only).
        dropout: Dropout rate inside the feed-forwards (training form only).
    """
    network = _CLASSES[config.generation](config, drop_path=drop_path, dropout=dropout)
    if form is FoldState.TRAINING:
        return network
    with torch.no_grad():
        return merge_kernels(network) if form is FoldState.MERGED else fuse(network)
