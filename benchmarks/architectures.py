"""What becomes of every architecture spandrel ships: a small network of random weights is taken through every form.

    python benchmarks/architectures.py --write docs/architectures.md      # all, one process each, takes a while
    python benchmarks/architectures.py Compact SPAN --json                # some
    python benchmarks/architectures.py --only-ncnn docs/architectures.md  # that column of a table, in one process

Random weights give images of any range, so every output is brought to [0, 1] by the range of the reference's before
the limits of a release are applied; forms are compared at four sizes, one of them a batch. int8 is calibrated on the
library's own images.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TIMEOUT = 900
SIZES = ((2, 24, 20), (1, 17, 31), (1, 64, 48), (1, 96, 128))
OPTIMUM, LARGEST = 64, 128
"""Sides of the engines' profile; fixed shapes have the first."""
CAPABILITY = "8.9"


def make(module: str, name: str, /, **options: Any) -> Callable[[], Any]:
    """What builds a network of ``spandrel.architectures.MODULE``."""
    return lambda: getattr(importlib.import_module(f"spandrel.architectures.{module}"), name)(**options)


NETWORKS: dict[str, Callable[[], Any]] = {
    "ATD": make("ATD", "ATD", embed_dim=24, depths=(2, 2), num_heads=(2, 2), window_size=8, category_size=32,
                num_tokens=16, reducted_dim=4, upscale=2, upsampler="pixelshuffledirect"),
    "AuraSR": make("AuraSR", "AuraSR", dim=16, image_size=None, input_image_size=None, unconditional=True,
                   style_network={"dim_in": 16, "dim_out": 64, "depth": 2}, skip_connect_scale=0.4),
    "CRAFT": make("CRAFT", "CRAFT", embed_dim=48, depths=[1, 1], num_heads=[2, 2], upscale=2),
    "Compact": make("Compact", "Compact", num_feat=16, num_conv=4, upscale=2),
    "DAT": make("DAT", "DAT", embed_dim=48, split_size=[8, 16], depth=[2, 2], num_heads=[2, 2], expansion_factor=2.0,
                upscale=2),
    "DCTLSA": make("DCTLSA", "DCTLSA", nf=20, num_modules=6, upscale=2, num_head=5),
    "DITN": make("DITN", "DITN", dim=12, ITL_blocks=1, SAL_blocks=1, UFONE_blocks=1, upscale=2),
    "DRCT": make("DRCT", "DRCT", embed_dim=24, depths=(1, 1), num_heads=(2, 2), window_size=16, upscale=2,
                 upsampler="pixelshuffle", gc=8),
    "DRUNet": make("DRUNet", "DRUNet", in_nc=4, out_nc=3, nc=[8, 16, 24, 32], nb=2),
    "DnCNN": make("DnCNN", "DnCNN", in_nc=3, out_nc=3, nc=16, nb=9, act_mode="R"),
    "ESRGAN": make("ESRGAN", "ESRGAN", num_filters=16, num_blocks=1, scale=2),
    "FBCNN": make("FBCNN", "FBCNN", nc=[8, 16, 24, 512], nb=2),
    "FDAT": make("FDAT", "FDAT", embed_dim=24, num_groups=1, depth_per_group=2, num_heads=2, scale=2),
    "FFTformer": make("FFTformer", "FFTformer", dim=8, num_blocks=[1, 1, 1], num_refinement_blocks=1),
    "GFPGAN": make("GFPGAN", "GFPGAN", out_size=512, num_style_feat=512, channel_multiplier=2, num_mlp=8,
                   input_is_latent=True, different_w=True, narrow=1, sft_half=True),
    "GRL": make("GRL", "GRL", img_size=64, embed_dim=24, upscale=2, upsampler="pixelshuffledirect", depths=[1, 1],
                num_heads_window=[2, 2], num_heads_stripe=[2, 2], window_size=8, stripe_size=[8, 8],
                stripe_groups=[None, None], anchor_window_down_factor=2, local_connection=False),
    "HAT": make("HAT", "HAT", embed_dim=24, depths=(1, 1), num_heads=(2, 2), window_size=8, mlp_ratio=2.0, upscale=2,
                squeeze_factor=4),
    "HVICIDNet": make("HVICIDNet", "HVICIDNet"),
    "IPT": make("IPT", "IPT", patch_size=48, n_feats=8, num_heads=2, num_layers=1, scale=[2]),
    "KBNet": make("KBNet", "KBNet_s", width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
    "LaMa": make("LaMa", "LaMa"),
    "MMRealSR": make("MMRealSR", "MMRealSR", num_in_ch=3, num_out_ch=3, scale=4, num_feat=16, num_block=1,
                     num_grow_ch=8, num_feats=[8, 8, 8, 8], num_blocks=[1, 1, 1, 1]),
    "MixDehazeNet": make("MixDehazeNet", "MixDehazeNet", embed_dims=[8, 16, 32, 16, 8]),
    "MoESR": make("MoESR", "MoESR", scale=2, dim=16, n_blocks=2, n_block=1, upsample_dim=16),
    "MoSR": make("MoSR", "MoSR", upscale=2, n_block=2, dim=16),
    "NAFNet": make("NAFNet", "NAFNet", width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
    "OmniSR": make("OmniSR", "OmniSR", num_feat=16, res_num=1, up_scale=2),
    "PLKSR": make("PLKSR", "PLKSR", dim=16, n_blocks=2, upscaling_factor=2, kernel_size=9),
    "PLKSR (RealPLKSR)": make("PLKSR", "RealPLKSR", dim=16, n_blocks=2, upscaling_factor=2, kernel_size=9),
    "RCAN": make("RCAN", "RCAN", scale=2, n_resgroups=1, n_resblocks=2, n_feats=16, reduction=4),
    "RGT": make("RGT", "RGT", embed_dim=48, depth=[2, 2], num_heads=[2, 2], split_size=[8, 8], upscale=2),
    "RealCUGAN": make("RealCUGAN", "UpCunet2x"),
    "RestoreFormer": make("RestoreFormer", "RestoreFormer"),
    "RetinexFormer": make("RetinexFormer", "RetinexFormer", n_feat=16, stage=1, num_blocks=[1, 1, 1]),
    "SAFMN": make("SAFMN", "SAFMN", dim=16, n_blocks=2, upscaling_factor=2),
    "SAFMNBCIE": make("SAFMNBCIE", "SAFMNBCIE", dim=16, n_blocks=2, num_layers=2, upscaling_factor=2),
    "SCUNet": make("SCUNet", "SCUNet", config=[1, 1, 1, 1, 1, 1, 1], dim=64),
    "SPAN": make("SPAN", "SPAN", num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2),
    "SeemoRe": make("SeemoRe", "SeemoRe", scale=2, num_experts=2, num_layers=2, embedding_dim=16),
    "SwiftSRGAN": make("SwiftSRGAN", "SwiftSRGAN", num_channels=16, num_blocks=2, upscale_factor=2),
    "Swin2SR": make("Swin2SR", "Swin2SR", embed_dim=24, depths=[2, 2], num_heads=[2, 2], window_size=8, upscale=2,
                    mlp_ratio=2.0, upsampler="pixelshuffledirect"),
    "SwinIR": make("SwinIR", "SwinIR", embed_dim=24, depths=[2, 2], num_heads=[2, 2], window_size=8, upscale=2,
                   mlp_ratio=2.0, upsampler="pixelshuffledirect"),
    "Uformer": make("Uformer", "Uformer", img_size=128, embed_dim=8, depths=[1] * 9,
                    num_heads=[1, 2, 4, 8, 8, 8, 4, 2, 1],
                    token_mlp="leff"),
}  # fmt: skip
FAST = ("Compact", "SPAN")
"""A few that say most in seconds; tests run these."""


@dataclass
class Row:
    """One architecture."""

    name: str
    purpose: str = ""
    sizes: str = ""
    reach: str = ""
    forms: dict[str, str] = field(default_factory=dict)
    """Column -> ``yes`` with a number, or ``no`` and why."""
    shapes: str = ""
    seconds: float = 0.0

    @property
    def released(self) -> bool:
        return self.forms.get("fp32", "").startswith("yes")


def random_checkpoint(name: str, path: Path) -> None:
    """A checkpoint of the architecture with random weights, such that activations neither vanish nor explode."""
    import torch

    torch.manual_seed(0)
    network = NETWORKS[name]()
    torch.save({"params": network.state_dict()}, path)


def judge_architecture(name: str, *, engines: bool = True) -> Row:
    """Take one architecture through every form."""
    import aethernet
    from aethernet.errors import AethernetError
    from aethernet.export.attempts import export_freely
    from aethernet.export.onnx import ExportConfig, ShapeRange
    from aethernet.networks.receptive_field import receptive_radius
    from aethernet.precision import Precision

    row, start = Row(name=name), time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            random_checkpoint(name, folder / "net.pth")
            loaded = aethernet.load(folder / "net.pth")
        except AethernetError as error:
            row.forms["fp32"] = f"no: {error}"
            return row
        expected = name.split(" ")[0]
        assert loaded.config.architecture == expected, f"detected as {loaded.config.architecture}"
        row.sizes = _told(loaded.config.size)
        row.purpose = f"{loaded.config.scale}x, {loaded.config.in_channels} to {loaded.config.out_channels} channels"
        model = loaded.folded
        radius = receptive_radius(model)
        row.reach = "unknown or everything" if radius is None else str(radius)
        shapes = ShapeRange(optimum=(1, OPTIMUM, OPTIMUM), maximum=(1, LARGEST, LARGEST))
        try:
            fp32, description = export_freely(model, folder, "net", ExportConfig(shapes=shapes), {})
        except AethernetError as error:
            row.forms["fp32"] = f"no: {error}"
            row.seconds = time.perf_counter() - start
            return row
        ((_, shape),) = description.inputs.values()
        static = (shape[2], shape[3]) if isinstance(shape[2], int) else None
        row.shapes = f"{'free' if static is None else 'fixed'}, opset {description.opset}"
        config = ExportConfig(opset=description.opset, static=static, shapes=shapes)
        cases = _cases(model.config, static)
        truth = _outputs(model, cases)
        row.forms["fp32"] = _judged(fp32, Precision.FP32, truth, cases)
        row.forms["fp16"] = _half(fp32, folder, config, model.config, cases, truth)
        row.forms["int8"] = _int8(model, folder, config, cases, truth)
        row.forms["ncnn"] = _ncnn(model, folder)
        if engines:
            row.forms["TensorRT-RTX"] = _engine(fp32, folder, model.config.size, static)
    row.seconds = time.perf_counter() - start
    return row


def _told(size: Any) -> str:
    words = [
        f"at least {size.minimum}" if size.minimum > 1 else "",
        f"multiples of {size.multiple}" if size.multiple > 1 else "",
        "square" if size.square else "",
    ]
    return ", ".join(word for word in words if word) or "any"


def _cases(config: Any, static: tuple[int, int] | None) -> list[np.ndarray]:
    from aethernet.images.files import load_image, sample_images

    image = load_image(sample_images()[0], 1 if config.in_channels == 1 else 3)
    image = np.repeat(image, -(-config.in_channels // image.shape[1]), axis=1)[:, : config.in_channels]
    image = np.pad(image, ((0, 0), (0, 0), (0, 512), (0, 512)), mode="reflect")
    return [
        np.concatenate([image[:, :, 20 * one :, 30 * one :][:, :, :height, :width] for one in range(batch)])
        for batch, height, width in ([(1, *static)] if static else SIZES)
    ]


def _outputs(model: Any, cases: list[np.ndarray]) -> list[np.ndarray]:
    from aethernet.runtimes.pytorch import TorchRuntime

    with TorchRuntime(model) as runtime:
        return [runtime.infer(case) for case in cases]


def _judged(path: Path, precision: Any, truth: list[np.ndarray], cases: list[np.ndarray]) -> str:
    """The release's own limits, on outputs brought to [0, 1] by the reference's range."""
    from aethernet.comparison.cases import Case
    from aethernet.comparison.compare import measure
    from aethernet.comparison.gate import DEFAULT_LIMITS, failures_of
    from aethernet.comparison.measurement import VariantId
    from aethernet.runtimes.onnxruntime import OnnxRuntime

    form = VariantId(precision=precision, file=path.name, runtime="onnxruntime-cpu")
    failures, worst, psnr = [], 0.0, 999.0
    try:
        with OnnxRuntime(path) as runtime:
            found = [runtime.infer(case) for case in cases]
    except Exception as error:
        return f"no: it cannot be run: {_short(error)}"
    for index, (case, wanted, one) in enumerate(zip(cases, truth, found, strict=True)):
        low, span = float(wanted.min()), max(1e-12, float(wanted.max() - wanted.min()))
        measurement = measure(
            form,
            Case(name=str(index), image="", input=case, window=None),
            ((wanted - low) / span).astype(np.float32),
            ((one - low) / span).astype(np.float32),
        )
        failures += failures_of(measurement, DEFAULT_LIMITS[precision])
        worst, psnr = max(worst, measurement.max_abs or 0.0), min(psnr, measurement.psnr or 999.0)
    if failures:
        return f"no: {failures[0]}"
    return f"yes, {worst:.0e}" if precision.value == "fp32" else f"yes, {psnr:.0f} dB"


def _half(fp32: Path, folder: Path, config: Any, network: Any, cases: list[np.ndarray], truth: list[np.ndarray]) -> str:
    from aethernet.export import export_fp16
    from aethernet.networks.sizes import padded
    from aethernet.precision import Precision

    path = folder / "net_fp16.onnx"
    try:
        export_fp16(
            fp32,
            path,
            config,
            {},
            [padded(case, network.size) for case in cases],
            channels=network.in_channels,
            out_channels=network.out_channels,
            size=network.size,
            scale=network.scale,
        )
    except Exception as error:
        return f"no: {_short(error)}"
    return _judged(path, Precision.FP16, truth, cases)


def _int8(model: Any, folder: Path, config: Any, cases: list[np.ndarray], truth: list[np.ndarray]) -> str:
    from aethernet.export.int8 import export_int8
    from aethernet.export.lint import lint_onnx
    from aethernet.precision import Precision
    from aethernet.quantization.post_training import quantize

    path = folder / "net_int8.onnx"
    try:
        made = quantize(model, images=[case[:1] for case in cases], keep_float=())
        export_int8(made.model, path, config, {}, tensorrt=False)
        report = lint_onnx(path)
    except Exception as error:
        return f"no: {_short(error)}"
    if not report.ok:
        return f"no: lint: {report.findings[0].message}"
    return _judged(path, Precision.INT8, truth, cases)


def _ncnn(model: Any, folder: Path) -> str:
    """Whether there is an ncnn form, and whether Upscayl has all of its layers."""
    from aethernet.export.ncnn import export_ncnn
    from aethernet.export.ncnn.programs import lint_ncnn

    try:
        files = export_ncnn(model, folder, "net")
    except Exception as error:
        return f"no: {_short(error)}"
    upscayl = next(one for one in lint_ncnn(files.param).programs if one.program.name == "Upscayl")
    return "yes" if upscayl.runs else f"yes; Upscayl lacks {', '.join(upscayl.missing)}"


def _engine(fp32: Path, folder: Path, size: Any, static: tuple[int, int] | None) -> str:
    from aethernet.engines.backends import Backend
    from aethernet.engines.builder import build_engine, plan_builds
    from aethernet.engines.profiles import parse_profile

    sides = [static or size.fit(side, side) for side in (16, OPTIMUM, LARGEST)]
    profile = ":".join(f"1x{height}x{width}" for height, width in sides)
    try:
        (plan,) = plan_builds(Backend.TENSORRT_RTX, (parse_profile(profile),), capabilities=(CAPABILITY,), timeout=300)
        build_engine(fp32, folder / "net.engine", plan)
    except Exception as error:
        return f"no: {_short(error)}"
    return "yes"


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return " ".join(lines)[:300] if lines else type(error).__name__


def table(rows: list[Row], versions: Mapping[str, str]) -> str:
    """docs/architectures.md."""
    columns = ("fp32", "fp16", "int8", "ncnn", "TensorRT-RTX")
    released = sum(row.released for row in rows)
    lines = [
        "# Architectures",
        "",
        f"What becomes of a small network of random weights of every architecture that spandrel {versions['spandrel']} "
        f"ships: **{released} of {len(rows)} release with an fp32 ONNX file.**",
        "Made by `python benchmarks/architectures.py --write docs/architectures.md`; with "
        + ", ".join(f"{name} {number}" for name, number in versions.items() if name != "spandrel")
        + ".",
        "",
        "*Sizes*: what the network takes; aethernet pads images to it and cuts the rest off. *Reach*: input pixels "
        "that an output pixel looks at in every direction, measured; tiles that overlap by it change nothing. "
        "*Shapes*: of the ONNX file; a fixed one is named in the file's name. *fp32*: largest difference to PyTorch as "
        "a share of the output's range. *fp16*, *int8*: lowest PSNR to it. Limits are those of a release, on outputs "
        "brought to [0, 1] by the reference's range. Random weights say whether a form can be made; how good int8 is "
        "with trained ones, a release measures. *TensorRT-RTX*: whether an engine was built for compute capability "
        f"{CAPABILITY} without a GPU; it was not run. *ncnn*: whether there are files that compute the same image in "
        "ncnn on the CPU, and what Upscayl's build lacks for them.",
        "",
        "| architecture | network | sizes | reach | shapes | " + " | ".join(columns) + " |",
        "|---|---|---|---|---|" + "---|" * len(columns),
    ]
    reasons = []
    for row in rows:
        cells = []
        for column in columns:
            text = row.forms.get(column, "–")
            if text.startswith("no: "):
                reasons.append(f"- **{row.name}, {column}:** {_plain(text[4:])}")
                text = "no"
            cells.append(text)
        lines.append(f"| {row.name} | {row.purpose} | {row.sizes} | {row.reach} | {row.shapes} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "## Why not", "", *reasons, ""])


def with_ncnn(page: str, told: Mapping[str, str]) -> str:
    """The table with its column ncnn, before the last one, as in ``told``; all else stays."""
    lines = page.splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("| architecture |"))
    there = " ncnn |" in lines[head]
    kept = []
    for index, line in enumerate(lines):
        if line.startswith("- **") and ", ncnn:**" in line:
            continue
        if index >= head and line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            text = told.get(cells[0], "–").partition(": ")[0]
            mine = "ncnn" if index == head else "---" if index == head + 1 else text
            cells[-2 if there else -1 :] = [mine, cells[-1]]
            line = "|---" * len(cells) + "|" if index == head + 1 else f"| {' | '.join(cells)} |"
        kept.append(line)
    reasons = [line for line in kept if line.startswith("- **")]
    new = [f"- **{name}, ncnn:** {_plain(text[4:])}" for name, text in told.items() if text.startswith("no: ")]
    kept = [line for line in kept if line not in reasons]
    return "\n".join([*kept, *sorted([*reasons, *new], key=str.lower)]).rstrip() + "\n"


def _only_ncnn(names: Iterable[str]) -> dict[str, str]:
    """Architecture -> what becomes of its ncnn form."""
    import aethernet
    from aethernet.errors import AethernetError

    told = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                random_checkpoint(name, Path(folder) / "net.pth")
                told[name] = _ncnn(aethernet.load(Path(folder) / "net.pth").folded, Path(folder))
            except AethernetError as error:
                told[name] = f"no: {error}"
        print(f"{name}: {told[name]}", file=sys.stderr, flush=True)
    return told


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "/").replace("<", "‹").replace(">", "›").split())[:700]


def _in_child(name: str) -> Row:
    """One architecture in a process of its own, which may crash, hang or take all memory."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as sink:
            try:
                done = subprocess.run(
                    [sys.executable, __file__, name, "--json", "--here"],
                    stdout=subprocess.PIPE,
                    stderr=sink,
                    timeout=TIMEOUT,
                    text=True,
                    check=False,
                    env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
                )
            except subprocess.TimeoutExpired:
                return Row(name=name, forms={"fp32": f"no: it took longer than {TIMEOUT} s"})
        if done.returncode:
            last = log.read_text(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
            return Row(name=name, forms={"fp32": f"no: {last[-1]}"})
        return Row(**json.loads(done.stdout)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NETWORKS)}; default: all")
    parser.add_argument("--write", type=Path, help="Markdown file for the table")
    parser.add_argument("--json", action="store_true", help="print results as JSON")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--rows", type=Path, help="folder to keep results in, and to take those that are there from")
    parser.add_argument("--only-ncnn", type=Path, metavar="FILE", help="Markdown file whose column ncnn is made anew")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(NETWORKS))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    if options.only_ncnn:
        told = _only_ncnn(options.names or NETWORKS)
        options.only_ncnn.write_text(with_ncnn(options.only_ncnn.read_text(encoding="utf-8"), told), encoding="utf-8")
        return
    rows: list[Row] = []

    def one(name: str) -> Row:
        kept = options.rows and options.rows / f"{name}.json"
        if kept and kept.is_file():
            return Row(**json.loads(kept.read_text(encoding="utf-8")))
        row = judge_architecture(name) if options.here else _in_child(name)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(asdict(row)), encoding="utf-8")
        return row

    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(one, options.names or NETWORKS):
            rows.append(row)
            print(f"{row.name}: {row.forms} {row.seconds:.0f} s", file=sys.stderr)
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    if options.write:
        from importlib.metadata import version

        versions = {name: version(name) for name in ("spandrel", "torch", "onnxscript", "onnxruntime")}
        options.write.write_text(table(rows, versions), encoding="utf-8")


if __name__ == "__main__":
    main()
