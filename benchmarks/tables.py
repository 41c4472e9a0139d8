"""The tables of ``docs/benchmarks.md`` for this machine, as Markdown. Run with ``make benchmark``.

Whole releases of the sample, cold and unchanged; then every form of it side by side, and its quality. ``--bundle``,
``--hr`` and ``--lr`` take another release and its images for the last two, and ``--quick`` leaves out the first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "releases" / "aether_tiny_2x"


def output_of(*command: object) -> Any:
    """JSON that a command of ours prints."""
    finished = subprocess.run([sys.executable, *map(str, command)], stdout=subprocess.PIPE, cwd=ROOT, check=True)
    return json.loads(finished.stdout)


def aethernet(*arguments: object) -> Any:
    return output_of("-c", "from aethernet.cli.main import main; main()", *arguments, "--json")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def releases() -> Iterator[str]:
    found = output_of(ROOT / "benchmarks" / "release.py", "--json")
    rows = []
    for one in found["releases"]:
        cold, unchanged, peak = one["cold"], one["unchanged"], one["peak_memory_of_any_process_so_far"]
        steps = unchanged["steps_ran"], unchanged["steps_ran"] + unchanged["steps_unchanged"]
        again = f"{unchanged['seconds']} s, {steps[0]} of {steps[1]} steps run"
        rows.append([one["release"], f"{cold['seconds']} s", again, f"{peak / 1e9:.2f} GB"])
    yield "## Whole releases\n"
    yield table(["release", "cold", "the same command again", "largest process so far"], rows)


def forms(bundle: Path, sizes: str, seconds: float) -> Iterator[str]:
    found = aethernet("benchmark", bundle, "--sizes", sizes, "--seconds", seconds)
    tools = ", ".join(f"{name} {found['toolchain'][name]}" for name in ("onnxruntime", "openvino", "torch", "python"))
    host = found["host"]
    yield f"## Forms of {found['release']['name']} {found['release']['version']} side by side\n"
    yield f"{host.get('processor')}, {host.get('system')}, {found['threads']} threads each, {tools}.\n"
    rows = [
        [
            *(size["size"], one["name"], str(one["runs"]), f"{one['median_ms']:.1f} ms"),
            f"{one['fastest_ms']:.1f} – {one['slowest_ms']:.1f} ms",
            f"{one['megapixels_per_second']:.3g}",
            "–" if one["times_fp32"] is None else f"{one['times_fp32']:.2f}",
            "–" if one["peak_memory_mb"] is None else f"{one['peak_memory_mb']:.0f} MB",
            f"{one['load_ms']:.0f} ms",
        ]
        for size in found["sizes"]
        for one in size["results"]
    ]
    heads = ["size", "form", "runs", "median", "spread", "MP/s", "times fp32", "memory", "load"]
    yield table(heads, rows)
    for one in found["skipped"]:
        yield f"{one['name']} {one['reason']}.\n"


def quality(bundle: Path, high: Path, low: Path | None, kernel: str | None) -> Iterator[str]:
    options: list[object] = ["--hr", high]
    options += ["--lr", low] if low else []
    options += ["--kernel", kernel] if kernel else []
    found = aethernet("evaluate", bundle, *options)
    yield f"## Quality of {found['release']['name']} {found['release']['version']}\n"
    for name in dict.fromkeys(one["set"] for one in found["results"]):
        own = [one for one in found["results"] if one["set"] == name]
        first = own[0]
        yield (
            f"{name}: {len(first['pictures'])} images, digest `{first['digest'][:16]}`, kernel: {first['kernel']}. "
            f"{first['channels']} without crop, Y with {first['crop']} pixels cropped, rounded to 8 bits, means.\n"
        )
        rows = [
            [
                *(one["form"], one["runtime"], f"{one['psnr_rgb']:.3f} dB", f"{one['ssim_rgb']:.4f}"),
                *(f"{one['psnr_y']:.3f} dB", f"{one['ssim_y']:.4f}"),
            ]
            for one in own
        ]
        yield table(["form", "run by", "PSNR RGB", "SSIM RGB", "PSNR Y", "SSIM Y"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="another release than the sample")
    parser.add_argument("--hr", type=Path)
    parser.add_argument("--lr", type=Path)
    parser.add_argument("--kernel", help="how the LR images were made, or are to be made")
    parser.add_argument("--sizes", default="128x128,256x256")
    parser.add_argument("--seconds", type=float, default=300, help="for the forms side by side")
    parser.add_argument("--quick", action="store_true", help="without whole releases")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle, high, low, kernel = options.bundle, options.hr, options.lr, options.kernel
        if bundle is None:
            print("releasing the sample", file=sys.stderr)
            output_of("-m", "flows", "release", SAMPLE, "--output", folder, "--json")
            bundle, high, low = Path(folder) / SAMPLE.name, SAMPLE / "images" / "hr", SAMPLE / "images" / "lr"
            kernel = tomllib.loads((SAMPLE / "release.toml").read_text(encoding="utf-8"))["kernel"]
        parts = [forms(bundle.absolute(), options.sizes, options.seconds)]
        parts += [quality(bundle.absolute(), high.absolute(), low and low.absolute(), kernel)] if high else []
        parts += [] if options.quick else [releases()]
        for part in parts:
            for text in part:
                print(text, flush=True)


if __name__ == "__main__":
    main()
