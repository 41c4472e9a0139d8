"""int8 ONNX: one quantised network, two files on the same grid, each as its runtimes want it.

Both are QuantizeLinear/DequantizeLinear graphs with int8 weights stored as such. The first is unsigned with zero-point
128 and int32 biases: what ONNX Runtime's, OpenVINO's and DirectML's integer kernels take. The second is signed with
zero-point 0 and float biases, everything that is not quantised typed fp16: what TensorRT takes, strongly typed.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aethernet.errors import ExportError
from aethernet.export.half import convert_to_half
from aethernet.export.onnx import NATIVE_OPSET, ExportConfig, at_opset, trace_to_onnx, write_model
from aethernet.graphs.contract import OnnxDescription
from aethernet.graphs.editing import drop_unused_initializers, replace_nodes
from aethernet.graphs.reading import OnnxGraph
from aethernet.precision import Precision
from aethernet.quantization.scheme import UNSIGNED_ZERO_POINT

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from aethernet.networks.network import Network

__all__ = ["TRT_OPSET", "export_int8", "rewrite_unsigned", "trace_int8"]

TRT_OPSET = 21
"""fp16 scales need 19 or newer; 21 is what TensorRT's own tools write."""


def export_int8(
    network: Network,
    destination: Path | str,
    config: ExportConfig,
    metadata: Mapping[str, str],
    *,
    tensorrt: bool,
    traced: onnx.ModelProto | None = None,
) -> OnnxDescription:
    """Write one int8 file and check what was written.

    Args:
        network: A quantised network, see :mod:`aethernet.quantization`.
        destination: Target file, written in one step.
        config: Shapes, and the opset of the unsigned file.
        metadata: As for fp32.
        tensorrt: The signed form with fp16 remainder instead of the unsigned one.
        traced: What :func:`trace_int8` made of ``network`` for these shapes; whoever writes both files traces once,
            because it takes longer than all else. Not changed.

    Raises:
        ExportError: The exporter failed, or the file breaks the contract.
    """
    if tensorrt:
        config = dataclasses.replace(config, opset=TRT_OPSET)
    proto = at_opset(copy.deepcopy(traced) if traced is not None else trace_int8(network, config), config.opset)
    if tensorrt:
        proto = convert_to_half(proto, ())
    else:
        rewrite_unsigned(proto)
    return write_model(
        proto,
        destination,
        config,
        metadata,
        precision=Precision.INT8,
        element="float16" if tensorrt else "float",
        channels=network.config.in_channels,
        out_channels=network.config.out_channels,
        size=network.config.size,
        scale=network.config.scale,
    )


def trace_int8(network: Network, config: ExportConfig) -> onnx.ModelProto:
    """The graph of a quantised network: signed, zero-point 0, int8 weights with scales per channel, float biases.

    It is at the exporter's own opset, whatever ``config`` says; :func:`aethernet.export.onnx.at_opset` changes that.
    """
    traced, scales = _exportable(network)
    proto = trace_to_onnx(traced, dataclasses.replace(config, opset=NATIVE_OPSET))
    _store_integers(proto, scales)
    return proto


def rewrite_unsigned(proto: onnx.ModelProto) -> None:
    """From :func:`trace_int8`'s graph to the unsigned one, in place: the same grid, as integer kernels want it."""
    _as_products(proto)
    _make_unsigned(proto)


def _exportable(network: Network) -> tuple[Network, dict[str, np.ndarray]]:
    """A copy whose convolutions hold plain weights on the grid, and the scales of those weights by parameter name."""
    from aethernet.networks.merging import merge_tail
    from aethernet.quantization.modules import Mode, QuantizedConv, Quantizer, set_mode

    traced = merge_tail(network).eval()
    set_mode(traced, Mode.ON)
    scales: dict[str, np.ndarray] = {}
    for name, module in list(traced.named_modules()):
        if isinstance(module, QuantizedConv):
            module.weight.data = module.rounded_weight().detach()
            module.mode = Mode.OFF
            scales[f"{name}.weight"] = module.weight_scale.detach().numpy()
    for name, module in list(traced.named_modules()):
        if isinstance(module, Quantizer):
            parent, _, child = name.rpartition(".")
            setattr(traced.get_submodule(parent), child, _onnx_quantizer(module.step))
    return traced, scales


def _onnx_quantizer(step: float) -> nn.Module:
    """QuantizeLinear and DequantizeLinear spelled out: PyTorch's exporter cannot trace its own fake quantisation."""
    import torch
    from torch import Tensor, nn

    class OnnxQuantizer(nn.Module):
        scale: Tensor
        zero_point: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(step))
            self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int8))

        def forward(self, x: Tensor) -> Tensor:
            grid = (self.scale, self.zero_point)
            q = torch.onnx.ops.symbolic("QuantizeLinear", (x, *grid), dtype=torch.int8, shape=x.shape)
            return torch.onnx.ops.symbolic("DequantizeLinear", (q, *grid), dtype=x.dtype, shape=x.shape)

    return OnnxQuantizer()


def _store_integers(proto: onnx.ModelProto, scales: Mapping[str, np.ndarray]) -> None:
    """Replace float weights on a grid by their integers, a DequantizeLinear behind them; in place."""
    import onnx
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.name in scales}
    missing = sorted(scales.keys() - weights.keys())
    if missing:
        raise ExportError(f"the exporter renamed the weights {', '.join(missing[:3])}")
    nodes = []
    for name, tensor in weights.items():
        scale = scales[name].astype(np.float32)
        value = numpy_helper.to_array(tensor)
        integers = np.rint(value / scale.reshape(-1, *[1] * (value.ndim - 1)))
        if np.abs(integers).max() > 127:
            raise ExportError(f"weights of {name} lie outside int8")
        proto.graph.initializer.remove(tensor)
        proto.graph.initializer.extend(
            [
                numpy_helper.from_array(integers.astype(np.int8), f"{name}_int8"),
                numpy_helper.from_array(scale, f"{name}_scale"),
                numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{name}_zero_point"),
            ]
        )
        nodes.append(
            onnx.helper.make_node(
                "DequantizeLinear",
                [f"{name}_int8", f"{name}_scale", f"{name}_zero_point"],
                [name],
                name=f"dequantize/{name}",
                axis=0,
            )
        )
    replace_nodes(proto, (*nodes, *proto.graph.node))


def _as_products(proto: onnx.ModelProto) -> None:
    """Write 1x1 convolutions that leave floats as matrix products over the channels, in place.

    ONNX Runtime runs a convolution in integers only where its output is quantised too; a product it also runs with
    integers in and floats out.
    """
    import onnx
    from onnx import numpy_helper

    graph = OnnxGraph(proto)
    tensors = graph.tensors
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        weight = graph.maker(node.input[1], "DequantizeLinear") if node.op_type == "Conv" else None
        if (
            weight is None
            or [one.op_type for one in graph.readers.get(node.output[0], [])] == ["QuantizeLinear"]
            or list(tensors[weight.input[0]].dims[2:]) != [1, 1]
        ):
            nodes.append(node)
            continue
        if len(graph.readers[weight.output[0]]) > 1:  # what another convolution reads stays as it is
            weight = _own_copy(proto, weight, node)
            tensors[weight.input[0]] = proto.graph.initializer[-1]
            nodes.append(weight)
        integers = numpy_helper.to_array(tensors[weight.input[0]])[:, :, 0, 0].T
        tensors[weight.input[0]].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(integers), weight.input[0]))
        next(attribute for attribute in weight.attribute if attribute.name == "axis").i = 1
        name, output = node.name, node.output[0]
        make = onnx.helper.make_node
        nodes += [
            make("Transpose", [node.input[0]], [f"{output}/last"], name=f"{name}/last", perm=[0, 2, 3, 1]),
            make("MatMul", [f"{output}/last", node.input[1]], [f"{output}/product"], name=f"{name}/product"),
        ]
        last = f"{output}/product"
        if len(node.input) > 2 and node.input[2]:  # the exporter leaves out a bias of zeros
            # Four axes, because ONNX Runtime would join a product and a plain bias to a Gemm, which it runs in float.
            bias = node.input[2]
            shift = numpy_helper.to_array(tensors[bias]).reshape(1, 1, 1, -1)
            if len(graph.readers[bias]) > 1:  # what another convolution reads stays as it is
                bias = f"{output}/shift"
                proto.graph.initializer.append(numpy_helper.from_array(shift, bias))
            else:
                tensors[bias].CopyFrom(numpy_helper.from_array(shift, bias))
            nodes.append(make("Add", [last, bias], [f"{output}/sum"], name=f"{name}/bias"))
            last = f"{output}/sum"
        nodes.append(make("Transpose", [last], [output], name=f"{name}/first", perm=[0, 3, 1, 2]))
    read = {name for node in nodes for name in node.input}
    replace_nodes(proto, [one for one in nodes if one.op_type != "DequantizeLinear" or one.output[0] in read])


def _own_copy(proto: onnx.ModelProto, weight: onnx.NodeProto, reader: onnx.NodeProto) -> onnx.NodeProto:
    """The weight of several convolutions, for ``reader`` alone; its integers become the graph's last initializer."""
    own = copy.deepcopy(weight)
    name = f"{reader.output[0]}/weight"
    integers = next(tensor for tensor in proto.graph.initializer if tensor.name == weight.input[0])
    copied = proto.graph.initializer.add()
    copied.CopyFrom(integers)
    copied.name = own.input[0] = f"{name}_int8"
    own.name, own.output[0] = f"dequantize/{name}", name
    reader.input[1] = name
    return own


def _make_unsigned(proto: onnx.ModelProto) -> None:
    """Shift activations to unsigned with zero-point 128 and give biases int32 form, in place: the same grid."""
    import onnx
    from onnx import numpy_helper

    graph = OnnxGraph(proto)
    unsigned = "unsigned_zero_point"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(UNSIGNED_ZERO_POINT, np.uint8), unsigned))
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear" or (
            node.op_type == "DequantizeLinear" and node.input[0] not in graph.tensors
        ):
            node.input[2] = unsigned
    biases: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        if node.op_type != "Conv" or len(node.input) < 3 or not node.input[2]:
            continue
        source = graph.maker(node.input[0], "DequantizeLinear", ("Transpose",))
        weight, bias = graph.maker(node.input[1], "DequantizeLinear"), node.input[2]
        if source is None or weight is None:
            continue
        scales = (
            numpy_helper.to_array(graph.tensors[source.input[1]]),
            numpy_helper.to_array(graph.tensors[weight.input[1]]),
        )
        scale = (scales[0] * scales[1]).astype(np.float32)
        integers = np.rint(numpy_helper.to_array(graph.tensors[bias]) / scale.astype(np.float64))
        if np.abs(integers).max(initial=0) >= 2**31:
            raise ExportError(f"the bias {bias} does not fit in int32 on its grid")
        # Several convolutions may share one, each on a grid of its own.
        if any(one.name == f"dequantize/{bias}" for one in biases):
            bias = f"{node.output[0]}/{bias}"
        name = f"{bias}_int32"
        proto.graph.initializer.extend(
            [
                numpy_helper.from_array(integers.astype(np.int32), name),
                numpy_helper.from_array(scale, f"{bias}_scale"),
                numpy_helper.from_array(np.zeros(scale.shape, np.int32), f"{bias}_zero_point"),
            ]
        )
        node.input[2] = f"{bias}_dequantized"
        biases.append(
            onnx.helper.make_node(
                "DequantizeLinear",
                [name, f"{bias}_scale", f"{bias}_zero_point"],
                [f"{bias}_dequantized"],
                name=f"dequantize/{bias}",
                axis=0,
            )
        )
    replace_nodes(proto, (*biases, *proto.graph.node))
    drop_unused_initializers(proto)
