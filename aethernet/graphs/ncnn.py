"""ncnn's two files: the parameter file (text, one line a layer) and the weight file (arrays, one after the other).

Formats: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure. An array is stored either raw in fp32 or
behind four bytes that say how it is stored; which of the two, the layer decides.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from aethernet.artifact import atomic_path
from aethernet.errors import ExportError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Layer",
    "NcnnModel",
    "Parameter",
    "Weights",
    "read_param",
    "render_param",
    "write_ncnn",
]

Parameter: TypeAlias = "int | float | str | tuple[int, ...] | tuple[float, ...]"

_MAGIC = "7767517"
_HALF_TAG, _FLOAT_TAG = 0x01306B47, 0
_LARGEST_HALF = float(np.finfo(np.float16).max)
_ARRAY = -23300
"""A parameter that is an array has the key -23300 - id."""
_MOST_LAYERS = 1 << 20


@dataclass(slots=True)
class Weights:
    """One array of a layer."""

    values: NDArray[np.float32]
    tagged: bool
    """Whether the layer reads a storage tag first, and so takes fp16."""


@dataclass(slots=True)
class Layer:
    """One line of a parameter file, with its arrays."""

    kind: str
    """ncnn's name, such as ``Convolution``."""
    name: str
    inputs: list[str]
    outputs: list[str]
    parameters: dict[int, Parameter] = field(default_factory=dict)
    weights: list[Weights] = field(default_factory=list)


@dataclass(slots=True)
class NcnnModel:
    """A network as ncnn takes it; layers in the order they run."""

    layers: list[Layer]

    @property
    def kinds(self) -> dict[str, int]:
        """Count by kind of layer, sorted by name."""
        return dict(sorted(Counter(layer.kind for layer in self.layers).items()))

    @property
    def inputs(self) -> list[str]:
        """Blobs that are given."""
        return [blob for layer in self.layers if layer.kind == "Input" for blob in layer.outputs]

    @property
    def outputs(self) -> list[str]:
        """Blobs that no layer reads."""
        read = {blob for layer in self.layers for blob in layer.inputs}
        return [blob for layer in self.layers for blob in layer.outputs if blob not in read]


def write_ncnn(model: NcnnModel, param: Path, weights: Path, *, half: bool = True) -> None:
    """Write both files, each in one step; equal models give equal bytes.

    Args:
        model: What to write.
        param: Target of the parameter file.
        weights: Target of the weight file.
        half: Store kernels in fp16, as the programs load them; biases, slopes and norms stay fp32, as ncnn reads them.

    Raises:
        ExportError: A weight is too large for fp16.
    """
    parts: list[bytes] = []
    for layer in model.layers:
        for array in layer.weights:
            parts.append(_stored(array, layer.name, half))
    with atomic_path(weights) as temporary:
        temporary.write_bytes(b"".join(parts))
    with atomic_path(param) as temporary:
        temporary.write_text(render_param(model), encoding="ascii", newline="\n")


def _stored(array: Weights, name: str, half: bool) -> bytes:
    values = np.ascontiguousarray(array.values, dtype="<f4")
    if not array.tagged:
        return values.tobytes()
    if not half or values.size % 2:
        # An odd number of halves is padded to whole words, which chaiNNer's reader does not expect.
        return struct.pack("<I", _FLOAT_TAG) + values.tobytes()
    largest = float(np.abs(values).max(initial=0))
    if not largest <= _LARGEST_HALF:
        raise ExportError(f"expected weights up to {_LARGEST_HALF:.0f} for fp16, found {largest:.3g} in layer {name}")
    content = values.astype("<f2").tobytes()
    return struct.pack("<I", _HALF_TAG) + content


def render_param(model: NcnnModel) -> str:
    """The parameter file's text."""
    blobs = {blob for layer in model.layers for blob in layer.outputs}
    lines = [_MAGIC, f"{len(model.layers)} {len(blobs)}"]
    for layer in model.layers:
        counts = f"{len(layer.inputs)} {len(layer.outputs)}"
        parts = [f"{layer.kind:<24} {layer.name:<24} {counts}", *layer.inputs, *layer.outputs]
        parts += [_rendered(key, value) for key, value in sorted(layer.parameters.items())]
        lines.append(" ".join(parts))
    return "\n".join(lines) + "\n"


def _rendered(key: int, value: Parameter) -> str:
    if isinstance(value, tuple):
        return f"{_ARRAY - key}={len(value)}," + ",".join(map(_number, value))
    return f"{key}={value if isinstance(value, str) else _number(value)}"


def _number(value: float) -> str:
    # ncnn takes what has a point or an exponent for a float, and all else for an integer.
    return f"{value:e}" if isinstance(value, float) else str(value)


def read_param(path: Path | str) -> NcnnModel:
    """The layers of a parameter file, ours or another tool's, without weights.

    Raises:
        ExportError: It is not such a file, is a binary one, or is damaged.
    """
    name = Path(path).name
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"cannot read {name} as an ncnn parameter file: {error}") from error
    if not lines or lines[0].strip() != _MAGIC:
        raise ExportError(
            f"expected {name} to start with {_MAGIC}, as ncnn's parameter files do, found {lines[0][:40]!r}"
            if lines
            else f"expected an ncnn parameter file, found that {name} is empty"
        )
    body = [line.split() for line in lines[2:] if line.strip()]
    try:
        count, _ = (int(part) for part in lines[1].split())
        layers = [_read_layer(parts) for parts in body[:_MOST_LAYERS]]
    except (ValueError, IndexError) as error:
        raise ExportError(f"{name} is damaged: {error}") from error
    if count != len(layers):
        raise ExportError(f"expected {count} layers in {name}, as it says, found {len(layers)}")
    known: set[str] = set()
    for layer in layers:  # ncnn makes a blob of that name, which nothing fills
        if missing := [blob for blob in layer.inputs if blob not in known]:
            raise ExportError(
                f"{name} is damaged: layer {layer.name} reads {missing[0]}, which no layer before it gives"
            )
        known.update(layer.outputs)
    return NcnnModel(layers)


def _read_layer(parts: Sequence[str]) -> Layer:
    kind, name, reads, writes = parts[0], parts[1], int(parts[2]), int(parts[3])
    blobs, rest = parts[4 : 4 + reads + writes], parts[4 + reads + writes :]
    if len(blobs) != reads + writes:
        raise ValueError(f"layer {name} says {reads} inputs and {writes} outputs and names {len(blobs)} blobs")
    parameters = dict(_read_parameter(part) for part in rest)
    return Layer(kind, name, list(blobs[:reads]), list(blobs[reads:]), parameters)


def _read_parameter(text: str) -> tuple[int, Parameter]:
    matched = re.fullmatch(r"(-?\d+)=(.*)", text)
    if matched is None:
        raise ValueError(f"'{text[:40]}' is not a parameter")
    key, value = int(matched[1]), matched[2]
    if value.startswith('"'):  # a size computed when it runs, such as "0w,-1"
        return key, value
    if key > _ARRAY:
        return key, _parsed(value)
    numbers: Any = tuple(_parsed(part) for part in value.split(",")[1:])
    return _ARRAY - key, numbers


def _parsed(text: str) -> Any:
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
