"""From an ONNX graph of a super-resolution network to ncnn layers, written by ourselves.

pnnx converts a trace of the PyTorch module; this converts the graph that the other files come from, and chooses each
layer by what programs have (:mod:`aethernet.export.ncnn.programs`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.errors import ExportError
from aethernet.export.ncnn import layers as by_number
from aethernet.export.ncnn.layers import Builder, Value
from aethernet.export.ncnn.patterns import Graph, Node, combined
from aethernet.graphs.ncnn import NcnnModel, Parameter, Weights

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

__all__ = ["convert"]

_OPERATIONS = {
    "Add": by_number.ADD,
    "Sub": by_number.SUBTRACT,
    "Mul": by_number.MULTIPLY,
    "Div": by_number.DIVIDE,
    "Max": by_number.LARGER,
    "Min": by_number.SMALLER,
}
_ALL = np.iinfo(np.int32).max
"""To the end: what ncnn's Crop takes, and less than what exporters write."""


def convert(proto: onnx.ModelProto) -> NcnnModel:
    """The network of an ONNX model with free shapes as ncnn layers, blobs ``data`` and ``output``.

    Args:
        proto: fp32, one input [N, C, H, W] and one output like it; not changed.

    Raises:
        ExportError: It holds something that has no counterpart here; the message names the node.
    """
    graph = Graph(proto)
    combined(graph)
    return _Conversion(graph).run()


class _Conversion:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.readers = graph.readers
        self.builder = Builder(graph.channels)
        self.values: dict[str, Value] = {graph.input: self.builder.input}

    def run(self) -> NcnnModel:
        for node in self.graph.nodes:
            handler = _HANDLERS.get(node.op)
            if handler is None:
                raise ExportError(f"ncnn: no layer is known for the ONNX operator {node.op} ({node.outputs[0]})")
            try:
                made = handler(self, node)
            except ExportError as error:
                raise ExportError(f"ncnn: {node.op} ({node.outputs[0]}): {error}") from error
            name = node.outputs[0]
            self.values[name] = replace(made, shared=made.shared or self.readers[name] > 1)
        return self.builder.finish(self.values[self.graph.output])

    def value(self, node: Node, place: int = 0) -> Value:
        name = node.inputs[place]
        if name not in self.values:
            raise ExportError(f"expected a tensor that depends on the image, found {name}")
        return self.values[name]

    def constant(self, node: Node, place: int) -> NDArray[Any]:
        name = node.inputs[place] if place < len(node.inputs) else ""
        if name not in self.graph.constants:
            raise ExportError(f"expected a constant as input {place}")
        return self.graph.constants[name]

    def optional(self, node: Node, place: int) -> NDArray[Any] | None:
        return self.constant(node, place) if place < len(node.inputs) and node.inputs[place] else None

    # --- convolutions and products -----------------------------------------------------------------------------------

    def convolution(self, node: Node) -> Value:
        x, weight, bias = self.value(node), self.constant(node, 1), self.optional(node, 2)
        if weight.ndim != 4 or x.last or node.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise ExportError("expected a two-dimensional convolution with stated padding")
        pads = tuple(node.attributes.get("pads", (0, 0, 0, 0)))
        if x.flat and (weight.shape[2:] != (1, 1) or any(pads)):
            raise ExportError("expected a 1x1 convolution of a mean")
        return self.builder.convolution(
            x,
            weight,
            bias,
            groups=node.attributes.get("group", 1),
            strides=tuple(node.attributes.get("strides", (1, 1))),
            dilations=tuple(node.attributes.get("dilations", (1, 1))),
            pads=pads,
        )

    def product(self, node: Node) -> Value:
        """A linear layer over channels that come last is a 1x1 convolution."""
        x, weight = self.value(node), self.constant(node, 1)
        if not x.last or weight.ndim != 2:
            raise ExportError("expected a linear layer over channels")
        return self.builder.convolution(x, np.ascontiguousarray(weight.T)[:, :, None, None], None)

    def arithmetic(self, node: Node) -> Value:
        if len(node.inputs) != 2:
            raise ExportError(f"expected two inputs, found {len(node.inputs)}")
        operation = _OPERATIONS[node.op]
        constants = [name in self.graph.constants for name in node.inputs]
        if not any(constants):
            first, second = self.value(node), self.value(node, 1)
            return self.builder.binary(operation, first, second)
        x = self.value(node, constants.index(False))
        numbers = self.per_channel(self.constant(node, constants.index(True)), x)
        match node.op:
            case "Add":
                return self.builder.affine(x, np.ones(1), numbers)
            case "Mul":
                return self.builder.affine(x, numbers, np.zeros(1))
            case "Sub" if constants[1]:
                return self.builder.affine(x, np.ones(1), -numbers)
            case "Sub":
                return self.builder.affine(x, -np.ones(1), numbers)
            case "Div" if constants[1]:
                return self.builder.affine(x, 1 / numbers, np.zeros(1))
        if numbers.size != 1:
            raise ExportError("expected one number")
        operation = by_number.REVERSED_DIVIDE if node.op == "Div" else operation
        return self.builder.number(x, operation, float(numbers[0]))

    def per_channel(self, array: NDArray[Any], x: Value) -> NDArray[np.float64]:
        """A constant beside ``x`` as [1] or [channels]."""
        numbers = array.astype(np.float64)
        if numbers.size > 1 and (numbers == numbers.reshape(-1)[0]).all():
            numbers = numbers.reshape(-1)[:1]
        if numbers.size == 1:
            return numbers.reshape(1)
        axis = numbers.ndim - (1 if x.last else 3)
        if axis < 0 or numbers.shape[axis] != numbers.size or numbers.size != x.channels:
            raise ExportError(f"expected one number or one per channel, found {array.shape} for {x.channels} channels")
        return numbers.reshape(-1)

    def power(self, node: Node) -> Value:
        x, exponent = self.value(node), self.graph.number(node.inputs[1])
        if exponent == 2:  # graphics cards know no power of a negative number
            return self.builder.binary(by_number.MULTIPLY, x, x)
        if exponent is None:
            raise ExportError("expected a constant exponent")
        return self.builder.number(x, by_number.POWER, exponent)

    def root(self, node: Node) -> Value:
        return self.builder.number(self.value(node), by_number.POWER, 0.5)

    # --- activations -------------------------------------------------------------------------------------------------

    def relu(self, node: Node) -> Value:
        return self.builder.activation(self.value(node), by_number.RELU, "ReLU")

    def leaky_relu(self, node: Node) -> Value:
        slope = float(np.float32(node.attributes.get("alpha", 0.01)))
        return self.builder.activation(self.value(node), by_number.LEAKY_RELU, "ReLU", slope)

    def clip(self, node: Node) -> Value:
        low, high = (self.optional(node, place) for place in (1, 2))
        bounds = [float(-np.finfo(np.float32).max if low is None else low), float("inf" if high is None else high)]
        bounds[1] = min(bounds[1], float(np.finfo(np.float32).max))
        return self.builder.activation(self.value(node), by_number.CLIP, "Clip", *bounds)

    def sigmoid(self, node: Node) -> Value:
        return self.builder.activation(self.value(node), by_number.SIGMOID, "Sigmoid")

    def mish(self, node: Node) -> Value:
        return self.builder.activation(self.value(node), by_number.MISH, "Mish")

    def silu(self, node: Node) -> Value:
        return self.builder.add("Swish", [self.value(node)])

    def gelu(self, node: Node) -> Value:
        return self.builder.add("GELU", [self.value(node)], {0: 0})

    def prelu(self, node: Node) -> Value:
        x, slope = self.value(node), self.constant(node, 1).astype(np.float32).reshape(-1)
        if slope.size not in (1, x.channels):
            raise ExportError(f"expected a slope per channel, found {slope.size} for {x.channels} channels")
        return self.builder.add("PReLU", [x], {0: int(slope.size)}, [Weights(slope, tagged=False)])

    def larger_of(self, node: Node) -> Value:
        """max(x, slope * x), a PReLU of x where the slope is at most one, and of slope * x with 1 / slope elsewhere."""
        x, slope = self.value(node), self.per_channel(self.constant(node, 1), self.value(node))
        gain = np.where(slope > 1, slope, 1.0)
        if (gain != 1).any():
            x = self.builder.affine(x, gain, np.zeros(1))
        slopes = np.where(slope > 1, 1 / np.where(slope > 1, slope, 1.0), slope).astype(np.float32)
        return self.builder.add("PReLU", [x], {0: int(slopes.size)}, [Weights(slopes, tagged=False)])

    # --- means and norms ---------------------------------------------------------------------------------------------

    def reduction(self, node: Node) -> Value:
        x = self.value(node)
        axes = node.attributes.get("axes")
        axes = self.constant(node, 1) if axes is None else axes
        found = sorted(int(axis) % 4 for axis in np.asarray(axes).reshape(-1))
        if not node.attributes.get("keepdims", 1) or x.flat or x.last:
            raise ExportError("expected a reduction that keeps its axes")
        largest = node.op == "ReduceMax"
        if found == [2, 3]:  # global pooling: a vector, which 1x1 convolutions and products with images take
            return self.builder.add("Pooling", [x], {0: 0 if largest else 1, 4: 1}, flat=True)
        if found == [1]:
            parameters: dict[int, Parameter] = {0: 4 if largest else 3, 1: 0, 3: (0,), 4: 1, 5: 1}
            return self.builder.add("Reduction", [x], parameters, channels=1)
        raise ExportError(f"expected a reduction over the channels or over the image, found one over axes {found}")

    def layer_norm(self, node: Node) -> Value:
        x = self.value(node)
        if not x.last or node.attributes.get("axis", -1) not in (-1, 3):
            raise ExportError("expected a layer norm over channels")
        gain = self.constant(node, 1).astype(np.float32)
        shift = self.optional(node, 2)
        shift = np.zeros_like(gain) if shift is None else shift.astype(np.float32)
        epsilon = float(np.float32(node.attributes.get("epsilon", 1e-5)))
        parameters: dict[int, Parameter] = {0: x.channels, 1: epsilon, 2: 1}
        weights = [Weights(gain, tagged=False), Weights(shift, tagged=False)]
        turned = self.builder.add("Permute", [x], {0: 3})  # channels innermost
        return self.builder.add("Permute", [self.builder.add("LayerNorm", [turned], parameters, weights)], {0: 4})

    def group_norm(self, node: Node) -> Value:
        x = self.value(node)
        parameters: dict[int, Parameter] = {
            0: node.attributes["groups"],
            1: x.channels,
            2: float(np.float32(node.attributes["epsilon"])),
        }
        plain = [np.ones(x.channels, np.float32), np.zeros(x.channels, np.float32)]
        return self.builder.add("GroupNorm", [x], parameters, [Weights(array, tagged=False) for array in plain])

    # --- channels and pixels -----------------------------------------------------------------------------------------

    def transpose(self, node: Node) -> Value:
        x, order = self.value(node), list(node.attributes.get("perm", ()))
        if order == [0, 2, 3, 1] and not x.last and not x.flat:
            return replace(x, last=True)
        if order == [0, 3, 1, 2] and x.last:
            return replace(x, last=False)
        raise ExportError(f"expected channels to be moved to the end or back, found the order {order}")

    def identity(self, node: Node) -> Value:
        return self.value(node)

    def concatenation(self, node: Node) -> Value:
        parts = [self.value(node, place) for place in range(len(node.inputs))]
        if node.attributes.get("axis") != 1 or any(part.flat or part.last for part in parts):
            raise ExportError("expected channels to be joined")
        return self.builder.add("Concat", parts, {0: 0}, channels=sum(part.channels for part in parts))

    def pixel_shuffle(self, node: Node) -> Value:
        x, factor = self.value(node), int(node.attributes["blocksize"])
        parameters: dict[int, Parameter] = {0: factor}
        if node.attributes.get("mode", b"DCR") != b"CRD":
            parameters[1] = 1
        return self.builder.add("PixelShuffle", [x], parameters, channels=x.channels // factor**2)

    def slices(self, node: Node) -> Value:
        x = self.value(node)
        starts, stops = (self.constant(node, place).reshape(-1) for place in (1, 2))
        axes, steps = self.optional(node, 3), self.optional(node, 4)
        if (
            axes is None
            or axes.reshape(-1).tolist() != [1]
            or (steps is not None and steps.reshape(-1).tolist() != [1])
        ):
            raise ExportError("expected a range of channels")
        start, stop, _ = slice(int(starts[0]), min(int(stops[0]), _ALL)).indices(x.channels)
        return self.crop(x, start, stop)

    def crop(self, x: Value, start: int, stop: int) -> Value:
        """Channels ``start`` to ``stop``; Crop, because more programs have it than have Slice."""
        if (start, stop) == (0, x.channels):
            return x
        return self.builder.add("Crop", [x], {9: (start,), 10: (stop,), 11: (0,)}, channels=stop - start)

    def channels_replaced(self, node: Node) -> Value:
        whole, part, count = self.value(node), self.value(node, 1), node.attributes["count"]
        if part.channels != count or whole.channels <= count:
            raise ExportError(f"expected {count} new channels of more, found {part.channels} of {whole.channels}")
        rest = self.crop(whole, count, whole.channels)
        return self.builder.add("Concat", [part, rest], {0: 0}, channels=whole.channels)

    def repeated_channels(self, node: Node) -> Value:
        """A 1x1 convolution of ones and zeros: exact, and there is a layer for it everywhere."""
        x, times = self.value(node), node.attributes["times"]
        weight = np.repeat(np.eye(x.channels, dtype=np.float32), times, axis=0)[:, :, None, None]
        return self.builder.convolution(x, weight, None)

    def resize(self, node: Node) -> Value:
        x, scales = self.value(node), self.optional(node, 2)
        mode = node.attributes.get("mode", b"nearest")
        where = node.attributes.get("coordinate_transformation_mode", b"half_pixel")
        if scales is None or scales.size != 4 or scales[:2].tolist() != [1, 1] or (scales != scales.astype(int)).any():
            raise ExportError("expected a whole factor for rows and columns")
        rows, columns = float(scales[2]), float(scales[3])
        if mode == b"nearest" and (where, node.attributes.get("nearest_mode")) == (b"asymmetric", b"floor"):
            kind = 1
        elif mode == b"linear" and where in (b"half_pixel", b"pytorch_half_pixel"):
            kind = 2
        else:
            raise ExportError(f"expected nearest neighbours or half-pixel linear, found {mode!r} with {where!r}")
        return self.builder.add("Interp", [x], {0: kind, 1: rows, 2: columns})


_HANDLERS: dict[str, Callable[[_Conversion, Node], Value]] = {
    "Conv": _Conversion.convolution,
    "MatMul": _Conversion.product,
    **dict.fromkeys(_OPERATIONS, _Conversion.arithmetic),
    "Pow": _Conversion.power,
    "Sqrt": _Conversion.root,
    "Relu": _Conversion.relu,
    "LeakyRelu": _Conversion.leaky_relu,
    "Clip": _Conversion.clip,
    "Sigmoid": _Conversion.sigmoid,
    "Mish": _Conversion.mish,
    "Silu": _Conversion.silu,
    "Gelu": _Conversion.gelu,
    "PRelu": _Conversion.prelu,
    "LargerOf": _Conversion.larger_of,
    "ReduceMean": _Conversion.reduction,
    "ReduceMax": _Conversion.reduction,
    "LayerNormalization": _Conversion.layer_norm,
    "GroupNorm": _Conversion.group_norm,
    "Transpose": _Conversion.transpose,
    "Identity": _Conversion.identity,
    "Concat": _Conversion.concatenation,
    "DepthToSpace": _Conversion.pixel_shuffle,
    "Slice": _Conversion.slices,
    "ChannelsReplaced": _Conversion.channels_replaced,
    "RepeatedChannels": _Conversion.repeated_channels,
    "Resize": _Conversion.resize,
}
