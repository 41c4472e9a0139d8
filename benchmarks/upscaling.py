"""Upscaling: memory of a huge picture, speed of a folder, how busy a film keeps the network. Prints JSON.

``python benchmarks/upscaling.py memory|folder|film --bundle RELEASE``. Each measured thing is a process of its own;
memory is the process's largest resident size by the kernel's account. On a shared machine only ratios of one run mean
anything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
UPSCALE = [sys.executable, "-c", "from aethernet.cli.main import main; main()", "upscale"]


def picture(width: int, height: int, seed: int = 0) -> Any:
    """Slopes, waves and grain, as a Pillow image."""
    from PIL import Image

    random = np.random.default_rng(seed)
    y = np.linspace(0, 12, height, dtype=np.float32)[:, None]
    x = np.linspace(0, 12, width, dtype=np.float32)[None]
    rows = np.empty((height, width, 3), dtype=np.uint8)
    for channel in range(3):
        for top in range(0, height, 1000):
            part = 128 + 80 * np.sin(x * (1 + channel) + y[top : top + 1000]) * np.cos(y[top : top + 1000])
            part += random.normal(0, 4, part.shape).astype(np.float32)
            rows[top : top + 1000, :, channel] = part.clip(0, 255)
    return Image.fromarray(rows)


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of upscaling one picture; with --seconds the run is ended early and the rows written are told."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "huge.jpg", Path(folder) / "out"
        picture(options.width, options.height).save(source, quality=90)
        command = [*UPSCALE, str(source), "-o", str(made / "huge.png"), "--bundle", str(options.bundle)]
        command += ["--precision", options.precision, "--runtime", options.runtime]
        command += ["--tile", str(options.tile)] if options.tile else []
        start, peak = time.perf_counter(), 0
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                try:
                    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
                    peak = max(peak, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
                except (OSError, ValueError, TypeError):
                    pass
                if options.seconds and time.perf_counter() - start > options.seconds:
                    process.terminate()
                    break
                time.sleep(0.2)
            written = sum(path.stat().st_size for path in made.glob(".*")) if made.exists() else 0
        return {
            "picture": f"{options.width}x{options.height}",
            "finished": process.returncode == 0,
            "seconds": round(time.perf_counter() - start, 1),
            "bytes_written_when_ended": written,
            "peak_memory_gb": round(peak * 1024 / 1e9, 3),
        }


def folder(options: argparse.Namespace) -> dict[str, Any]:
    """Pictures per second of a folder, against the unfused network in PyTorch, interleaved."""
    import torch

    from aethernet.checkpoint import load
    from aethernet.release.bundle import open_bundle
    from aethernet.upscale import Upscaler
    from aethernet.upscale.files import plan_jobs, upscale_files

    bundle = open_bundle(options.bundle)
    if bundle.manifest.reference is None:
        raise SystemExit("expected a release with the weights before folding")
    eager = load(bundle.path(bundle.manifest.reference)).model.eval()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "in").mkdir()
        for index in range(options.pictures):
            picture(256, 256, index).save(place / "in" / f"{index:03}.png")
        jobs = plan_jobs([place / "in"], place / "out")
        tensor = torch.from_numpy(np.asarray(picture(256, 256), dtype=np.float32).transpose(2, 0, 1)[None].copy() / 255)
        times: dict[str, list[float]] = {"eager": []}
        overheads: dict[str, list[float]] = {}
        forms = {}
        for precision in ("fp32", "int8"):
            if bundle.manifest.file("onnx", precision, ".onnx") is not None:  # type: ignore[arg-type]
                forms[precision] = Upscaler(bundle, precision, options.runtime)
                times[precision], overheads[precision] = [], []
        with torch.inference_mode():
            eager(tensor[..., :64, :64])
            for turn in range(options.turns):
                start = time.perf_counter()
                eager(tensor)
                times["eager"].append(time.perf_counter() - start)
                for precision, upscaler in forms.items():
                    share = [job for index, job in enumerate(jobs) if index % options.turns == turn]
                    start = time.perf_counter()
                    results = upscale_files(upscaler, share)
                    taken = time.perf_counter() - start
                    times[precision].append(taken / len(share))
                    overheads[precision].append(taken / sum(one["seconds"]["network"] for one in results) - 1)
    eager_median = statistics.median(times["eager"])
    return {
        "pictures": options.pictures,
        "seconds_per_picture": {name: round(statistics.median(taken), 3) for name, taken in times.items()},
        "times_faster_than_eager": {name: round(eager_median / statistics.median(times[name]), 2) for name in forms},
        "around_the_network": {name: round(statistics.median(taken), 3) for name, taken in overheads.items()},
        "runtimes": {name: upscaler.runtime for name, upscaler in forms.items()},
    }


def film(options: argparse.Namespace) -> dict[str, Any]:
    """Share of the time in which the network is computing while a film is made."""
    import av

    from aethernet.upscale import Upscaler
    from aethernet.upscale.video import FilmOptions, upscale_film

    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "film.mkv"
        with av.open(str(source), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "12"})
            stream.width, stream.height, stream.pix_fmt = options.width, options.height, "yuv420p"
            for index in range(options.frames):
                frame = av.VideoFrame.from_image(picture(options.width, options.height, index))
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with Upscaler(options.bundle, options.precision, options.runtime) as upscaler:
            made = upscale_film(upscaler, source, Path(name) / "larger.mkv", FilmOptions(preset=options.preset))
        seconds = made["seconds"]
        return {
            "film": f"{options.width}x{options.height}, {options.frames} frames, {options.preset}",
            "frames_per_second": made["fps"],
            "network_busy": round(seconds["network"] / seconds["pictures"], 3),
            "seconds": seconds,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("memory", "folder", "film"))
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--precision", default="fp32", help="memory and film")
    parser.add_argument("--runtime", default="onnxruntime-cpu")
    parser.add_argument("--width", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--tile", type=int, help="memory: side of a tile (default: by memory)")
    parser.add_argument("--seconds", type=float, help="memory: end the run after this time")
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--preset", default="x265")
    options = parser.parse_args()
    sides = {"memory": (12_000, 8_000), "film": (320, 180)}.get(options.what, (256, 256))
    options.width, options.height = options.width or sides[0], options.height or sides[1]
    result = {"memory": memory, "folder": folder, "film": film}[options.what](options)
    print(json.dumps({"cores": os.cpu_count(), "python": platform.python_version(), options.what: result}, indent=2))


if __name__ == "__main__":
    main()
