"""Folding training-time branches of any architecture, by the conventions networks follow, proven by what comes out.

Two conventions are known. A module with ``update_params`` and ``eval_conv`` (SPAN's Conv3XC, spandrel's spelling)
multiplies its branches out into ``eval_conv``, on every forward pass. A module with ``switch_to_deploy`` (Ding et al.,
RepVGG, CVPR 2021, arXiv:2101.03697, and its descendants) replaces its branches in place. What either leaves is held
against the network before, so that a module which only looks the part is found out.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from aethernet.errors import FusionError

__all__ = ["foldable_modules", "reparameterise_"]

_TOLERANCE = 1e-9
"""Largest difference of the network's output in float64, as a share of its range."""


def foldable_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Name -> module that can be folded, outermost only."""
    found: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if name and not inside and (_has_eval_conv(module) or _has_deploy(module)):
            found[name] = module
    return found


@torch.no_grad()
def reparameterise_(network: nn.Module, example: Tensor) -> None:
    """Fold every foldable module, in place.

    Args:
        network: In evaluation mode, float64.
        example: A picture to prove it on.

    Raises:
        FusionError: The folded network computes something else.
    """
    modules = foldable_modules(network)
    if not modules:
        return
    wanted = copy.deepcopy(network)(example)
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if _has_eval_conv(module):
            setattr(network.get_submodule(parent), child, _folded(module))
        else:
            module.switch_to_deploy()  # type: ignore[operator]
    left = foldable_modules(network)
    if left:
        raise FusionError(f"expected nothing foldable after fusing, found {', '.join(left)}")
    found = network(example)
    allowed = _TOLERANCE * max(1.0, float(wanted.max() - wanted.min()))
    largest = float((found - wanted).abs().max())
    if not largest <= allowed:
        raise FusionError(
            f"folding changed the network: largest difference {largest:.2e}, allowed {allowed:.2e}",
            hint="the network goes without: release it as it is by a checkpoint its trainer folded",
        )


class _ThenLeaky(nn.Module):
    """A convolution whose result goes through a leaky ReLU, under the convolution's own name."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.eval_conv = conv
        self.activation = nn.LeakyReLU(0.05)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.eval_conv(x))
        return y


class _Folded(nn.Module):
    """A convolution under the name it had among its branches."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.eval_conv = conv

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.eval_conv(x)
        return y


def _folded(module: nn.Module) -> nn.Module:
    module.update_params()  # type: ignore[operator]
    conv: nn.Module = module.eval_conv  # type: ignore[assignment]
    return _ThenLeaky(conv) if getattr(module, "has_relu", False) else _Folded(conv)


def _has_eval_conv(module: nn.Module) -> bool:
    return callable(getattr(module, "update_params", None)) and isinstance(
        getattr(module, "eval_conv", None), nn.Conv2d
    )


def _has_deploy(module: nn.Module) -> bool:
    deployed = getattr(module, "deploy", False) or hasattr(module, "rbr_reparam") or hasattr(module, "reparam_conv")
    return callable(getattr(module, "switch_to_deploy", None)) and not deployed
