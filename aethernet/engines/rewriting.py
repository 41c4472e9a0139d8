"""What an ONNX file is respelled to before TensorRT-RTX reads it; the results stay the same.

TensorRT-RTX 1.7 has no fp32 matrix product for Turing ("FP32 GEMM is not supported"), and fails on fp16 ones that it
means to fuse; it has convolutions, and a linear layer over the channels is a 1x1 convolution. And where every axis is
fixed it stores some 200 MB of constants into an engine for Turing (measured at 720x1280); with one axis free by one
pixel it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aethernet.engines.profiles import Profile

if TYPE_CHECKING:
    import onnx

__all__ = ["loosen", "products_to_convolutions"]


def products_to_convolutions(model: onnx.ModelProto) -> int:
    """Turn products of [N, H, W, C] with constant weights into 1x1 convolutions, in place; returns how many."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    from aethernet.graphs.editing import drop_unused_initializers, replace_nodes

    weights = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16) and len(tensor.dims) == 2
    }
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in inferred.value_info}
    make = onnx.helper.make_node
    nodes: list[onnx.NodeProto] = []
    done = 0
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights or ranks.get(node.input[0]) != 4:
            nodes.append(node)
            continue
        done += 1
        kernel = numpy_helper.to_array(weights[node.input[1]]).T[:, :, None, None]
        name, output = f"{node.input[1]}/kernel{done}", node.output[0]
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(kernel), name))
        nodes += [
            make("Transpose", [node.input[0]], [f"{output}/channels"], name=f"{node.name}/channels", perm=[0, 3, 1, 2]),
            make("Conv", [f"{output}/channels", name], [f"{output}/product"], name=node.name, kernel_shape=[1, 1]),
            make("Transpose", [f"{output}/product"], [output], name=f"{node.name}/last", perm=[0, 2, 3, 1]),
        ]
    replace_nodes(model, nodes)
    drop_unused_initializers(model)
    return done


def loosen(profiles: Sequence[Profile]) -> tuple[Profile, ...]:
    """Fixed profiles with a minimum one pixel narrower."""
    return tuple(
        profile.model_copy(update={"minimum": (*profile.minimum[:2], max(1, profile.minimum[2] - 1))})
        if profile.fixed
        else profile
        for profile in profiles
    )
