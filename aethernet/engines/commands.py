"""Commands with which people build such an engine themselves, without this package.

TensorRT 10.12 and newer builds strongly typed when told so; 11 knows nothing else and has dropped every precision flag.
In both, precision is in the ONNX file. TF32 is switched off where fp32 is meant to be fp32.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from aethernet.engines.backends import DEFAULT_CAPABILITIES, TURING
from aethernet.engines.profiles import Profile
from aethernet.precision import Precision

__all__ = ["build_commands"]

_KINDS = (("min", "minimum"), ("opt", "optimum"), ("max", "maximum"))


def build_commands(onnx: str, precision: Precision, profiles: Sequence[Profile], channels: int) -> dict[str, str]:
    """Tool -> command that builds an engine from ``onnx``, to be run in the folder of that file."""
    engine = onnx.removesuffix(".onnx") + ".engine"
    trtexec = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}"]
    if precision is Precision.FP32:
        trtexec.append("--noTF32")
    newer = [one for one in DEFAULT_CAPABILITIES if one != TURING]
    convert = ["polygraphy", "convert", onnx, "--convert-to", "trt", "-o", engine]
    shapes = _polygraphy_shapes(profiles, channels)
    note = " (leaves TF32 on)" if precision is Precision.FP32 else ""
    return {
        "TensorRT 10.12 or newer": shlex.join([*trtexec, "--stronglyTyped", *_trtexec_shapes(profiles, channels)]),
        "TensorRT 11": shlex.join([*trtexec, *_trtexec_shapes(profiles, channels)]),
        "TensorRT 10.12 or 11, Polygraphy": shlex.join([*convert, "--strongly-typed", *shapes]),
        f"TensorRT-RTX, Polygraphy{note}": "POLYGRAPHY_USE_TENSORRT_RTX=1 "
        + shlex.join([*convert, *shapes, "--compute-capabilities", *newer]),
    }


def _trtexec_shapes(profiles: Sequence[Profile], channels: int) -> list[str]:
    words = []
    for index, profile in enumerate(profiles):
        words += [f"--profile={index}"] if len(profiles) > 1 else []
        for kind, field in _KINDS:
            batch, height, width = getattr(profile, field)
            words.append(f"--{kind}Shapes=input:{batch}x{channels}x{height}x{width}")
    return words


def _polygraphy_shapes(profiles: Sequence[Profile], channels: int) -> list[str]:
    words = []
    for profile in profiles:
        for kind, field in _KINDS:
            batch, height, width = getattr(profile, field)
            words += [f"--trt-{kind}-shapes", f"input:[{batch},{channels},{height},{width}]"]
    return words
