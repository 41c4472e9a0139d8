"""What quantising each part of a network gains: time per part in ONNX Runtime, fp32 and int8 side by side.

Both graphs run whole, in turn, at one size, under ONNX Runtime's own profiler, so every part is timed as it ships: with
the shapes, layouts and merged kernels it has inside the network. Each kernel's time goes to the part whose module the
exporter recorded for it. Kernels that ONNX Runtime's optimiser put in between (reorders, conversions) go to the part
they touch; everything else stands under no part.
"""

from __future__ import annotations

import ast
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aethernet.export.int8 import respell_unsigned, trace_int8
from aethernet.export.onnx import ExportConfig, at_opset, finish_model, trace_to_onnx
from aethernet.precision import Precision
from aethernet.quantization.sensitivity import UnitTimes
from aethernet.quantization.structure import belongs, units_of

if TYPE_CHECKING:
    import onnx

    from aethernet.images.files import ImageArray
    from aethernet.networks.network import Network

__all__ = ["owners", "time_units"]

_MARK = "@"
_SCOPES = "pkg.torch.onnx.name_scopes"
_CARRIERS = ("DequantizeLinear", "QuantizeLinear", "ReorderInput", "ReorderOutput", "Reshape", "Transpose")
"""Kernels that compute nothing: they are there because a neighbour wants another layout or type."""


def time_units(fused: Network, network: Network, picture: ImageArray, *, runs: int = 9, threads: int = 0) -> UnitTimes:
    """Time every part of ``fused`` beside the same part of ``network``.

    Args:
        fused: The float network.
        network: The int8 network, every part quantised.
        picture: [N, C, H, W] float32 in [0, 1].
        runs: Counted runs of each, after one that is not counted.
        threads: Of ONNX Runtime; 0 lets it choose.

    Raises:
        ExportError: The exporter failed.
    """
    units, config = units_of(fused), ExportConfig()
    plain, quantised = trace_to_onnx(fused, config), at_opset(trace_int8(network, config), config.opset)
    for proto in (plain, quantised):
        _mark(proto, units)
    respell_unsigned(quantised)
    with tempfile.TemporaryDirectory() as folder:
        profiled = []
        for precision, proto in ((Precision.FP32, plain), (Precision.INT8, quantised)):
            finish_model(proto, config, precision, fused.config.scale, {})
            profiled.append(_Profiled(proto, Path(folder) / precision.value, threads))
        for _ in range(runs + 1):
            for one in profiled:
                one.session.run(None, {"input": picture})
        first, second = (one.finish(units, runs) for one in profiled)
    return UnitTimes(
        units={unit: (first[unit], second[unit]) for unit in units},
        elsewhere=(first[None], second[None]),
        total=(sum(first.values()), sum(second.values())),
        shape=picture.shape,
        runs=runs,
        threads=threads,
    )


def _mark(proto: onnx.ModelProto, units: Sequence[str]) -> None:
    """Put the unit in front of the names of its nodes and of what they give, in place: optimisers pass names on."""
    outputs = {output.name for output in proto.graph.output}
    renamed: dict[str, str] = {}
    for node in proto.graph.node:
        entry = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), None)
        scopes = ast.literal_eval(entry)[:-1] if entry else []
        unit = next((unit for unit in units if any(belongs(scope, unit) for scope in scopes)), None)
        if unit is not None:
            node.name = f"{unit}{_MARK}{node.name}"
            renamed |= {name: f"{unit}{_MARK}{name}" for name in node.output if name not in outputs}
    for node in proto.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]


class _Profiled:
    """A session that writes down how long each kernel took."""

    def __init__(self, proto: onnx.ModelProto, place: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(place)
        self.optimized = place.with_suffix(".onnx")
        options.optimized_model_filepath = str(self.optimized)
        self.session: Any = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def finish(self, units: Sequence[str], runs: int) -> dict[str | None, float]:
        """Unit (None for no unit) -> milliseconds, median over the last ``runs`` runs."""
        import onnx

        events = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        suffix = "_kernel_time"
        kernels = [one for one in events if one.get("cat") == "Node" and one["name"].endswith(suffix)]
        kernels.sort(key=lambda one: one["ts"])
        per_run = len(kernels) // (runs + 1)
        owner = owners(onnx.load(str(self.optimized)).graph.node, units)
        sums: list[dict[str | None, float]] = []
        for start in range(per_run, len(kernels), per_run):
            total: dict[str | None, float] = defaultdict(float)
            for one in kernels[start : start + per_run]:
                total[owner.get(one["name"].removesuffix(suffix))] += one["dur"] / 1000
            sums.append(total)
        return {unit: statistics.median(total[unit] for total in sums) for unit in (*units, None)}


def owners(nodes: Iterable[onnx.NodeProto], units: Sequence[str]) -> dict[str, str | None]:
    """Node -> unit, in a graph whose marked names an optimiser has carried along; None for no unit."""
    nodes = list(nodes)
    makers = {name: node.name for node in nodes for name in node.output if name}
    before = {node.name: {makers[name] for name in node.input if name in makers} for node in nodes}
    after: dict[str, set[str]] = {node.name: set() for node in nodes}
    for name, sources in before.items():
        for source in sources:
            after[source].add(name)
    owner: dict[str, str | None] = {}
    for node in nodes:
        marks = {name.partition(_MARK)[0] for name in (node.name, *node.output) if _MARK in name}
        owner[node.name] = next((unit for unit in units if unit in marks), None)
    # Methods called past a module leave no scope: what lies between two nodes of a unit is the unit's.
    for unit in units:
        marked = {name for name, one in owner.items() if one == unit}
        for name in _reached(marked, after.__getitem__) & _reached(marked, before.__getitem__):
            owner[name] = owner[name] or unit
    carriers = [node.name for node in nodes if node.op_type in _CARRIERS]
    changed = True
    while changed:
        changed = False
        for name in carriers:
            if owner[name] is None:
                neighbours = [owner[one] for one in (*sorted(after[name]), *sorted(before[name]))]
                owner[name] = next((unit for unit in neighbours if unit is not None), None)
                changed |= owner[name] is not None
    return owner


def _reached(start: set[str], step: Callable[[str], set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        fresh = step(waiting.pop()) - seen
        seen |= fresh
        waiting += fresh
    return seen
