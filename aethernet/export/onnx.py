"""fp32 ONNX through PyTorch's current exporter (``dynamo=True``), cleaned so that equal networks give equal bytes."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aethernet.artifact import atomic_path
from aethernet.errors import ExportError, UsageError
from aethernet.graphs.contract import MINIMAL_IR, OnnxDescription, require_contract
from aethernet.graphs.editing import drop_unused_initializers, replace_nodes
from aethernet.graphs.reading import OnnxGraph
from aethernet.networks.sizes import size_metadata
from aethernet.precision import Precision

if TYPE_CHECKING:
    import onnx

    from aethernet.networks.network import Network
    from aethernet.networks.sizes import SizeRequirements

__all__ = [
    "NATIVE_OPSET",
    "TRACED_SHAPE",
    "ExportConfig",
    "ShapeRange",
    "at_opset",
    "export_fp32",
    "finish_model",
    "lower",
    "trace_to_onnx",
    "write_fp32",
    "write_model",
]

TRACED_SHAPE = (2, 24, 20)
"""N, H, W of the traced example: batch above one and unequal sides, so that no axis is mistaken for a constant."""


NATIVE_OPSET = 18
"""The oldest opset the exporter writes itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """Smallest, best and largest input, each (N, H, W) in pixels; engines are built for such a range."""

    minimum: tuple[int, int, int] = (1, 16, 16)
    optimum: tuple[int, int, int] = (1, 256, 256)
    maximum: tuple[int, int, int] = (4, 1080, 1920)

    def __post_init__(self) -> None:
        for low, best, high in zip(self.minimum, self.optimum, self.maximum, strict=True):
            if not 1 <= low <= best <= high:
                raise UsageError(
                    "expected min <= opt <= max in every axis (N, H, W), "
                    f"found {self.minimum}, {self.optimum}, {self.maximum}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """How a network becomes ONNX."""

    opset: int = 17
    """17 to 21; the IR version is the oldest that may hold it."""
    static: tuple[int, int] | None = None
    """Fixed (H, W) in pixels with batch 1; None leaves N, H and W free."""
    shapes: ShapeRange = ShapeRange()
    """Recorded in the file for those who build engines from it."""

    def __post_init__(self) -> None:
        if self.opset not in MINIMAL_IR:
            raise UsageError(f"expected an opset from {min(MINIMAL_IR)} to {max(MINIMAL_IR)}, found {self.opset}")
        if self.static is not None and min(self.static) < 1:
            raise UsageError(f"expected a positive fixed size, found {self.static}")


def export_fp32(
    model: Network, destination: Path | str, config: ExportConfig, metadata: Mapping[str, str]
) -> OnnxDescription:
    """Write the fp32 ONNX file of ``model`` and check what was written.

    Args:
        model: Any form; folded ones give fewer nodes. Not changed.
        destination: Target file, written in one step.
        config: Opset and shapes.
        metadata: Goes into the file's metadata_props beside scale, precision and shapes.

    Raises:
        ExportError: The exporter failed, or the file breaks the contract.
    """
    from aethernet.networks.merging import merge_tail

    return write_fp32(model, trace_to_onnx(merge_tail(model), config), destination, config, metadata)


def write_fp32(
    model: Network,
    proto: onnx.ModelProto,
    destination: Path | str,
    config: ExportConfig,
    metadata: Mapping[str, str],
) -> OnnxDescription:
    """Write what :func:`trace_to_onnx` made of ``model``; arguments and errors as for :func:`export_fp32`."""
    return write_model(
        proto,
        destination,
        config,
        metadata,
        precision=Precision.FP32,
        channels=model.config.in_channels,
        out_channels=model.config.out_channels,
        size=model.config.size,
        scale=model.config.scale,
    )


def trace_to_onnx(model: Network, config: ExportConfig) -> onnx.ModelProto:
    """The exporter's graph of ``model`` in evaluation mode, input ``input``, output ``output``.

    Raises:
        ExportError: The exporter failed.
    """
    import torch

    from aethernet.networks.third_party import ThirdPartyNetwork
    from aethernet.networks.windows import traceable_windows

    batch, height, width = _traced_shape(model.config.size) if config.static is None else (1, *config.static)
    example = torch.linspace(0, 1, batch * model.config.in_channels * height * width)
    example = example.reshape(batch, model.config.in_channels, height, width)
    axes = {0: torch.export.Dim("n", min=1), 2: torch.export.Dim("h", min=1), 3: torch.export.Dim("w", min=1)}
    if isinstance(model, ThirdPartyNetwork):
        # What its code says about sizes (multiples, parities) is for the exporter to find out: names would forbid it.
        axes = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    try:
        with _quiet_exporter(), traceable_windows():
            program = torch.onnx.export(
                copy.deepcopy(model).eval(),  # the caller's stays in its mode
                (example.to(next(model.parameters()).dtype),),
                dynamo=True,
                opset_version=max(config.opset, NATIVE_OPSET),
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=(axes if config.static is None else None,),
                external_data=False,
                optimize=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds; all mean the same here
        raise ExportError(
            f"PyTorch's exporter failed at opset {config.opset}: {error}",
            hint="try opset 18, its native one; --debug shows the exporter's own report",
        ) from error
    if program is None:
        raise ExportError("PyTorch's exporter returned no program")
    proto: onnx.ModelProto = program.model_proto
    _name_axes(proto)
    _arrange_gelu(proto)
    return proto if config.opset > NATIVE_OPSET else at_opset(proto, config.opset)


def at_opset(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph at another opset than the exporter's oldest, which it must be at; may change ``proto``.

    Raises:
        ExportError: There is no such conversion.
    """
    import onnx

    if opset > NATIVE_OPSET:
        try:
            return onnx.version_converter.convert_version(proto, opset)
        except RuntimeError as error:
            raise ExportError(f"cannot write this network at opset {opset}: {error}") from error
    if opset < NATIVE_OPSET:
        lower(proto, opset)
    return proto


def lower(proto: onnx.ModelProto, opset: int) -> None:
    """From the exporter's oldest opset to ``opset``, in place; what it cannot say there the contract check refuses."""
    _lower_operators(proto)
    next(entry for entry in proto.opset_import if entry.domain in ("", "ai.onnx")).version = opset


def _name_axes(proto: onnx.ModelProto) -> None:
    """Call the free axes of the input, and the output's first, as our contract does, in place."""
    for info, names in ((proto.graph.input[0], {0: "n", 2: "h", 3: "w"}), (proto.graph.output[0], {0: "n"})):
        for place, name in names.items():
            axis = info.type.tensor_type.shape.dim[place]
            if axis.dim_param:
                axis.dim_param = name


def _traced_shape(size: SizeRequirements) -> tuple[int, int, int]:
    batch, height, width = TRACED_SHAPE
    height, width = size.fit(height, width)
    # Unequal sides, so that no axis is mistaken for the other.
    return (batch, height, width + size.multiple if height == width and not size.square else width)


def _arrange_gelu(proto: onnx.ModelProto) -> None:
    """Write the exact GELU, in place, as 0.5 * (x * (1 + erf(…))) where the exporter writes x * (0.5 * (1 + erf(…))).

    ONNX Runtime merges the first into one kernel, bias included, and runs five for the second (measured on
    generation 1: the whole network takes 13 % less time). Multiplying by 0.5 is exact, so the values are the same.
    """
    graph = OnnxGraph(proto)
    for outer in graph.nodes:
        if outer.op_type != "Mul" or len(outer.input) != 2:
            continue
        for x, scaled in (tuple(outer.input), tuple(reversed(outer.input))):
            inner = graph.maker(scaled, "Mul")
            if inner is None or len(graph.readers[scaled]) != 1:
                continue
            half = next((name for name in inner.input if _is_half(graph, name)), None)
            summed = next((name for name in inner.input if name != half), None)
            if half is not None and summed is not None and _is_one_plus_erf(graph, summed, x):
                inner.input[:] = [x, summed]
                outer.input[:] = [scaled, half]
                break


def _is_half(graph: OnnxGraph, name: str) -> bool:
    value = graph.array(name)
    return value is not None and value.size == 1 and value.item() == 0.5


def _is_one_plus_erf(graph: OnnxGraph, name: str, x: str) -> bool:
    total = graph.maker(name, "Add")
    if total is None:
        return False
    erf = next((made for part in total.input if (made := graph.maker(part, "Erf")) is not None), None)
    argument = graph.maker(erf.input[0], "Div") if erf is not None else None
    return argument is not None and argument.input[0] == x


def _lower_operators(proto: onnx.ModelProto) -> None:
    """From opset 18 to 17, in place, by hand: the exporter's own conversion gives up on reductions.

    Reductions take their axes as an attribute again; what 18 added to Resize and Split is taken off where it says what
    17 does anyway, and Mish is written as x * tanh(softplus(x)), its definition. Whatever else changed between the two,
    the contract check refuses.
    """
    import onnx

    replace_nodes(proto, [part for node in proto.graph.node for part in _without_mish(node)])
    graph = OnnxGraph(proto)
    for node in graph.nodes:
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.input) > 1:
            axes = graph.array(node.input[1])
            if axes is None:
                continue
            del node.input[1:]
            node.attribute.extend([onnx.helper.make_attribute("axes", axes.tolist())])
        for attribute in [entry for entry in node.attribute if _said_by_default(node.op_type, entry)]:
            node.attribute.remove(attribute)
    drop_unused_initializers(proto)


def _without_mish(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Mish is an operator from opset 18 on (Misra 2019, "Mish: A Self Regularized Non-Monotonic Activation")."""
    import onnx

    if node.op_type != "Mish":
        return [node]
    (x,), (y,) = node.input, node.output
    make = onnx.helper.make_node
    return [
        make("Softplus", [x], [f"{y}/softplus"], name=f"{node.name}/softplus"),
        make("Tanh", [f"{y}/softplus"], [f"{y}/tanh"], name=f"{node.name}/tanh"),
        make("Mul", [x, f"{y}/tanh"], [y], name=node.name),
    ]


def _said_by_default(operator: str, attribute: onnx.AttributeProto) -> bool:
    """Whether opset 17 has no such attribute and does what it says."""
    match operator, attribute.name:
        case "Resize", "keep_aspect_ratio_policy":
            return attribute.s == b"stretch"
        case "Resize", "antialias":
            return attribute.i == 0
        case "Split", "num_outputs":
            return True  # equal parts without it, too
        case _, "noop_with_empty_axes":
            return operator.startswith("Reduce") and operator != "ReduceSum"
    return False


def write_model(
    proto: onnx.ModelProto,
    destination: Path | str,
    config: ExportConfig,
    metadata: Mapping[str, str],
    *,
    precision: Precision,
    channels: int,
    scale: int,
    out_channels: int | None = None,
    size: SizeRequirements | None = None,
    element: str | None = None,
) -> OnnxDescription:
    """Finish a model, write it in one step, and check what was written.

    Args:
        out_channels: Of the result, where it is not an image like the input.
        size: What sizes the network takes, where it does not take all.
        element: Type of the image where it does not follow from ``precision``.

    Raises:
        ExportError: The file breaks the contract; nothing is left of it then.
    """
    finish_model(proto, config, precision, scale, {**metadata, **size_metadata(size, config.static)})
    with atomic_path(destination) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
        return require_contract(
            temporary,
            precision=precision,
            element=element,
            channels=channels,
            out_channels=out_channels,
            size=size,
            scale=scale,
            opset=config.opset,
            static=config.static,
            name=Path(destination).name,
        )


def finish_model(
    proto: onnx.ModelProto, config: ExportConfig, precision: Precision, scale: int, metadata: Mapping[str, str]
) -> None:
    """Bring a model into shipping form, in place: versions, our metadata, nothing about the machine that made it."""
    import onnx

    proto.ir_version = MINIMAL_IR[config.opset]
    proto.producer_name, proto.producer_version = "aethernet", ""
    proto.doc_string = proto.graph.doc_string = ""
    proto.graph.name = "aethernet"
    if config.static is None:
        for side, name in zip(proto.graph.output[0].type.tensor_type.shape.dim[2:], ("h", "w"), strict=True):
            side.dim_param = f"{scale}*{name}"
    # Shapes between nodes follow from the input; the exporter's notes hold source paths of the machine it ran on.
    del proto.graph.value_info[:]
    for part in (
        proto,
        proto.graph,
        *proto.graph.node,
        *proto.graph.initializer,
        *proto.graph.input,
        *proto.graph.output,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    entries = {"precision": precision.value, "scale": str(scale)} | dict(metadata)
    if config.static is None:
        for name in ("minimum", "optimum", "maximum"):
            entries[f"{name}_shape"] = "x".join(str(side) for side in getattr(config.shapes, name))
    onnx.helper.set_model_props(proto, dict(sorted(entries.items())))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter reports each opset conversion as a warning; the contract check says what matters."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
