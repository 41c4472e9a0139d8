"""Any network: an AetherNet, or one that another library built."""

from __future__ import annotations

from typing import TypeAlias

from aethernet.errors import UsageError
from aethernet.networks.blocks import ReparameterisedLargeKernelConv
from aethernet.networks.building import AetherNet
from aethernet.networks.config import FoldState
from aethernet.networks.fusion import Foldable
from aethernet.networks.third_party import ForeignNetwork

__all__ = ["Network", "as_aethernet", "form_of"]

Network: TypeAlias = AetherNet | ForeignNetwork


def as_aethernet(network: Network) -> AetherNet:
    """The network, where it is an AetherNet.

    Raises:
        UsageError: It is another.
    """
    if isinstance(network, ForeignNetwork):
        raise UsageError(f"expected an AetherNet for this, found {network.config.architecture}")
    return network


def form_of(network: Network) -> FoldState:
    """How far a network has been folded, from its modules."""
    if isinstance(network, ForeignNetwork):
        return network.form
    modules = list(network.modules())
    if any(isinstance(module, ReparameterisedLargeKernelConv) for module in modules):
        return FoldState.TRAINING
    return FoldState.MERGED if any(isinstance(module, Foldable) for module in modules) else FoldState.FUSED
