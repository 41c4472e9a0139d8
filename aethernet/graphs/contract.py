"""What every ONNX file of ours promises, checked on the bytes that ship.

One input ``input`` and one output ``output``, NCHW with literal channels and named free axes; the output's axis names
differ from the input's (``2*h``), because ONNX Runtime may share buffers between axes of one name. Standard operators
only, everything in one file. Strict shape inference gives the scale at several sizes: that is how chaiNNer finds it.
Where inference cannot follow a network (of another library), running it must give the scale.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aethernet.errors import ExportError
from aethernet.networks.sizes import SizeRequirements
from aethernet.precision import Precision

if TYPE_CHECKING:
    import onnx

__all__ = [
    "INFERENCE_SIZES",
    "MINIMAL_IR",
    "OnnxDescription",
    "describe_onnx",
    "require_contract",
]

MINIMAL_IR = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
"""opset -> the oldest IR version that may hold it; old consumers refuse newer ones."""

INFERENCE_SIZES = (16, 64, 256, 512)
"""Sides at which the scale must follow from shape inference alone."""


_RUN_PIXELS = 64 * 64
"""Larger inputs are not run to see the scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxDescription:
    """What an ONNX file says about itself."""

    inputs: dict[str, tuple[str, tuple[str | int, ...]]]
    """Name -> element type and shape; free axes by name."""
    outputs: dict[str, tuple[str, tuple[str | int, ...]]]
    opset: int
    ir_version: int
    operators: dict[str, int]
    """Count by operator, sorted by name."""
    metadata: dict[str, str]

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return sum(self.operators.values())


def describe_onnx(model: onnx.ModelProto) -> OnnxDescription:
    """Read names, types, shapes, versions and metadata of a model."""
    import onnx

    def values(infos: list[onnx.ValueInfoProto]) -> dict[str, tuple[str, tuple[str | int, ...]]]:
        described: dict[str, tuple[str, tuple[str | int, ...]]] = {}
        for info in infos:
            tensor = info.type.tensor_type
            shape = tuple(
                axis.dim_value if axis.HasField("dim_value") else axis.dim_param or "?" for axis in tensor.shape.dim
            )
            described[info.name] = (onnx.TensorProto.DataType.Name(tensor.elem_type).lower(), shape)
        return described

    own = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    counts = Counter(node.op_type for node in model.graph.node)
    return OnnxDescription(
        inputs=values(list(model.graph.input)),
        outputs=values(list(model.graph.output)),
        opset=own[0] if own else 0,
        ir_version=model.ir_version,
        operators=dict(sorted(counts.items())),
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )


def require_contract(
    path: Path | str,
    *,
    precision: Precision,
    channels: int,
    scale: int,
    opset: int,
    out_channels: int | None = None,
    size: SizeRequirements | None = None,
    static: tuple[int, int] | None = None,
    element: str | None = None,
    name: str | None = None,
) -> OnnxDescription:
    """Check a written file against the contract, all rules at once.

    Args:
        path: The file.
        precision: Its precision.
        channels: Of the image.
        scale: Output size over input size.
        opset: That it must have.
        out_channels: Of the result; by default those of the image.
        size: What sizes the network takes; by default any.
        static: Its fixed (H, W), if it has one.
        element: Type of input and output, ``float`` or ``float16``; by default the precision's own.
        name: What errors call the file.

    Raises:
        ExportError: Lists every rule that is broken.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    found = describe_onnx(model)
    element = element or ("float16" if precision is Precision.FP16 else "float")
    axes: tuple[str | int, ...] = ("n", channels, "h", "w") if static is None else (1, channels, *static)
    given = (axes[0], out_channels or channels, *axes[2:])
    wanted = {
        "inputs": ({"input": (element, axes)}, found.inputs),
        "outputs": ({"output": (element, _scaled(given, scale))}, found.outputs),
        "opset": (opset, found.opset),
        "IR version": (MINIMAL_IR[opset], found.ir_version),
    }
    broken = [
        f"{rule}: expected {right}, found {actual}" for rule, (right, actual) in wanted.items() if right != actual
    ]
    others = sorted(
        {f"{node.domain}:{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if others or model.functions:
        broken.append(f"operators: expected standard ones only, found {others or 'model functions'}")
    if any(tensor.external_data for tensor in model.graph.initializer):
        broken.append("weights: expected inside the file, found external data")
    if not broken:
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            broken.append(f"onnx.checker: {error}")
        sides = [(side, side) if size is None else size.fit(side, side) for side in INFERENCE_SIZES]
        broken += _inferred_scales(model, scale, [static] if static else list(dict.fromkeys(sides)))
    if broken:
        raise ExportError(f"{name or Path(path).name} breaks its contract; " + "; ".join(broken))
    return found


def _output_shape(model: onnx.ModelProto, height: int, width: int) -> tuple[int, ...]:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    kind = model.graph.input[0].type.tensor_type
    image = np.zeros(
        (1, kind.shape.dim[1].dim_value, height, width), np.float16 if kind.elem_type == 10 else np.float32
    )
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {model.graph.input[0].name: image})
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise ExportError(f"ONNX Runtime cannot run it at {height}x{width}: {str(error)[:200]}") from error
    return tuple(output.shape)


def _scaled(axes: tuple[str | int, ...], scale: int) -> tuple[str | int, ...]:
    def scaled(axis: str | int) -> str | int:
        if isinstance(axis, int):
            return axis * scale
        return f"{scale}*{axis}"

    return (axes[0], axes[1], *(scaled(axis) for axis in axes[2:]))


def _inferred_scales(model: onnx.ModelProto, scale: int, sizes: list[tuple[int, int]]) -> list[str]:
    import onnx

    broken = []
    for height, width in sizes:
        fixed = onnx.ModelProto()
        fixed.CopyFrom(model)
        del fixed.graph.value_info[:]
        for axis, value in zip(fixed.graph.input[0].type.tensor_type.shape.dim, (1, None, height, width), strict=True):
            if value is not None:
                axis.dim_value = value
        fixed.graph.output[0].type.tensor_type.ClearField("shape")
        try:
            inferred = onnx.shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            broken.append(f"strict shape inference at {height}x{width}: {error}")
            continue
        shape = tuple(axis.dim_value for axis in inferred.graph.output[0].type.tensor_type.shape.dim)
        if 0 in shape[2:]:  # sizes computed in ways inference cannot follow: see by running it, where that is cheap
            if height * width > _RUN_PIXELS:
                continue
            shape = _output_shape(model, height, width)
        if shape[2:] != (height * scale, width * scale):
            broken.append(f"shape inference at {height}x{width}: expected scale {scale}, found output {shape}")
    return broken
