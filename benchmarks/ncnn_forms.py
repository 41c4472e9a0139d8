"""The ncnn form of one network of every kind: size, difference to PyTorch on the CPU and through Vulkan, programs.

    python benchmarks/ncnn_forms.py --data FOLDER --write docs/ncnn.md

Trained weights are taken where there are some: the sample's, which lie in this repository, and of ``--data`` a folder
with ``aether_small_2x/net_g_qat.pth`` (generation 1) and ``realesrgan/realesr-animevideov3.pth`` (Compact). All other
networks have random weights, from seed 0, and show what can be made and run, not what trained ones would lose.

Two inputs: a piece of a photograph, 40x48, and uniform noise, 17x31. Beside Vulkan stands an independent measurement of
what fp16 costs, made in PyTorch without ncnn: weights and every layer's output rounded to fp16, and every sum of a
convolution added up one product after the other in fp16, as a program may that computes in fp16 and not only stores it.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE = Path(__file__).resolve().parents[1] / "releases/aether_tiny_2x/aether_tiny_2x.safetensors"
MARK = "<!-- made by benchmarks/ncnn_forms.py -->"


def networks(data: Path | None) -> Iterator[tuple[str, bool, Callable[[Path], Path]]]:
    """Name, whether its weights are trained, and what gives its checkpoint."""
    import torch
    from architectures import NETWORKS

    def random(name: str) -> Callable[[Path], Path]:
        def make(path: Path) -> Path:
            torch.manual_seed(0)
            torch.save({"params": NETWORKS[name]().state_dict()}, path)
            return path

        return make

    yield "AetherNet 2 tiny, 2x (the sample)", True, lambda _: SAMPLE
    if data is not None:
        yield "AetherNet 1 small, 2x", True, lambda _: data / "aether_small_2x/net_g_qat.pth"
        yield "AetherNet 3 (its author's file)", False, lambda _: data / "turn2/author_gen3.pth"
        yield "Compact, 4x (realesr-animevideov3)", True, lambda _: data / "realesrgan/realesr-animevideov3.pth"
    for name in ("ESRGAN", "SPAN", "PLKSR (RealPLKSR)", "SwinIR"):
        yield f"{name}, small, 2x", False, random(name)


def inputs() -> list[np.ndarray]:
    """[1, 3, H, W] float32."""
    from aethernet.images.files import load_image, sample_images

    noise = np.random.default_rng(0).random((1, 3, 17, 31), dtype=np.float32)
    return [np.ascontiguousarray(load_image(sample_images()[0], 3)[:, :, 30:70, 40:88]), noise]


def in_halves(model: Any) -> Any:
    """A copy of a network that computes as if there were nothing but fp16, sums of convolutions included."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def rounded(x: Any) -> Any:
        return x.half().float()

    def convolve(conv: nn.Conv2d, x: Any) -> Any:
        sides: Any = conv.padding
        padded = F.pad(x, [side for side in reversed(sides) for _ in range(2)])
        columns = F.unfold(padded, conv.kernel_size, conv.dilation, 0, conv.stride)
        batch, _, places = columns.shape
        columns = columns.reshape(batch, conv.groups, -1, places)
        weight = conv.weight.reshape(conv.groups, conv.out_channels // conv.groups, -1)
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
        total = bias.reshape(1, conv.groups, -1, 1).expand(batch, -1, -1, places)
        for one in range(weight.shape[2]):
            total = rounded(total + rounded(weight[None, :, :, one, None] * columns[:, :, None, one]))
        height = (padded.shape[2] - conv.dilation[0] * (conv.kernel_size[0] - 1) - 1) // conv.stride[0] + 1
        return total.reshape(batch, conv.out_channels, height, -1)

    def replace(*found: Any) -> Any:
        return rounded(found[-1]) if isinstance(found[-1], torch.Tensor) else found[-1]

    halves = copy.deepcopy(model).eval()
    with torch.no_grad():
        for tensor in halves.parameters():
            tensor.copy_(rounded(tensor))
    for module in halves.modules():
        if isinstance(module, nn.Conv2d):
            assert not isinstance(module.padding, str)
            assert module.padding_mode == "zeros"
            module.forward = partial(convolve, module)  # type: ignore[method-assign]
        if not list(module.children()):
            module.register_forward_hook(replace)
    return halves


def differences(runtime: Any, truth: list[np.ndarray], trained: bool) -> str:
    """Largest difference, lowest PSNR, most levels over all inputs."""
    from aethernet.comparison.cases import Case
    from aethernet.comparison.compare import measure
    from aethernet.comparison.measurement import VariantId
    from aethernet.precision import Precision

    form = VariantId(precision=Precision.FP16, file="file", runtime="runtime")
    found = []
    with runtime as opened:
        for case, wanted in zip(inputs(), truth, strict=True):
            low, span = (0.0, 1.0) if trained else (float(wanted.min()), float(np.ptp(wanted)))
            pair = [((array - low) / span).astype(np.float32) for array in (wanted, opened.infer(case))]
            found.append(measure(form, Case(name="case", image="", input=case, window=None), *pair))
    largest, level = max(one.max_abs or 0 for one in found), max(one.levels_largest or 0 for one in found)
    return f"{largest:.1e}, {min(one.psnr or 999 for one in found):.0f} dB, {level}"


def row(name: str, trained: bool, path: Path, folder: Path) -> tuple[str, str]:
    """A line of the table, and one on why there is no form (or nothing)."""
    import aethernet
    from aethernet.errors import ExportError
    from aethernet.export.ncnn import export_ncnn
    from aethernet.export.ncnn.programs import lint_ncnn
    from aethernet.runtimes.ncnn import NcnnRuntime, vulkan_devices
    from aethernet.runtimes.pytorch import TorchRuntime

    model = aethernet.load(path).folded
    with TorchRuntime(model) as pytorch:
        truth = [pytorch.infer(case) for case in inputs()]
    try:
        files = export_ncnn(model, folder, "net")
    except ExportError as error:
        return f"| {name} | – | no | – | – | – |", f"**{name}:** {error}"
    told = [differences(NcnnRuntime(files.param), truth, trained)]
    told.append(differences(NcnnRuntime(files.param, vulkan=True), truth, trained) if vulkan_devices() else "no device")
    told.append(differences(TorchRuntime(in_halves(model)), truth, trained))
    lacks = []
    for one in lint_ncnn(files.param).programs:
        if one.program.blobs in ((), ("data", "output")):
            lacks.append(f"{one.program.name}: {', '.join(one.missing) or 'runs'}")
    size = f"{(files.param.stat().st_size + files.weights.stat().st_size) / 1e3:.0f} kB"
    return f"| {name}{'' if trained else ', random weights'} | {size} | {' | '.join(told)} | {'; '.join(lacks)} |", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with trained checkpoints; without it, those rows are missing")
    parser.add_argument("--write", type=Path, help="Markdown file; what stands below its mark is replaced")
    options = parser.parse_args()
    rows, reasons = [], []
    for name, trained, make in networks(options.data):
        with tempfile.TemporaryDirectory() as scratch:
            line, reason = row(name, trained, make(Path(scratch) / "net.pth"), Path(scratch))
        print(line, reason, file=sys.stderr, flush=True)
        rows.append(line)
        reasons += [reason, ""] if reason else []
    text = "\n".join([*conditions(), "", *HEAD, *rows, "", *reasons]).rstrip() + "\n"
    if options.write:
        page = options.write.read_text(encoding="utf-8").partition(MARK)[0]
        options.write.write_text(f"{page}{MARK}\n{text}", encoding="utf-8")
    else:
        print(text)


HEAD = (
    "| network | both files | CPU | Vulkan, fp16 | fp16 in PyTorch | layers that programs lack |",
    "|---|---|---|---|---|---|",
)


def conditions() -> list[str]:
    """What the numbers hold for."""
    from importlib.metadata import version

    from aethernet.host import describe_host
    from aethernet.runtimes.ncnn import vulkan_devices

    device = min(vulkan_devices(), key=lambda one: (one.software, one.index), default=None)
    tools = ", ".join(f"{name} {version(name)}" for name in ("ncnn", "torch", "onnxscript", "spandrel"))
    where = f"{describe_host()['processor']}; Vulkan: {device.name if device else 'none'}"
    return [f"{datetime.now(UTC):%-d %B %Y}; {tools}; {where}."]


if __name__ == "__main__":
    main()
