"""Time for 1, 2, 3 workers and several releases, and what orchestration costs, on a cluster on loopback.

    python benchmarks/cluster.py --workers 1,2,3 --releases 1,6

Prints Markdown. Every run has a store of its own, so that nothing is cached. Needs PostgreSQL's programs and the
development extra; the cluster is the tests' own.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
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


def overhead(folder: Path, spec: Path) -> dict[str, str]:
    """What Prefect, cache and records add to a release, by the same run's own account."""
    os.environ["PREFECT_HOME"] = str(folder / "prefect")
    from flows.session import embedded_server, prepare_prefect

    prepare_prefect()  # before anything imports Prefect, which reads its settings once
    from aethernet.release.spec import read_spec
    from aethernet.store.store import Store
    from flows.release import release
    from flows.running import summarised

    read, found = read_spec(spec), {}
    with embedded_server():
        pass  # makes the database
    start = time.perf_counter()
    with embedded_server():
        found["start of Prefect's embedded server"] = f"{time.perf_counter() - start:.1f}"
        for number, what in enumerate(("first release of a process", "second", "third")):
            places = Store(folder / f"store{number}"), read
            out = folder / f"out{number}"
            _, told = summarised(*places, lambda out=out: release(read, out))
            found[f"{what}: its {len(told['ran'])} steps, and what is added"] = _added(
                told["step_seconds"], told["seconds"]
            )

        from prefect.settings import get_current_settings

        running = {"PREFECT_API_URL": str(get_current_settings().api.url)}
        found |= _commands(spec, folder / "beside", "on a server that runs", running)
    return found | _commands(spec, folder / "alone", "with a server of its own", {})


def _commands(spec: Path, folder: Path, where: str, environment: dict[str, str]) -> dict[str, str]:
    command = [sys.executable, "-m", "flows", "release", str(spec), "--output", str(folder / "out"), "--json"]
    found = {}
    for what in ("everything anew", "nothing changed"):
        start = time.perf_counter()
        subprocess.run(
            [*command, "--store", str(folder / "store")],
            env={**os.environ, **environment},
            capture_output=True,
            check=True,
        )
        found[f"the whole command {where}, {what}"] = f"{time.perf_counter() - start:.1f}"
    return found


def _added(own: float, whole: float) -> str:
    return f"{own:.1f} + {whole - own:.2f} ({(whole - own) / own:.0%})"


def stage_cost(folder: Path, count: int = 50) -> float:
    """Seconds that a stage which does nothing costs, with its record and lock, on a local store."""
    from flows.session import embedded_server, prepare_prefect

    prepare_prefect()
    from prefect import flow

    from aethernet.store.store import Store
    from tasks.caching import RunContext, running, stage

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


def cluster(workers: int, releases: int, folder: Path, storage: str) -> str:
    """Seconds until all is released, and the share that cache, records and Prefect's engine add to the steps."""
    from tests.support.cluster import POOL, started_cluster

    write_specs(folder / "specs", releases)
    with started_cluster(folder / "cluster", storage, workers) as made:
        start = time.perf_counter()
        places = ["--output", str(folder / "out"), "--store", made.store]
        made.command("release-all", str(folder / "specs"), *places, "--work-pool", POOL, "--json").check(3600)
        seconds = time.perf_counter() - start
        told = re.findall(r"([\d.]+) s, ([\d.]+) of them in the steps", "".join(one.log for one in made.workers))
    whole, own = (sum(map(float, column)) for column in zip(*told, strict=True))
    return f"{seconds:.0f} s, {(whole - own) / own:.0%}"


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
            print(f"| {what} | {seconds} |", flush=True)
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
                cells.append(cluster(machines, count, Path(name), f"http://{host}:{port}"))
        print(f"| {count} | {' | '.join(cells)} |", flush=True)
    server.stop()


if __name__ == "__main__":
    main()
