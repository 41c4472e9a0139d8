"""An int8 network that fine-tuning made, beside the float network it was made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import Field

from aethernet.records import Record

if TYPE_CHECKING:
    from aethernet.networks import AetherNet

__all__ = ["FinetunedInt8", "FinetuningFacts"]


class FinetuningFacts(Record):
    """How an int8 network was fine-tuned from its float network; measured on held-out crops against that."""

    steps: int = Field(ge=0, description="Optimiser steps before the network that was kept")
    pictures: int = Field(ge=1, description="Pictures it learned on")
    pictures_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest over their contents")
    psnr_before: float = Field(description="dB, after calibration alone")
    psnr_after: float = Field(description="dB, of the network that was kept")
    tint_before: float = Field(ge=0, description="Largest mean error of a channel over one crop, in 8-bit levels")
    tint_after: float = Field(ge=0, description="The same, of the network that was kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetunedInt8:
    """An int8 network that came with the float weights it was made from."""

    model: AetherNet = field(repr=False)
    """Computes in PyTorch what the int8 files compute."""
    slope: float | None
    """Generation 1: slope of the sigmoid that stands for GELU's."""
    facts: FinetuningFacts
    """How it was made."""
