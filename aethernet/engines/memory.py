"""How much GPU memory an engine will ask for at the largest shape of a profile: an estimate from the ONNX graph.

TensorRT allocates for a profile's maximum, whatever is run. The estimate walks the graph in order and adds up what is
alive at once; operations that TensorRT fuses with their neighbours (elementwise, layout, normalisation, quantisation)
overwrite what they read. Kernels' workspace is not in it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from aethernet.engines.backends import Gpu
from aethernet.engines.profiles import Profile
from aethernet.errors import EngineError, UsageError

if TYPE_CHECKING:
    import onnx

__all__ = ["LARGEST_CARD", "estimate_memory", "require_memory"]

LARGEST_CARD = 96 * 2**30
"""Memory of the largest card an engine built without a GPU could meet (RTX PRO 6000), in bytes."""

_MATERIALISED = ("Conv", "MatMul", "Gemm", "ConvTranspose", "Concat", "ReduceMean", "GlobalAveragePool")
"""Operations that need what they read and what they write at the same time."""


def estimate_memory(model: onnx.ModelProto, profile: Profile) -> int:
    """Bytes for activations, pictures and weights at the profile's maximum.

    Raises:
        EngineError: Shapes do not follow from the graph.
    """
    sizes = _tensor_bytes(model, profile.maximum)
    left = Counter(name for node in model.graph.node for name in node.input)
    left.update(value.name for value in model.graph.output)
    alive = {value.name: sizes.get(value.name, 0) for value in model.graph.input}
    peak = 0
    for node in model.graph.node:
        made = {name: sizes.get(name, 0) for name in node.output}
        if node.op_type in _MATERIALISED:
            peak = max(peak, sum(alive.values()) + sum(made.values()))
        left.subtract(node.input)
        alive = {name: size for name, size in alive.items() if left[name] > 0} | made
        peak = max(peak, sum(alive.values()))
    return peak + sum(int(tensor.ByteSize()) for tensor in model.graph.initializer)


def _tensor_bytes(model: onnx.ModelProto, shape: tuple[int, int, int]) -> dict[str, int]:
    """Name -> bytes of every tensor whose shape follows from the input's."""
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    axes = fixed.graph.input[0].type.tensor_type.shape.dim
    for index, size in zip((0, 2, 3), shape, strict=True):
        axes[index].dim_value = size
    try:
        graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise EngineError(f"the memory of an engine could not be estimated: {error}") from error
    sizes = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        count = 1
        for axis in tensor.shape.dim:
            count *= axis.dim_value or 1
        sizes[value.name] = count * tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    return sizes


def require_memory(estimates: dict[str, int], gpu: Gpu | None, limit: int | None) -> None:
    """Refuse profiles whose maximum cannot fit.

    Args:
        estimates: Profile -> bytes.
        gpu: The card it is built for, where there is one.
        limit: Bytes that must be enough, instead of the card's.

    Raises:
        UsageError: Lists every profile that asks for more.
    """
    allowed = limit or (gpu.memory if gpu else LARGEST_CARD)
    whose = "were allowed" if limit else f"{gpu.name} has" if gpu else "the largest card has"
    over = [f"{name} needs about {size / 2**30:.1f} GiB" for name, size in estimates.items() if size > allowed]
    if over:
        raise UsageError(
            f"expected profiles that fit into the {allowed / 2**30:.1f} GiB that {whose}, found: {'; '.join(over)}",
            hint="lower the maximum with --profile MIN:OPT:MAX, or upscale in tiles with --profile tile",
        )
