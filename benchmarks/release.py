"""Time and memory of whole releases: cold, then unchanged, and beside what a person does by hand; prints JSON.

Each release is a process of its own with a store of its own. ``times_by_hand`` is the time of ``benchmarks/by_hand.py``
on the same checkpoint and images, run before and after the cold release (their mean), over that of the cold release:
seconds belong to a machine, this ratio says something on others. Memory is the largest single process, by the kernel's
own account. On a shared machine, compare figures of one run only. Part of ``make benchmark``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run(arguments: list[str], folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "flows", "release", *arguments, "--json"]
    places = ["--store", str(folder / "store"), "--output", str(folder / "out"), "--hub", (folder / "hub").as_uri()]
    start = time.perf_counter()
    process = subprocess.Popen(command + places, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True)
    output, _ = process.communicate()
    seconds = time.perf_counter() - start
    facts = json.loads(output) if process.returncode == 0 else {"ran": [], "unchanged": []}
    return {
        "exit": process.returncode,
        "seconds": round(seconds, 1),
        "steps_ran": len(facts["ran"]),
        "steps_unchanged": len(facts["unchanged"]),
    }


def by_hand(checkpoint: Path, images: Path, folder: Path) -> float:
    """Seconds of the plain script."""
    command = [sys.executable, str(ROOT / "benchmarks" / "by_hand.py"), str(checkpoint), "--images", str(images)]
    start = time.perf_counter()
    subprocess.run([*command, "--output", str(folder)], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - start


def measure(name: str, arguments: list[str], checkpoint: Path, images: Path | None) -> dict[str, object]:
    """One release and, where there are images, the same by hand."""
    with tempfile.TemporaryDirectory() as folder:
        before = by_hand(checkpoint, images, Path(folder, "before")) if images else 0.0
        cold = run(arguments, Path(folder))
        after = by_hand(checkpoint, images, Path(folder, "after")) if images else 0.0
        unchanged = run(arguments, Path(folder))
    # Over all children so far, and monotonic: a later release's figure can hide below an earlier one's.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)
    reference = {
        "by_hand_seconds": [round(before, 1), round(after, 1)],
        "times_by_hand": round((before + after) / 2 / cold["seconds"], 2),
    }
    return {
        "release": name,
        "cold": cold,
        **(reference if images else {}),
        "unchanged": unchanged,
        "peak_memory_of_any_process_so_far": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="also release this checkpoint")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--hr", type=Path)
    parser.add_argument("--json", action="store_true", help="(always JSON; for symmetry with the other commands)")
    options = parser.parse_args()
    sample = ROOT / "releases" / "aether_tiny_2x"
    results = [measure("sample", [str(sample)], sample / "aether_tiny_2x.safetensors", sample / "images" / "lr")]
    if options.checkpoint:
        arguments = ["--checkpoint", str(options.checkpoint.absolute()), "--name", options.checkpoint.stem]
        for name in ("images", "hr"):
            if getattr(options, name):
                arguments += [f"--{name}", str(getattr(options, name).absolute())]
        results.append(measure(options.checkpoint.name, arguments, options.checkpoint.absolute(), options.images))
    print(json.dumps({"cores": os.cpu_count(), "python": platform.python_version(), "releases": results}, indent=2))


if __name__ == "__main__":
    main()
