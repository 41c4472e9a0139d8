"""fp16 ONNX: every tensor typed half precision, except around operations whose real activations leave its safe range.

Strongly typed, as TensorRT 11 demands: the precision is in the file, not in a builder flag. Which operations stay
fp32 is measured on pictures, named in the manifest, and judged by the gate like everything else.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aethernet.errors import ExportError
from aethernet.export.onnx import ExportConfig, write_model
from aethernet.graphs.contract import OnnxDescription
from aethernet.graphs.editing import replace_nodes
from aethernet.networks.sizes import SizeRequirements, padded
from aethernet.precision import Precision

if TYPE_CHECKING:
    import onnx
__all__ = ["SAFE_MAGNITUDE", "HalfExport", "activation_ranges", "convert_to_half", "export_fp16"]

SAFE_MAGNITUDE = 16384.0
"""A quarter of fp16's largest number (65504): room for pictures brighter than those measured."""

_PROBE = "probe/"


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfExport:
    """What became of the conversion."""

    description: OnnxDescription
    kept_fp32: tuple[str, ...]
    """Names of the operations that stay fp32."""
    largest_activation: float
    """Largest magnitude seen anywhere in the network."""


def export_fp16(
    fp32_model: Path | str,
    destination: Path | str,
    config: ExportConfig,
    metadata: Mapping[str, str],
    pictures: Iterable[np.ndarray],
    *,
    channels: int,
    scale: int,
    out_channels: int | None = None,
    size: SizeRequirements | None = None,
) -> HalfExport:
    """Write the fp16 form of an fp32 ONNX file.

    Args:
        fp32_model: A file :func:`aethernet.export.onnx.export_fp32` wrote.
        destination: Target file, written in one step.
        config: As for fp32.
        metadata: As for fp32.
        pictures: Real pictures, [N, C, H, W] float32 in [0, 1], to measure activations on.
        channels: Channels of the picture.
        scale: Output size over input size.
        out_channels: As for fp32.
        size: As for fp32.

    Raises:
        ExportError: The file breaks the contract.
    """
    import onnx

    source = onnx.load(str(fp32_model))
    taken = dataclasses.replace(size or SizeRequirements(), fixed=config.static)
    ranges = activation_ranges(source, (padded(picture, taken) for picture in pictures))
    kept = _unsafe_nodes(source, ranges)
    proto = convert_to_half(source, kept)
    _require_typed(proto, kept)
    description = write_model(
        proto,
        destination,
        config,
        metadata,
        precision=Precision.FP16,
        channels=channels,
        out_channels=out_channels,
        size=size,
        scale=scale,
    )
    return HalfExport(
        description=description, kept_fp32=tuple(kept), largest_activation=max(ranges.values(), default=0.0)
    )


def convert_to_half(model: onnx.ModelProto, kept: Sequence[str]) -> onnx.ModelProto:
    """``model`` with every float tensor typed fp16, input and output included, but around the nodes named ``kept``."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    logger = logging.getLogger("onnxruntime.transformers.float16")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        converted: onnx.ModelProto = convert_float_to_float16(
            model, keep_io_types=False, op_block_list=[], node_block_list=list(kept), disable_shape_infer=False
        )
    finally:
        logger.setLevel(level)
    _join_casts(converted)
    _keep_factors(converted)
    _sort_topologically(converted)
    return converted


def activation_ranges(model: onnx.ModelProto, pictures: Iterable[np.ndarray]) -> dict[str, float]:
    """Largest magnitude of every float tensor between nodes, over all pictures.

    The maxima are computed inside the graph, so memory stays that of one forward pass.

    Args:
        model: An fp32 model with input ``input``.
        pictures: [N, C, H, W] float32 in [0, 1].
    """
    import onnx
    import onnxruntime

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    typed = onnx.shape_inference.infer_shapes(model).graph.value_info
    names = [
        "input",
        *(info.name for info in typed if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT),
        "output",
    ]
    del probed.graph.node[:]
    probed.graph.node.extend(_probes("input"))
    for node in model.graph.node:
        probed.graph.node.append(node)
        for name in set(node.output) & set(names):
            probed.graph.node.extend(_probes(name))
    for name in names:
        probed.graph.output.append(onnx.helper.make_tensor_value_info(_PROBE + name, onnx.TensorProto.FLOAT, []))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # In this order each probe runs right after its tensor, which is then let go; by default all would run at the end.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    session = onnxruntime.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ranges = dict.fromkeys(names, 0.0)
    for picture in pictures:
        for name, value in zip(names, session.run([_PROBE + name for name in names], {"input": picture}), strict=True):
            ranges[name] = float(np.maximum(ranges[name], value))  # unlike max(), it keeps a NaN
    return ranges


def _probes(name: str) -> list[onnx.NodeProto]:
    import onnx

    return [
        onnx.helper.make_node("Abs", [name], [f"{_PROBE}abs/{name}"]),
        onnx.helper.make_node("ReduceMax", [f"{_PROBE}abs/{name}"], [_PROBE + name], keepdims=0),
    ]


def _unsafe_nodes(model: onnx.ModelProto, ranges: Mapping[str, float]) -> Sequence[str]:
    import onnx

    large = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and np.abs(onnx.numpy_helper.to_array(tensor)).max(initial=0) > SAFE_MAGNITUDE
    }
    return [
        node.name
        for node in model.graph.node
        # "not <=" so that a NaN counts as unsafe.
        if any(not ranges.get(name, 0.0) <= SAFE_MAGNITUDE or name in large for name in (*node.input, *node.output))
    ]


def _join_casts(model: onnx.ModelProto) -> None:
    """Let what passes between two operations that stay fp32 stay fp32, in place; widen what several read only once.

    The converter wraps every kept operation alone: between two of them it would round to fp16, where the very values
    they were kept for overflow, and a tensor that two of them read would be widened twice under one name.
    """
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    narrowed = {node.output[0]: node.input[0] for node in casts if node.input[0].endswith("_cast_to_fp16")}
    widened = {node.output[0]: node.input[0] for node in casts if node.output[0].endswith("_cast_to_fp32")}
    direct = {wide: narrowed[half] for wide, half in widened.items() if half in narrowed}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = direct.get(name, name)
    read = {name for node in model.graph.node if node.output[0] not in direct for name in node.input}
    read |= {info.name for info in model.graph.output}
    done: set[str] = set()
    for node in casts:
        name = node.output[0]
        if name in direct or name in done or (name in narrowed and name not in read):
            model.graph.node.remove(node)
        done.add(name)


def _keep_factors(model: onnx.ModelProto) -> None:
    """Take off the casts the converter puts before a Resize's factors, in place: they are float32, and stay so."""
    import onnx

    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in floats}
    for node in model.graph.node:
        if node.op_type == "Resize":
            for place, name in enumerate(node.input):
                node.input[place] = casts[name].input[0] if name in casts else name
    read = {name for node in model.graph.node for name in node.input}
    for name, cast in casts.items():
        if name not in read:
            model.graph.node.remove(cast)


def _sort_topologically(model: onnx.ModelProto) -> None:
    """The converter appends its casts at the end of the list; a valid graph lists producers first."""
    known = {tensor.name for tensor in model.graph.initializer} | {info.name for info in model.graph.input} | {""}
    waiting = list(model.graph.node)
    ordered = []
    while waiting:
        ready = [node for node in waiting if all(name in known for name in node.input)]
        if not ready:
            raise ExportError(f"the fp16 graph has a cycle at {waiting[0].name}")
        ordered += ready
        known |= {name for node in ready for name in node.output}
        done = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in done]
    replace_nodes(model, ordered)


def _require_typed(model: onnx.ModelProto, kept: Collection[str]) -> None:
    import onnx

    allowed = {name for node in model.graph.node if node.name in kept for name in node.input}
    # Factors and regions of a Resize are float32 by its definition.
    allowed |= {name for node in model.graph.node if node.op_type == "Resize" for name in node.input[1:3]}
    floats = [tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    wide = [name for name in floats if name not in allowed]
    if wide:
        raise ExportError(f"expected half-precision weights, found fp32: {', '.join(wide[:5])}")
