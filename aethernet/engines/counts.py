"""In which precision an engine computes: counted in the parsed, typed network, and in the plan where it can be read.

A strongly typed network is what will be computed, layer by layer, before kernels are chosen; it can be read everywhere.
A TensorRT-RTX plan holds the graph of its kernels as text, with the type of every tensor; so there even the built
engine can be read without a GPU. TensorRT's own plans are read by its engine inspector, which needs the GPU.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from aethernet.graphs.reading import REARRANGING, OnnxGraph
from aethernet.precision import Precision
from aethernet.records import Record

if TYPE_CHECKING:
    import onnx

__all__ = [
    "PlanCounts",
    "TypedCounts",
    "count_inspected",
    "count_network",
    "count_plan",
    "findings_of",
    "intended_int8",
]

_PRODUCTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_KEEPS_VALUES = ("SHUFFLE", "IDENTITY", "SLICE", "CONCATENATION")
_NO_COMPUTATION = ("CONSTANT", "SHAPE", "QUANTIZE", "DEQUANTIZE")
_NAMES = {"FLOAT": "fp32", "HALF": "fp16", "INT8": "int8", "BF16": "bf16"}
_PLAN_NAMES = {"float": "fp32", "half": "fp16", "int8": "int8", "bf16": "bf16", "bfloat16": "bf16"}


class TypedCounts(Record):
    """A parsed network by precision."""

    products: dict[str, int] = Field(description="Convolutions and matrix products by the precision they compute in")
    others: dict[str, int] = Field(description="All other operations on floating-point values, by their output's type")
    quantize: int
    dequantize: int
    half_quantized: tuple[str, ...] = Field(default=(), description="Products of which only one input is int8")
    fp32_islands: tuple[str, ...] = Field(default=(), description="Operations in fp32 inside an fp16 or int8 network")


class PlanCounts(Record):
    """A built engine by precision."""

    source: str = Field(description="How it was read")
    graphs: int = Field(default=1, description="How often the network is in it; TensorRT-RTX compiles one per profile")
    products: dict[str, int] = Field(description="Convolutions and products of all graphs by the type of their inputs")
    kernels: int = Field(description="All kernels it launches, or layers where the inspector counted")
    kernel_sources: int | None = Field(default=None, description="Different fused kernels whose source text it holds")
    source_bytes: int | None = Field(
        default=None, description="Bytes of that text: what makes it larger than its weights"
    )


def count_network(network: Iterable[Any], precision: Precision) -> TypedCounts:
    """Count a TensorRT ``INetworkDefinition``.

    Args:
        network: Yields layers with ``name``, ``type``, and inputs and outputs by index.
        precision: What the file is meant to be; fp32 operations are islands in all others.
    """
    layers = list(network)
    makers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}

    def integer(tensor: Any) -> bool:
        maker = makers.get(tensor.name)
        while maker is not None and maker.type.name in _KEEPS_VALUES:
            maker = makers.get(maker.get_input(0).name)
        return maker is not None and maker.type.name == "DEQUANTIZE" and maker.get_input(0).dtype.name == "INT8"

    products: Counter[str] = Counter()
    others: Counter[str] = Counter()
    kinds: Counter[str] = Counter(layer.type.name for layer in layers)
    half_quantized, islands = [], []
    for layer in layers:
        kind, made = layer.type.name, _NAMES.get(layer.get_output(0).dtype.name)
        if made is None or kind in _NO_COMPUTATION:
            continue
        if kind in _PRODUCTS:
            tensors = [layer.get_input(index) for index in range(min(2, layer.num_inputs))]
            sides = [integer(tensor) for tensor in tensors if tensor is not None]
            whole = len(sides) == 2 and all(sides)
            if any(sides) and not whole:
                half_quantized.append(layer.name)
            made = "int8" if whole else made
            products[made] += 1
        else:
            others[made] += 1
        if made == "fp32" and precision is not Precision.FP32:
            islands.append(layer.name)
    return TypedCounts(
        products=dict(sorted(products.items())),
        others=dict(sorted(others.items())),
        quantize=kinds["QUANTIZE"],
        dequantize=kinds["DEQUANTIZE"],
        half_quantized=tuple(half_quantized),
        fp32_islands=tuple(islands),
    )


_TENSOR = re.compile(rb'tensor=\{[^\n]*?name="([^"\n]+)"[^\n]*?type=(\w+)')
_PRODUCT = re.compile(
    rb'(?:corrltn|fully_connected|gemm|matmul)=\{ name="[^"\n]*" output=\{[^}\n]*\} input=\{([^}\n]*)\}'
)
_FUNCTION = re.compile(rb"\n\s*function=\{ name=")
_SOURCE = re.compile(
    rb'#(?:ifdef|include|define)[\x09\x0a\x0d\x20-\x7e]+?extern "C" __global__[\x09\x0a\x0d\x20-\x7e]+'
)


def count_plan(plan: bytes, profiles: int = 1) -> PlanCounts | None:
    """Count the kernel graphs inside a TensorRT-RTX plan, one per profile; None where none can be read.

    The text is not a documented format: what cannot be told apart is left out, never guessed.
    """
    types = {name: kind.decode() for name, kind in _TENSOR.findall(plan)}
    products: Counter[str] = Counter()
    for inputs in _PRODUCT.findall(plan):
        # The weights: always among the tensors, where the first input may be a view that is not.
        found = [types.get(name) for name in re.findall(rb'"([^"\n]+)"', inputs)[:2]]
        kinds = {_PLAN_NAMES.get(kind, kind) for kind in found if kind is not None}
        products[kinds.pop() if len(kinds) == 1 else "mixed"] += 1
    if not products:
        return None
    sources = _SOURCE.findall(plan)
    return PlanCounts(
        source="kernel graph in the plan",
        graphs=profiles if products.total() % profiles == 0 else 1,
        products=dict(sorted(products.items())),
        kernels=products.total() + len(_FUNCTION.findall(plan)),
        kernel_sources=len(sources),
        source_bytes=sum(map(len, sources)),
    )


def count_inspected(layers: Sequence[Mapping[str, Any]]) -> PlanCounts:
    """Count what TensorRT's engine inspector says with detailed verbosity, one mapping per layer."""
    products: Counter[str] = Counter()
    for layer in layers:
        if not any(word in str(layer.get("LayerType", "")).lower() for word in ("conv", "gemm", "matrixmultiply")):
            continue
        formats = [str(tensor.get("Format/Datatype", "")).lower() for tensor in layer.get("Inputs", [])[:1]]
        words = (
            ("int8", "int8"),
            ("fp16", "fp16"),
            ("half", "fp16"),
            ("bf16", "bf16"),
            ("fp32", "fp32"),
            ("float", "fp32"),
        )
        products[next((name for word, name in words if formats and word in formats[0]), "unknown")] += 1
    return PlanCounts(source="engine inspector", products=dict(sorted(products.items())), kernels=len(layers))


def intended_int8(model: onnx.ModelProto) -> int:
    """Convolutions and matrix products of an ONNX file whose two inputs are dequantised int8."""
    graph = OnnxGraph(model)
    products = [node for node in graph.nodes if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm")]
    return sum(
        all(graph.maker(name, "DequantizeLinear", REARRANGING) is not None for name in node.input[:2])
        for node in products
    )


def findings_of(intended: int, network: TypedCounts, plan: PlanCounts | None) -> tuple[str, ...]:
    """Where an engine is not what its file asks for, in words."""
    found = []
    parsed = network.products.get("int8", 0)
    if parsed != intended:
        found.append(f"the file has {intended} int8 layers, the parsed network {parsed}")
    if network.fp32_islands:
        found.append(f"{len(network.fp32_islands)} operations compute in fp32: {_few(network.fp32_islands)}")
    if plan is not None:
        # Products that share an input may have become one.
        each = {kind: count // plan.graphs for kind, count in plan.products.items()}
        built = each.get("int8", 0)
        if parsed and not built:
            kinds = ", ".join(f"{count} {kind}" for kind, count in each.items())
            found.append(f"the network has {parsed} int8 layers, the built engine none ({kinds})")
        elif built < parsed:
            found.append(f"the network has {parsed} int8 layers, the built engine {built} (some may have been joined)")
        if network.products.get("fp32", 0) == 0 and plan.products.get("fp32", 0):
            found.append(f"{each['fp32']} layers of the built engine compute in fp32, none of the network does")
    return tuple(found)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
