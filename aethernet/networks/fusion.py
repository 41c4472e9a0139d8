"""Folding: everything linear in a trained network is multiplied out once, so that inference need not.

This module holds the algebra and the driver :func:`fuse`; it knows no particular network. A module that can fold
offers ``fold() -> nn.Module`` (its plain replacement, computed in float64) and is marked by :class:`Foldable`; a
network offers ``fold_`` and arranges what reaches across modules. Structural re-parameterisation as such: Ding et al.,
RepVGG, CVPR 2021 (arXiv:2101.03697); for parallel large and small depthwise kernels: Ding et al., RepLKNet, CVPR 2022
(arXiv:2203.06717).

What may fold is decided by equality, also at the picture's border: an affine map *after* a convolution always folds
into it; one *before* it only when the convolution pads nothing, because the padding's zeros would have to become the
map's bias.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aethernet.errors import FusionError

__all__ = [
    "Foldable",
    "FoldableNetwork",
    "add_to_bias",
    "fold_affine_after",
    "fold_gain_before",
    "fuse",
    "merge_kernels",
    "merge_parallel",
]

Network = TypeVar("Network", bound=nn.Module)


class Foldable(nn.Module):
    """A module that :func:`fuse` has to fold away."""

    @abstractmethod
    def fold(self) -> nn.Module:
        """The module that computes the same in evaluation mode with fewer operations."""


@runtime_checkable
class FoldableNetwork(Protocol):
    """A network that knows how its own parts fold into each other."""

    def merge_(self) -> None:
        """First step, in place: parallel kernels become one, running statistics an affine map."""

    def fold_(self) -> None:
        """Second step, in place, after :meth:`merge_`: affine maps and gains go into the convolutions."""


def merge_parallel(large: Tensor, small: Tensor) -> Tensor:
    """The kernel [C, 1, K, K] equal to ``large`` [C, 1, K, K] and ``small`` [C, 1, k, k] side by side, added."""
    margin = (large.shape[-1] - small.shape[-1]) // 2
    return large + F.pad(small, [margin] * 4)


@torch.no_grad()
def fold_affine_after(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Make ``conv`` compute ``conv(x) * weight + bias``; one value per output channel in any shape with C elements."""
    gain = weight.reshape(-1).to(conv.weight)
    conv.weight.mul_(gain.view(-1, 1, 1, 1))
    shift = bias.reshape(-1).to(conv.weight)
    old = conv.bias if conv.bias is not None else torch.zeros_like(shift)
    conv.bias = nn.Parameter(old * gain + shift)


@torch.no_grad()
def fold_gain_before(conv: nn.Conv2d, gain: float | Tensor) -> None:
    """Make ``conv`` compute ``conv(x * gain)``; a scalar commutes with zero padding, so any convolution will do."""
    conv.weight.mul_(gain)


@torch.no_grad()
def add_to_bias(conv: nn.Conv2d, shift: Tensor) -> None:
    """Make ``conv`` compute ``conv(x) + shift`` with ``shift`` of C elements, or one for all channels."""
    old = conv.bias if conv.bias is not None else torch.zeros(conv.out_channels).to(conv.weight)
    conv.bias = nn.Parameter(old + shift.reshape(-1).to(conv.weight))


def merge_kernels(model: Network) -> Network:
    """A copy in evaluation mode with parallel kernels merged and norms affine, the form older fuse scripts write.

    Raises:
        FusionError: The network does not know how.
    """
    return _transformed(model, fold=False)


def fuse(model: Network) -> Network:
    """A new network in evaluation mode that computes the same picture with everything linear folded.

    The input network is not touched. Folding happens in float64 and the result has the input's dtype. A network that is
    already fused comes back as an equal copy.

    Raises:
        FusionError: The network does not know how, or something foldable is left.
    """
    return _transformed(model, fold=True)


def _transformed(model: Network, *, fold: bool) -> Network:
    if not isinstance(model, FoldableNetwork):
        raise FusionError(
            f"expected a network that can fold, found {type(model).__name__}",
            hint="a foldable network has merge_() and fold_(); see aethernet.networks.fusion.FoldableNetwork",
        )
    dtype = next(model.parameters()).dtype
    result = copy.deepcopy(model).eval().double()
    with torch.no_grad():
        result.merge_()
        if fold:
            result.fold_()
    left = [name for name, module in result.named_modules() if fold and isinstance(module, Foldable)]
    if left:
        raise FusionError(f"expected nothing foldable after fusing, found {', '.join(left)}")
    return result.to(dtype).eval().requires_grad_(False)  # again: replacements are born in training mode
