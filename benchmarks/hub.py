"""Publish and download a release of 300 MB over a hub on the loopback: throughput, beside the bare client, and memory.

``python benchmarks/hub.py out/NAME [--megabytes 300] --json``. The release folder is copied and given one large file;
the hub runs in a process of its own, and so does every measurement.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
os.environ.update(HF_HUB_DISABLE_UPDATE_CHECK="1", NO_PROXY="127.0.0.1")

NAME = "large"
FORK = multiprocessing.get_context("fork")


def enlarge(release: Path, megabytes: int) -> None:
    """Give a release folder one large file, and records that fit."""
    from aethernet.artifact import file_digest
    from aethernet.records import canonical_json
    from aethernet.release.assembly import sealed
    from aethernet.release.bundle import open_bundle
    from aethernet.release.manifest import BUILD, CARD, MANIFEST, FileEntry

    opened = open_bundle(release)
    with open(release / "large.bin", "wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(10**6))
    entry = FileEntry(
        path="large.bin", sha256=file_digest(release / "large.bin"), size=megabytes * 10**6, role="picture"
    )
    manifest = opened.manifest.model_copy(update={"files": (*opened.manifest.files, entry)})
    small = {MANIFEST: canonical_json(manifest), CARD: (release / CARD).read_bytes()}
    (release / MANIFEST).write_bytes(small[MANIFEST])
    (release / BUILD).write_bytes(canonical_json(sealed(opened.build, small)))


def serve(root: Path, pipe: Any) -> None:
    from tests.support.hub_server import HubServer

    server = HubServer(root)
    pipe.send((server.place, server.endpoint))
    pipe.recv()


def measured(action: Callable[[], None]) -> tuple[float, float, float]:
    """Seconds, seconds of processor time, and the most memory in MB beyond what the process began with."""

    def run(pipe: Any) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start, spent = time.perf_counter(), time.process_time()
        action()
        seconds, spent = time.perf_counter() - start, time.process_time() - spent
        pipe.send((seconds, spent, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))

    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=run, args=(theirs,))
    process.start()
    theirs.close()
    figures: tuple[float, float, float] = ours.recv()
    process.join()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", type=Path)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(options, Path(folder)), indent=2))


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from huggingface_hub import snapshot_download

    from aethernet.hub.address import Address
    from aethernet.hub.connecting import connect
    from aethernet.hub.download import download
    from aethernet.release.bundle import open_bundle

    release = Path(shutil.copytree(options.release, folder / "release"))
    enlarge(release, options.megabytes)
    size = sum(path.stat().st_size for path in release.rglob("*") if path.is_file()) / 1e6
    (folder / "hub").mkdir()
    ours, theirs = FORK.Pipe()
    server = FORK.Process(target=serve, args=(folder / "hub", theirs), daemon=True)
    server.start()
    place, endpoint = ours.recv()
    version = open_bundle(release).manifest.version
    address = Address(place=place, name=NAME, version=version)
    targets = iter(range(10**6))

    def fresh() -> Path:
        for old in folder.glob("target*"):
            shutil.rmtree(old)
        return folder / f"target{next(targets)}"

    def bare() -> None:
        target = folder / "target-bare"
        snapshot_download(f"org/{NAME}", revision=f"v{version}", local_dir=target, endpoint=endpoint)

    actions: dict[str, Callable[[], None]] = {
        "download": lambda: download(address, folder / "target-ours") and None,
        "bare client": bare,
    }
    publish = measured(lambda: connect(place).publish(open_bundle(release), NAME) and None)
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in actions}
    for _ in range(options.rounds):
        for name, action in actions.items():
            fresh()
            results[name].append(measured(action))
    ours.send("end")
    rows = {"publish": [publish], **results}
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "megabytes": round(size, 1),
        **{
            name: {
                "megabytes per second, median": round(size / statistics.median(seconds for seconds, _, _ in rounds), 1),
                "megabytes per second": [round(size / seconds, 1) for seconds, _, _ in rounds],
                "megabytes per second of processor time, best": round(size / min(spent for _, spent, _ in rounds), 1),
                "megabytes of memory": round(max(memory for _, _, memory in rounds), 1),
            }
            for name, rounds in rows.items()
        },
    }


if __name__ == "__main__":
    main()
