"""Time for 1, 2, 3 workers and several releases, and what orchestration costs, on a cluster on loopback.

    python benchmarks/cluster.py --workers 1,2,3 --releases 1,6

Prints Markdown. Every run has a store of its own, so that nothing is cached. Needs PostgreSQL's programs and the
development extra; the cluster is the tests' own.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def write_specs(folder: Path, count: int) -> None:
    import torch

    from tests.support.networks import tiny_network
    from tests.support.releases import small_spec

    for number in range(count):
        torch.manual_seed(number)
        small_spec(folder / f"net{number}_2x", f"net{number}_2x", tiny_network(), ["int8", "fp16"])


def overhead(folder: Path, spec: Path) -> dict[str, float]:
    """What Prefect adds to a release: the stages alone, the same under its engine, and what a whole command takes."""
    import os
    import subprocess

    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    from flows._session import embedded_server, prepare_prefect

    prepare_prefect()  # before anything imports Prefect, which reads its settings once
    from aethernet.spec import read_spec
    from tests.support.releases import make_release

    read = read_spec(spec)
    make_release(read, folder / "warm")
    start = time.perf_counter()
    make_release(read, folder / "alone")
    found = {"stages alone, in one process that has loaded everything": time.perf_counter() - start}

    from aethernet.store import Store
    from flows._running import summarised
    from flows.release import release

    with embedded_server():
        pass  # makes the database
    start = time.perf_counter()
    with embedded_server():
        found["start of Prefect's embedded server"] = time.perf_counter() - start
        start = time.perf_counter()
        _, told = summarised(Store(folder / "engine"), read, lambda: release(read, folder / "engine-out"))
        found["the same stages under Prefect's engine, cached and recorded"] = time.perf_counter() - start
    found["stages"] = len(told["ran"])

    command = [sys.executable, "-m", "flows", "release", str(spec), "--output", str(folder / "out"), "--json"]
    for what in ("command, everything anew", "command, nothing changed"):
        start = time.perf_counter()
        subprocess.run([*command, "--store", str(folder / "store")], env=os.environ, capture_output=True, check=True)
        found[what] = time.perf_counter() - start
    return found


def stage_cost(folder: Path, count: int = 50) -> float:
    """Seconds that a stage which does nothing costs, with its record and lock, on a local store."""
    from flows._session import embedded_server, prepare_prefect

    prepare_prefect()
    from prefect import flow

    from aethernet.store import Store
    from tasks._caching import RunContext, running, stage

    @stage()
    def nothing(number: int) -> int:
        return number

    @flow(persist_result=False)
    def run() -> float:
        nothing(-1)
        start = time.perf_counter()
        for number in range(count):
            nothing(number)
        return (time.perf_counter() - start) / count

    with embedded_server(), running(RunContext(store=Store(folder / "stages"))):
        return run()


def cluster(workers: int, releases: int, folder: Path, storage: str) -> float:
    from tests.support.cluster import POOL, started_cluster

    write_specs(folder / "specs", releases)
    with started_cluster(folder / "cluster", storage, workers) as made:
        start = time.perf_counter()
        places = ["--output", str(folder / "out"), "--store", made.store]
        made.command("release-all", str(folder / "specs"), *places, "--work-pool", POOL, "--json").check(3600)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,2,3")
    parser.add_argument("--releases", default="1,6")
    parser.add_argument("--overhead", type=Path, help="only what Prefect adds to the release of this spec")
    options = parser.parse_args()
    workers, releases = ([int(one) for one in text.split(",")] for text in (options.workers, options.releases))

    with tempfile.TemporaryDirectory() as name:
        print("| what | seconds |\n|---|---|")
        if options.overhead is None:
            write_specs(Path(name) / "specs", 1)
        for what, seconds in overhead(Path(name), options.overhead or Path(name) / "specs" / "net0_2x").items():
            print(f"| {what} | {seconds:.1f} |", flush=True)
        print(f"| one stage that does nothing | {stage_cost(Path(name)):.3f} |\n", flush=True)
    if options.overhead is not None:
        return

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print("| releases |" + "".join(f" {count} worker{'s' * (count > 1)} |" for count in workers))
    print("|---|" + "---|" * len(workers))
    for count in releases:
        cells = []
        for machines in workers:
            with tempfile.TemporaryDirectory() as name:
                cells.append(f"{cluster(machines, count, Path(name), f'http://{host}:{port}'):.0f} s")
        print(f"| {count} | {' | '.join(cells)} |", flush=True)
    server.stop()


if __name__ == "__main__":
    main()
