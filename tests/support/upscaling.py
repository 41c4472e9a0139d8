"""A release whose network is known exactly, so that what comes out of an upscaler can be told beforehand.

Its network smooths a little and doubles: flat areas keep their value to the last bit, and every output pixel looks at
its neighbours, so that a tile cut without margin shows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from aethernet.artifact import Artifact
from aethernet.comparison.gate import Limits
from aethernet.networks import NetworkConfig
from aethernet.precision import Precision
from aethernet.release.assembly import assemble_bundle
from aethernet.release.manifest import (
    BuildRecord,
    CheckpointFacts,
    Conditions,
    FileEntry,
    FormStatus,
    Manifest,
    NetworkFacts,
    SpeedRun,
    identity_of,
)
from tests.support.networks import tiny_config

__all__ = ["doubled", "smoothing_bundle"]

CORNER = np.array([[1, 2, 1], [2, 9, 2], [1, 2, 1]], dtype=np.float32) / 21
"""What an output pixel is of the nine around it; tilted for each of the four. 21 is odd: no sum is between levels."""


def _kernels() -> np.ndarray:
    tilts = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    kernels = []
    for down, right in tilts:
        kernel = CORNER.copy()
        kernel[1 + down, 1 + right] += 2 / 21
        kernel[1 - down, 1 - right] -= 1 / 21
        kernel[1, 1] -= 1 / 21
        kernels.append(kernel)
    return np.stack(kernels)


def doubled(picture: np.ndarray) -> np.ndarray:
    """[H, W] floats -> [2H, 2W]: the network's own sum, written out; the border is repeated outwards."""
    padded = np.pad(picture, 1, mode="edge")
    height, width = picture.shape
    result = np.zeros((2 * height, 2 * width))
    for index, kernel in enumerate(_kernels()):
        part = sum(
            kernel[y, x] * padded[y : y + height, x : x + width].astype(np.float64) for y in range(3) for x in range(3)
        )
        result[index // 2 :: 2, index % 2 :: 2] = part
    return result


def _network(path: Path, channels: int, *, broken_above: float | None) -> None:
    """The same as ONNX. With ``broken_above``, brighter inputs make it answer with infinity."""
    weights = np.zeros((4 * channels, channels, 3, 3), dtype=np.float32)
    for corner, kernel in enumerate(_kernels()):
        for channel in range(channels):
            weights[corner * channels + channel, channel] = kernel
    constants = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1], dtype=np.int64), "pads"),
    ]
    nodes = [
        helper.make_node("Pad", ["input", "pads"], ["padded"], mode="edge"),
        helper.make_node("Conv", ["padded", "weights"], ["corners"]),
        helper.make_node("DepthToSpace", ["corners"], ["larger"], blocksize=2, mode="DCR"),
    ]
    if broken_above is None:
        nodes[-1].output[0] = "output"
    else:
        constants.append(numpy_helper.from_array(np.array(broken_above, dtype=np.float32), "limit"))
        constants.append(numpy_helper.from_array(np.array(np.inf, dtype=np.float32), "infinity"))
        nodes += [
            helper.make_node("Greater", ["larger", "limit"], ["bright"]),
            helper.make_node("Where", ["bright", "infinity", "larger"], ["output"]),
        ]
    graph = helper.make_graph(
        nodes,
        "smoothing",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", channels, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", channels, "2*h", "2*w"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def smoothing_bundle(
    folder: Path, *, channels: int = 3, pools: bool = False, broken_above: float | None = None
) -> Path:
    """A release folder of that network.

    Args:
        folder: Where ``smoothing_2x`` is put.
        channels: 3 or 1.
        pools: Say that the network pools over the whole picture.
        broken_above: Also release an fp16 form (stored as fp32) that answers with infinity for brighter inputs.
    """
    config: NetworkConfig = tiny_config(
        2, embed_dim=8, depths=(1,), large_kernel=3, in_channels=channels, channel_attention=pools
    )
    files = {}
    for precision in (Precision.FP32, Precision.FP16)[: 1 if broken_above is None else 2]:
        name = f"smoothing_2x_{precision}.onnx"
        _network(folder / name, channels, broken_above=broken_above if precision is Precision.FP16 else None)
        files[name] = (folder / name, precision)
    entries = []
    for name, (path, precision) in files.items():
        artifact = Artifact.of(path)
        entries.append(
            FileEntry(path=name, sha256=artifact.sha256, size=artifact.size, role="onnx", precision=precision)
        )
    none = "0" * 64
    manifest = Manifest(
        name="smoothing_2x",
        version="1.0.0",
        description="A network for tests.",
        authors=(),
        license="CC0-1.0",
        trained_on="Nothing.",
        identity=identity_of(tuple(entries)),
        network=NetworkFacts(
            preset="custom",
            config=config.to_json(),
            parameters=0,
            receptive_radius=config.receptive_radius,
            pools_globally=pools,
            nodes_unfused=3,
            nodes_fused=3,
        ),
        checkpoint=CheckpointFacts(
            file="none.pth",
            sha256=none,
            size=0,
            format="pytorch",
            form="fused",
            stored_dtype="float32",
            quantization_records=0,
            notes=(),
        ),
        toolchain={},
        files=tuple(entries),
        forms=tuple(FormStatus(precision=precision, status="released") for _, precision in files.values()),
        required=(Precision.FP32,),
        limits={precision: Limits() for _, precision in files.values()},
        conditions=Conditions(pictures=(), host={}),
        measurements=(),
        quality=(),
    )
    speed = SpeedRun(shape=(1, channels, 16, 16), runs=1, threads=1, speeds=())
    build = BuildRecord(identity=manifest.identity, created="2026-11-21T00:00:00Z", host={}, run={}, speed=speed)
    bundle = folder / "smoothing_2x"
    assemble_bundle(
        bundle,
        manifest,
        build,
        {"README.md": b"# A network for tests\n"},
        {name: path for name, (path, _) in files.items()},
    )
    return bundle
