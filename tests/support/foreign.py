"""Tiny networks of other libraries with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aethernet.networks.descriptor import Descriptor
from aethernet.networks.third_party import ForeignNetwork

__all__ = ["around", "compact", "span", "spandrel"]

spandrel: Any = pytest.importorskip(
    "spandrel", reason="needs spandrel with torchvision: pip install 'aethernet-sr[spandrel]'", exc_type=ImportError
)


def around(network: nn.Module, *, scale: int = 1, **facts: Any) -> ForeignNetwork:
    """Any module as a network of RGB pictures."""
    config = Descriptor(architecture="Test", library="spandrel", scale=scale, in_channels=3, out_channels=3, **facts)
    return ForeignNetwork(network, config, lambda module, x: module(x)).eval().requires_grad_(False)


def compact(path: Path, *, steep: bool = True) -> Path:
    """A checkpoint of Real-ESRGAN's Compact network, 2x, with slopes of activations on both sides of one."""
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    network = Compact(num_feat=8, num_conv=3, upscale=2)
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            module.weight.data.uniform_(-0.5, 1.5 if steep else 0.9)
    torch.save({"params": network.state_dict()}, path)
    return path


def span(path: Path) -> Path:
    """A checkpoint of SPAN, 2x, as it is trained: three branches wherever there will be one convolution."""
    from spandrel.architectures.SPAN import SPAN

    torch.manual_seed(0)
    torch.save({"params": SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2).state_dict()}, path)
    return path
