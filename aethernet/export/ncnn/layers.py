"""Putting ncnn layers one behind the other, with what can be said inside a convolution said there.

Values have no batch axis. A value from a channels-last stretch of the graph (a linear layer between two transpositions)
is kept channels first all the same and only marked, so that no layer has to move data.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.errors import ExportError
from aethernet.graphs.ncnn import Layer, NcnnModel, Parameter, Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Builder", "Value"]

_CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")
_BIAS = {"Convolution": 5, "ConvolutionDepthWise": 5, "InnerProduct": 1}
"""Layers that apply an activation themselves -> number of the parameter that says whether there is a bias."""
_ACTIVATION, _ACTIVATION_PARAMETERS = 9, 10
RELU, LEAKY_RELU, CLIP, SIGMOID, MISH = 1, 2, 3, 4, 5
"""Activations a convolution applies itself, by ncnn's numbers."""
ADD, SUBTRACT, MULTIPLY, DIVIDE, LARGER, SMALLER, POWER, REVERSED_SUBTRACT, REVERSED_DIVIDE = range(9)
"""Operations of BinaryOp, by ncnn's numbers."""


@dataclass(frozen=True, slots=True)
class Value:
    """A blob."""

    blob: str
    channels: int
    flat: bool = False
    """Whether it is a vector of channels (a mean over the whole image) and not channels x rows x columns."""
    last: bool = False
    """Whether the graph it comes from has the channels last."""
    shared: bool = False
    """Whether more than one node reads it, so that its layer may not be changed any more."""


class Builder:
    """Collects layers; blobs get names by number, so equal graphs give equal files."""

    def __init__(self, channels: int) -> None:
        self.layers = [Layer("Input", "data", [], ["data"])]
        self._made: dict[str, Layer] = {"data": self.layers[0]}
        self.input = Value("data", channels, shared=True)

    def add(
        self,
        kind: str,
        inputs: list[Value],
        parameters: dict[int, Parameter] | None = None,
        weights: list[Weights] | None = None,
        **changes: Any,
    ) -> Value:
        """One more layer; its output is like the first input but for ``changes``."""
        number = len(self.layers)
        layer = Layer(
            kind,
            f"{kind.lower()}_{number}",
            [value.blob for value in inputs],
            [f"b{number}"],
            parameters or {},
            weights or [],
        )
        self.layers.append(layer)
        self._made[layer.outputs[0]] = layer
        return replace(inputs[0], blob=layer.outputs[0], shared=False, **changes)

    def convolution(
        self,
        x: Value,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        *,
        groups: int = 1,
        strides: tuple[int, int] = (1, 1),
        dilations: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> Value:
        """A convolution; ``weight`` [O, I/groups, h, w], pairs (rows, columns), ``pads`` top, left, bottom, right."""
        outputs, _, height, width = weight.shape
        weights = [Weights(weight.astype(np.float32), tagged=True)]
        if bias is not None:
            weights.append(Weights(bias.astype(np.float32), tagged=False))
        if x.flat:  # of a mean; ncnn takes a vector for a convolution's input no longer
            product: dict[int, Parameter] = {0: outputs, 1: int(bias is not None), 2: int(weight.size)}
            return self.add("InnerProduct", [x], product, weights, channels=outputs)
        parameters: dict[int, Parameter] = {0: outputs, 1: width, 6: int(weight.size)}
        optional = {
            11: (height, width),
            2: (dilations[1], 1),
            12: (dilations[0], dilations[1]),
            3: (strides[1], 1),
            13: (strides[0], strides[1]),
            4: (pads[1], 0),
            15: (pads[3], pads[1]),
            14: (pads[0], pads[1]),
            16: (pads[2], pads[0]),
            5: (int(bias is not None), 0),
            7: (groups, 1),
        }
        parameters |= {key: value for key, (value, default) in optional.items() if value != default}
        return self.add(_CONVOLUTIONS[groups > 1], [x], parameters, weights, channels=outputs)

    def activation(self, x: Value, number: int, kind: str, *values: float) -> Value:
        """An activation, inside the convolution before it where nothing else reads that, else a layer of ``kind``."""
        layer = self._open_convolution(x)
        if layer is None:
            own: dict[int, Parameter] = {index: float(value) for index, value in enumerate(values)}
            return self.add(kind, [x], own)
        layer.parameters[_ACTIVATION] = number
        if values:
            layer.parameters[_ACTIVATION_PARAMETERS] = tuple(float(value) for value in values)
        return replace(x, shared=False)

    def affine(self, x: Value, gain: NDArray[np.float64], shift: NDArray[np.float64]) -> Value:
        """``x * gain + shift``, both one number or one per channel.

        Inside the convolution before it where nothing else reads that; else with numbers; else as a 1x1 depthwise
        convolution, which programs have that lack ``Scale`` and ``MemoryData``.
        """
        layer = self._open_convolution(x)
        per_channel = np.broadcast_to(gain, (x.channels,)), np.broadcast_to(shift, (x.channels,))
        if layer is not None:
            self._scale(layer, *per_channel)
            return replace(x, shared=False)
        if x.flat and (gain.size > 1 or shift.size > 1):
            raise ExportError("ncnn has no layer for a gain of each channel of a mean")
        if gain.size == 1 and shift.size == 1:
            for operation, number, neutral in ((MULTIPLY, gain, 1), (ADD, shift, 0)):
                if float(number.reshape(())) != neutral:
                    x = self.number(x, operation, float(number.reshape(())))
            return x
        weight = per_channel[0].reshape(-1, 1, 1, 1).astype(np.float32)
        return self.convolution(x, weight, per_channel[1].astype(np.float32), groups=x.channels)

    def number(self, x: Value, operation: int, number: float) -> Value:
        """An operation of BinaryOp with one number."""
        return self.add("BinaryOp", [x], {0: operation, 1: 1, 2: float(number)})

    def binary(self, operation: int, first: Value, second: Value) -> Value:
        """An operation of BinaryOp; the smaller value is repeated over rows and columns or channels."""
        larger, smaller = first, second
        if (smaller.channels > larger.channels) or (larger.flat and not smaller.flat):
            larger, smaller = second, first
        if first.last != second.last or smaller.channels not in (1, larger.channels):
            raise ExportError(f"ncnn cannot combine {first.channels} with {second.channels} channels")
        if larger is not first:  # ncnn's older versions repeat the second one only
            operation = {SUBTRACT: REVERSED_SUBTRACT, DIVIDE: REVERSED_DIVIDE}.get(operation, operation)
        return self.add("BinaryOp", [larger, smaller], {0: operation})

    def finish(self, output: Value) -> NcnnModel:
        """The network that ends in ``output``: nothing unused, one ``Split`` for each blob that several layers read."""
        layers = _needed(self.layers, output.blob)
        if output.blob == "data":
            raise ExportError("the network gives back its input")
        readers = Counter(blob for layer in layers for blob in layer.inputs)
        if readers[output.blob]:
            raise ExportError("expected that nothing reads the result, found a network that goes on from it")
        result: list[Layer] = []
        taken: Counter[str] = Counter()
        for layer in layers:
            for index, blob in enumerate(layer.inputs):
                if readers[blob] > 1:
                    taken[blob] += 1
                    layer.inputs[index] = f"{blob}_{taken[blob]}"
            layer.outputs = ["output" if blob == output.blob else blob for blob in layer.outputs]
            result.append(layer)
            for blob in layer.outputs:
                if readers[blob] > 1:
                    copies = [f"{blob}_{place}" for place in range(1, readers[blob] + 1)]
                    result.append(Layer("Split", f"split_{blob}", [blob], copies))
        return NcnnModel(result)

    def _open_convolution(self, x: Value) -> Layer | None:
        layer = self._made.get(x.blob)
        free = layer is not None and layer.kind in _BIAS and _ACTIVATION not in layer.parameters
        return layer if free and not x.shared else None

    @staticmethod
    def _scale(layer: Layer, gain: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
        kernel = layer.weights[0].values.astype(np.float64) * gain.reshape(-1, 1, 1, 1)
        bias = layer.weights[1].values.astype(np.float64) if len(layer.weights) > 1 else np.zeros(len(gain))
        layer.weights[0].values = kernel.astype(np.float32)
        bias = bias * gain + shift
        if len(layer.weights) > 1 or bias.any():
            layer.weights[1:] = [Weights(bias.astype(np.float32), tagged=False)]
            layer.parameters[_BIAS[layer.kind]] = 1


def _needed(layers: list[Layer], output: str) -> list[Layer]:
    wanted, kept = {output}, []
    for layer in reversed(layers):
        if layer.kind == "Input" or wanted.intersection(layer.outputs):
            kept.append(layer)
            wanted.update(layer.inputs)
    return kept[::-1]
