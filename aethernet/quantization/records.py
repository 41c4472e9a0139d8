"""Ranges from a checkpoint's own records of quantisation-aware training, carried over to the fused network.

Records come as fake-quantise modules, as plain observers, mixed, or as the scales of a converted int8 file; all of them
become a range of real values here, and our grid is laid over that range. What training saw as unsigned, or in 7 bits,
does not matter any more then. Weights need no record: after fusion they are other numbers, and their grid follows from
themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aethernet.networks.generation1 import AetherNet1
from aethernet.quantization.recorded import QuantizationRecords
from aethernet.quantization.structure import quantizers_of

if TYPE_CHECKING:
    from torch import Tensor

    from aethernet.networks import AetherNet

__all__ = ["QuantizationRecords", "Range", "recorded_ranges", "usable_records"]

Range = tuple[float, float]
"""Smallest and largest value."""

_OBSERVER = ".activation_post_process"


def usable_records(records: QuantizationRecords) -> dict[str, Range]:
    """Module name in the checkpoint -> the range recorded for its output; records without data are left out."""
    tensors = records.tensors
    points = [
        _number(tensor) for name, tensor in tensors.items() if name.endswith(".zero_point") and "weight" not in name
    ]
    # PyTorch's x86 default leaves one of eight bits unused; zero-points show it: they lie near the middle of the grid.
    highest = 127 if all(point is not None and point <= 127 for point in points) else 255
    found: dict[str, Range] = {}
    modules = sorted({name.split(_OBSERVER)[0] for name in tensors if _OBSERVER in name and "weight_fake" not in name})
    for module in modules:
        places = (f"{module}{_OBSERVER}{_OBSERVER}", f"{module}{_OBSERVER}")
        for place in places:
            observed = _range(tensors.get(f"{place}.min_val"), tensors.get(f"{place}.max_val"))
            if observed is not None:
                found[module] = observed
                break
        else:
            if not any(
                f"{place}.min_val" in tensors for place in places
            ):  # an idle observer's scale is its initial one
                found |= _from_scale(tensors, module, places[1], highest)
    if records.origin == "converted":
        for name in tensors:
            if name.endswith(".scale") and _OBSERVER not in name:
                module = name.removesuffix(".scale")
                found |= _from_scale(tensors, module, module, highest)
    return found


def _from_scale(tensors: dict[str, Tensor], module: str, place: str, highest: int) -> dict[str, Range]:
    scale, point = (_number(tensors.get(f"{place}.{name}")) for name in ("scale", "zero_point"))
    if scale is None or point is None or not 0 < scale < math.inf:
        return {}
    return {module: (-point * scale, (highest - point) * scale)}


def _number(tensor: Tensor | None) -> float | None:
    return float(tensor.reshape(-1)[0]) if tensor is not None and tensor.numel() == 1 else None


def _range(low: Tensor | None, high: Tensor | None) -> Range | None:
    smallest, largest = _number(low), _number(high)
    if smallest is None or largest is None or not math.isfinite(smallest) or not math.isfinite(largest):
        return None  # an observer that never saw data holds (+inf, -inf)
    return (smallest, largest) if smallest < largest else None


def recorded_ranges(
    records: QuantizationRecords, network: AetherNet, slopes: dict[str, float]
) -> dict[str, tuple[Range, str]]:
    """Name of a quantiser in the restructured network -> its range and the records it comes from.

    Args:
        records: Of the checkpoint.
        network: From :func:`aethernet.quantization.structure.restructure`.
        slopes: Generation 1: unit -> slope folded into its gate.
    """
    known = usable_records(records)
    pairs = _pairs1 if isinstance(network, AetherNet1) else _pairs2
    names, quantizers = [name for name, _ in network.named_modules()], quantizers_of(network)
    found: dict[str, tuple[Range, str]] = {}
    for quantizer, sources, unit in pairs(names, network.config.generation):
        ranges = [known[source] for source in sources if source in known]
        if quantizer in quantizers and len(ranges) == len(sources):
            gain = slopes.get(unit, 1.0)
            low, high = min(low for low, _ in ranges) * gain, max(high for _, high in ranges) * gain
            found[quantizer] = ((low, high), ", ".join(sources))
    return found


def _pairs1(names: list[str], _generation: int) -> Iterator[tuple[str, list[str], str]]:
    for unit in [name for name in names if re.fullmatch(r"layers\.\d+\.\d+\.ffn", name)]:
        block = unit.removesuffix(".ffn")
        yield f"{unit}.input", [f"{block}.norm"], ""
        yield f"{unit}.conv_gate.output", [f"{unit}.fc1_gate"], unit
        yield f"{unit}.conv_main.output", [f"{unit}.fc1_main"], ""
    yield "conv_after_body.input", ["norm"], ""
    yield from _tail_pairs(names, "upsample")


def _pairs2(names: list[str], generation: int) -> Iterator[tuple[str, list[str], str]]:
    units = [name for name in names if re.fullmatch(r"stages\.\d+\.\d+\.ffn", name)]
    for unit in units:
        block = unit.removesuffix(".ffn")
        yield f"{unit}.input", [f"{block}.norm_quant"], ""
        # The temperature is folded into the gate's convolution, so the range after it counts.
        yield f"{unit}.conv_gate.output", [f"{unit}.temp_quant"], ""
        yield f"{unit}.conv_main.output", [f"{unit}.conv_main"], ""
        yield f"{unit}.product", [f"{unit}.quant_mul"], ""
    shares = sorted({name.split(".")[1] for name in names if name.startswith("fusion_convs.")}, key=int)
    for share in shares:
        blocks = [unit.removesuffix(".ffn") for unit in units if unit.split(".")[1] == share]
        if blocks:
            yield f"fusion_convs.{share}.input", [f"{blocks[-1]}.quant_add"], ""
    fusion = "quant_fusion_layer.fusion_conv"
    joined = f"{fusion}.input" if len(shares) > 1 else "fusion_convs.0.output"
    yield joined, [f"fusion_convs.{share}" for share in shares], ""
    # Generation 3 folds the body's norm into the fusion, generation 2 puts it before conv_after_body.
    yield f"{fusion}.output", [fusion if generation == 2 else "body_norm_quant"], ""
    if generation == 2:
        yield "conv_after_body.input", ["body_norm_quant"], ""
    yield from _tail_pairs(names, "upsample.blocks")


def _tail_pairs(names: list[str], prefix: str) -> Iterator[tuple[str, list[str], str]]:
    yield "conv_after_body.output", ["conv_after_body"], ""
    yield "conv_before_upsample.0.output", ["conv_before_upsample.0"], ""
    yield "conv_before_upsample.2", ["conv_before_upsample.1"], ""
    for name in names:
        if re.fullmatch(rf"{re.escape(prefix)}\.\d+", name):
            yield f"{name}.output", [name], ""
