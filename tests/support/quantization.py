"""Small networks in every stage of becoming int8, made once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aethernet.networks import AetherNet
from aethernet.networks.fusion import fuse
from aethernet.quantization.structure import gated_units
from tests.support.networks import tiny_network
from tests.support.pictures import natural_picture

GENERATIONS = (1, 2, 3)
BOTH = {"channel_attention": True, "spatial_attention": True}


def fused_network(generation: int, **changes: Any) -> AetherNet:
    """Tiny, random, fused; with attention in generation 3, so that both kinds of block occur."""
    return fuse(tiny_network(generation, **(BOTH if generation == 3 else {}) | changes))


def calibration_pictures(number: int = 3, side: int = 20) -> list[np.ndarray]:
    return [natural_picture(side, side, seed=seed).numpy() for seed in range(number)]


def slopes_of(fused: nn.Module, slope: float) -> dict[str, float]:
    return dict.fromkeys(gated_units(fused), slope)  # type: ignore[arg-type]


def with_sigmoid_for_gelu(slope: float) -> Any:
    """While it lasts, GELU is x * sigmoid(slope * x)."""
    return mock.patch.object(F, "gelu", lambda x: x * torch.sigmoid(slope * x))


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def decibels(answer: Tensor, wanted: Tensor) -> float:
    """PSNR with the range of the wanted picture as its peak: random networks do not keep to [0, 1]."""
    peak = float(wanted.max() - wanted.min())
    error = float((answer - wanted).double().square().mean())
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A fused network and pictures to calibrate it on."""

    generation: int
    fused: AetherNet
    pictures: list[np.ndarray]


@pytest.fixture(
    scope="module",
    params=[pytest.param(one, marks=() if one == 2 else pytest.mark.slow, id=f"gen{one}") for one in GENERATIONS],
)
def prepared(request: pytest.FixtureRequest) -> Prepared:
    return Prepared(request.param, fused_network(request.param), calibration_pictures())
