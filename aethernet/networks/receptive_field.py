"""How far a network looks, and what its largest layer holds: measured, because no state dict says it.

A value that is no number spreads to everything that depends on it. It is put at one end of a long strip; where it stops
is the reach. Layers may swallow it, and networks that work in windows or strides look differently far from place to
place, so the finding is proven: a strip cut elsewhere must give the same picture inside.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from aethernet.networks.descriptor import Descriptor

if TYPE_CHECKING:
    from aethernet.networks.third_party import ForeignNetwork

__all__ = ["floats_per_pixel", "measured", "receptive_radius"]

_STRIP = (16, 768)
_MARGIN, _SHIFTS = 24, (1, 3)
_TOLERANCE = 1e-4


def measured(network: ForeignNetwork) -> Descriptor:
    """The network's description with what running it tells."""
    return dataclasses.replace(
        network.config,
        receptive_radius=receptive_radius(network),
        floats_per_pixel=floats_per_pixel(network),
    )


@torch.inference_mode()
def receptive_radius(network: ForeignNetwork) -> int | None:
    """Input pixels that an output pixel looks at in every direction; None where that is the whole picture, or differs
    from place to place.
    """
    reaches = []
    for turned in (False, True):
        try:
            reach = _reach(network, turned)
            if reach is None or not _holds(network, reach, turned):
                return None
        except Exception:  # noqa: BLE001 (indices computed from what is no number, sizes it does not take: unknown)
            return None
        reaches.append(reach)
    return max(reaches)


def _strip(network: ForeignNetwork, length: int, turned: bool) -> Tensor:
    height, width = network.config.size.fit(*(_STRIP[0], length)[:: -1 if turned else 1])
    return torch.rand(1, network.config.in_channels, height, width, generator=torch.Generator().manual_seed(0))


def _reach(network: ForeignNetwork, turned: bool) -> int | None:
    picture = _strip(network, _STRIP[1], turned)
    along = 2 if turned else 3
    picture.select(along, 0).fill_(float("nan"))
    lost = network(picture).isnan().any(dim=1).any(dim=5 - along - 1)[0]
    if not lost.any() or lost[-1]:
        return None
    return int(lost.nonzero().max()) // network.config.scale


def _holds(network: ForeignNetwork, reach: int, turned: bool) -> bool:
    """Whether strips cut at other places give the same, as far inside as the reach says."""
    along, scale = 2 if turned else 3, network.config.scale
    picture = _strip(network, 2 * reach + _MARGIN, turned)
    whole = network(picture)
    length = picture.shape[along]
    for shift in _SHIFTS:
        first, last = shift + reach, length - reach
        if last <= first:
            return False
        cut = network(picture.narrow(along, shift, length - shift).contiguous())
        wanted = whole.narrow(along, first * scale, (last - first) * scale)
        found = cut.narrow(along, reach * scale, (last - first) * scale)
        if not float((found - wanted).abs().max()) <= _TOLERANCE * max(1e-3, float(whole.max() - whole.min())):
            return False
    return True


@torch.inference_mode()
def floats_per_pixel(network: ForeignNetwork) -> int:
    """Numbers per input pixel that go into and come out of the layer which holds most."""
    most = 0

    def count(_module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal most
        held = [one for one in (*inputs, output) if isinstance(one, Tensor)]
        most = max(most, sum(one.numel() for one in held))

    leaves = [module for module in network.network.modules() if not any(True for _ in module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    example = network.example()
    try:
        network(example)
    finally:
        for handle in handles:
            handle.remove()
    return -(-most // (example.shape[2] * example.shape[3]))
