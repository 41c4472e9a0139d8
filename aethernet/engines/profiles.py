"""Optimisation profiles: which input shapes an engine takes, as data, checked before a build starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aethernet.errors import EngineError, UsageError

if TYPE_CHECKING:
    from aethernet.graphs.contract import OnnxDescription

__all__ = ["PROFILE_PRESETS", "Profile", "check_profiles", "parse_profile"]

Shape = tuple[int, int, int]
"""N, H, W in pixels of the input."""

_LARGEST_SIDE = 65536


class Profile(BaseModel):
    """Smallest, best and largest input of an engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="A preset's name, or the three shapes")
    minimum: Shape
    optimum: Shape
    maximum: Shape

    @model_validator(mode="after")
    def _check(self) -> Self:
        for low, best, high in zip(self.minimum, self.optimum, self.maximum, strict=True):
            if not 1 <= low <= best <= high <= _LARGEST_SIDE:
                raise ValueError(
                    f"1 <= min <= opt <= max <= {_LARGEST_SIDE} in every axis (N, H, W), "
                    f"not {self.minimum}, {self.optimum}, {self.maximum}"
                )
        return self

    @property
    def fixed(self) -> bool:
        """Whether it takes one shape only."""
        return self.minimum == self.optimum == self.maximum

    def holds(self, shape: Sequence[int]) -> bool:
        """Whether it takes an (N, H, W)."""
        return all(low <= side <= high for low, side, high in zip(self.minimum, shape, self.maximum, strict=True))


def _preset(name: str, minimum: Shape, optimum: Shape, maximum: Shape) -> Profile:
    return Profile(name=name, minimum=minimum, optimum=optimum, maximum=maximum)


def _fixed(name: str, height: int, width: int) -> Profile:
    return _preset(name, (1, height, width), (1, height, width), (1, height, width))


PROFILE_PRESETS: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        _preset("image", (1, 32, 32), (1, 256, 256), (16, 1080, 1920)),
        _preset("tile", (1, 16, 16), (1, 512, 512), (1, 640, 640)),
        _fixed("video_720p", 720, 1280),
        _fixed("video_1080p", 1080, 1920),
    )
}
"""image: pictures of any usual size, in batches; tile: parts of large pictures; video: one frame at a time."""


def parse_profile(text: str) -> Profile:
    """A preset's name, one shape ``NxHxW``, or three: ``MIN:OPT:MAX``.

    Raises:
        UsageError: Neither.
    """
    if text in PROFILE_PRESETS:
        return PROFILE_PRESETS[text]
    shapes = [tuple(int(side) for side in shape.split("x")) for shape in text.split(":") if _is_shape(shape)]
    if text.count(":") + 1 != len(shapes) or len(shapes) not in (1, 3):
        raise UsageError(
            f"expected a profile ({', '.join(PROFILE_PRESETS)}), one shape such as 1x720x1280, "
            f"or min:opt:max such as 1x32x32:1x256x256:4x1080x1920, found '{text}'"
        )
    minimum, optimum, maximum = shapes if len(shapes) == 3 else shapes * 3
    try:
        return _preset(text, minimum, optimum, maximum)  # type: ignore[arg-type]  # _is_shape counted three
    except ValueError as error:
        raise UsageError(
            f"expected min <= opt <= max in every axis, each side at most {_LARGEST_SIDE}, found '{text}'"
        ) from error


def _is_shape(text: str) -> bool:
    return re.fullmatch(r"\d{1,6}x\d{1,6}x\d{1,6}", text) is not None


def check_profiles(described: OnnxDescription, profiles: Sequence[Profile]) -> None:
    """Hold profiles against what an ONNX file takes, by :func:`aethernet.export.describe_onnx`.

    Raises:
        EngineError: The file is not one of ours by its contract, or it takes one shape only and a profile asks for
            others.
    """
    if not profiles:
        raise UsageError(f"expected at least one profile ({', '.join(PROFILE_PRESETS)})")
    if len({profile.name for profile in profiles}) != len(profiles):
        raise UsageError("expected every profile once")
    shape = described.inputs.get("input", ("", ()))[1]
    channels = shape[1] if len(shape) == 4 else None
    if list(described.inputs) != ["input"] or list(described.outputs) != ["output"] or channels not in (1, 3):
        raise EngineError(
            "expected an ONNX file with one input 'input' [N, 1 or 3, H, W] and one output 'output', "
            f"found {described.inputs} and {described.outputs}",
            hint="export it with: aethernet export CHECKPOINT OUT.onnx",
        )
    fixed = {axis: size for axis, size in zip("NHW", (shape[0], *shape[2:]), strict=True) if isinstance(size, int)}
    for profile in profiles:
        for axis, low, high in zip("NHW", profile.minimum, profile.maximum, strict=True):
            if axis in fixed and not low == high == fixed[axis]:
                raise EngineError(
                    f"expected a profile of the one size that the ONNX file takes ({axis} = {fixed[axis]}), "
                    f"found {profile.name} with {axis} from {low} to {high}",
                    hint="export the file with free axes (without --static), or give its shape with --profile NxHxW",
                )
