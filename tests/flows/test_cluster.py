"""Releases on several workers that share a Prefect server on PostgreSQL and a store on S3, while things go wrong."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from aethernet.release.verification import verify_bundle
from tests.support.browser import chromium
from tests.support.cluster import POOL, Cluster, Command, started_cluster, wait_for
from tests.support.networks import tiny_network
from tests.support.releases import small_spec, snapshot
from tests.support.storage import s3
from tests.support.workplace import Workplace, without_speeds

__all__ = ["s3"]

pytestmark = [pytest.mark.cluster]

NAMES = [f"net{number}_2x" for number in range(6)]


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six specs of six networks."""
    import torch

    folder = tmp_path_factory.mktemp("specs")
    for number, name in enumerate(NAMES):
        torch.manual_seed(number)
        # One has fp16, too.
        leave_out = ["int8"] if name == NAMES[3] else ["int8", "fp16"]
        small_spec(folder / name, name, tiny_network(), leave_out)
    return folder


@pytest.fixture(scope="module")
def cluster(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started_cluster(tmp_path_factory.mktemp("cluster"), s3) as cluster:
        yield cluster


def _release_all(cluster: Cluster, specs: Path, output: Path, hub: Path) -> Command:
    places = ["--output", str(output), "--store", cluster.store, "--hub", hub.as_uri()]
    return cluster.command("release-all", str(specs), *places, "--work-pool", POOL, "--json")


@pytest.fixture(scope="module")
def released(cluster: Cluster, specs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path, Path]:
    """Six releases on three workers, one of which is killed in the middle; output and hub."""
    folder = tmp_path_factory.mktemp("released")
    command = _release_all(cluster, specs, folder / "out", folder / "hub")
    victim = cluster.workers[0]
    wait_for(lambda: "… export" in victim.log, 120, "a stage on the first worker")
    victim.kill()
    assert "✓ load" in victim.log
    told = json.loads(command.check(400))
    return told, folder / "out", folder / "hub"


def test_six_releases_survive_the_death_of_a_worker(cluster: Cluster, released: tuple[list[Any], Path, Path]) -> None:
    results, output, hub = released

    assert [result["name"] for result in results] == NAMES
    assert [result["error"] for result in results] == [None] * 6
    for name in NAMES:
        assert verify_bundle(output / name).ok
        assert snapshot(hub / name / "1.0.0") == snapshot(output / name)
        assert [path.name for path in (hub / name).iterdir()] == ["1.0.0"]
    assert sum("! its worker died" in worker.log for worker in cluster.workers) == 0
    assert len({result["identity"] for result in results}) == 6


def test_no_stage_that_had_finished_ran_twice(cluster: Cluster, released: object) -> None:
    """By what the workers told, line by line; the killed one's too."""
    done = [
        found
        for worker in cluster.workers
        for found in re.findall(r"^(?:.*\| )?(net\d_2x)  ✓ (.+?) [\d.]+ s$", worker.log, re.MULTILINE)
    ]

    cached = {step for step in done if step[1].partition(" ")[0] not in ("assemble", "publish")}
    assert len(cached) == len([step for step in done if step in cached]), "a step ran twice"
    assert {name for name, _ in cached} == set(NAMES)
    assert cluster.workers[0].log.count("✓") > 0


def test_every_task_prefect_calls_completed_ran_once(cluster: Cluster, released: object) -> None:
    """By Prefect's own account."""
    found = []
    while True:
        page = httpx.post(
            f"{cluster.server.address}/task_runs/filter",
            json={"task_runs": {"state": {"name": {"any_": ["Completed"]}}}, "offset": len(found), "limit": 200},
        ).json()
        found += page
        if len(page) < 200:
            break
    keys = [run["task_inputs"] and run["name"] for run in found]
    stages = [(run["flow_run_id"], run["name"]) for run in found]

    assert len(keys) >= 6 * 12
    assert len(stages) == len(set(stages))


def test_one_machine_makes_the_same_bytes(specs: Path, released: tuple[list[Any], Path, Path], tmp_path: Path) -> None:
    _, output, _ = released
    place, name = Workplace(tmp_path), NAMES[3]
    arguments = ["release", str(specs / name), "--output", str(place.output), "--store", str(place.store)]

    # As many threads as the workers have: sums of floats depend on it in the last digit.
    finished = place.run(arguments, tmp_path / "prefect", OMP_NUM_THREADS="1")

    assert finished.code == 0, finished.err
    alone, together = without_speeds(place.output / name), without_speeds(output / name)
    assert [path for path in alone if alone[path] != together.get(path)] == []
    assert alone.keys() == together.keys()


def test_prefect_knows_which_run_lost_its_worker(cluster: Cluster, released: object) -> None:
    states = [
        (run["state"]["type"], run["state"]["message"])
        for run in httpx.post(f"{cluster.server.address}/flow_runs/filter", json={"limit": 50}).json()
    ]

    assert ("CRASHED", "its worker is silent") in states
    assert {kind for kind, _ in states} == {"CRASHED", "COMPLETED"}
    assert len(states) >= 7


def test_prefects_ui_shows_the_card_with_its_picture(
    cluster: Cluster, released: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    key = f"card-{NAMES[0].replace('_', '-')}"
    wanted = {"artifacts": {"key": {"any_": [key]}}, "limit": 1}
    (artifact,) = httpx.post(f"{cluster.server.address}/artifacts/filter", json=wanted).json()
    page = f"{cluster.server.address.removesuffix('/api')}/artifacts/artifact/{artifact['id']}"

    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        browser.get(page)
        wait_for(lambda: _picture_widths(browser), 30, "a picture on the page")

        assert _picture_widths(browser)[0] > 200
        assert NAMES[0] in browser.find_element("tag name", "body").text


def _picture_widths(browser: Any) -> list[int]:
    """In pixels of the pictures themselves; 0 for those that did not load."""
    return [picture.get_property("naturalWidth") for picture in browser.find_elements("css selector", "img")]


def test_dask_workers_use_the_same_store(
    cluster: Cluster, specs: Path, released: tuple[list[Any], Path, Path], tmp_path: Path
) -> None:
    """A scheduler and a worker that have nothing of ours but the package; all stages are found in the store."""
    _, output, _ = released
    one = tmp_path / "specs" / NAMES[1]
    shutil.copytree(specs / NAMES[1], one)
    places = ["--output", str(tmp_path / "out"), "--store", cluster.store]

    with cluster.dask(tmp_path / "dask") as scheduler:
        command = cluster.command(
            "release-all", str(one.parent), *places, "--runner", "dask", "--scheduler", scheduler, "--json"
        )
        code, out, err = command.end(200)

    assert code == 0, err[-3000:]
    assert [result["error"] for result in json.loads(out)] == [None]
    assert snapshot(tmp_path / "out" / NAMES[1]) == snapshot(output / NAMES[1])


def test_the_log_in_prefects_ui_has_a_line_per_step(cluster: Cluster, released: object) -> None:
    lines = [one["message"] for one in httpx.post(f"{cluster.server.address}/logs/filter", json={"limit": 200}).json()]

    assert any(re.fullmatch(r"export: ran, [\d.]+ s", line) for line in lines), lines[:20]


def test_all_is_unchanged_the_second_time_on_whatever_worker(
    cluster: Cluster, specs: Path, released: tuple[list[Any], Path, Path], tmp_path: Path
) -> None:
    """Two people release the same network at once on two workers; the database goes and comes back meanwhile."""
    _, output, hub = released
    one = tmp_path / "specs"
    for name in NAMES[:1]:
        shutil.copytree(specs / name, one / name)
    before = snapshot(hub)
    marks = {worker.name: len(worker.log) for worker in cluster.workers}

    commands = [_release_all(cluster, one, tmp_path / f"out{number}", hub) for number in range(2)]
    wait_for(lambda: any("✓" in worker.log[marks[worker.name] :] for worker in cluster.workers), 90, "a first step")
    cluster.database.stop()
    time.sleep(5)
    cluster.database.start()
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(lambda command: json.loads(command.check(300)), commands))

    assert [result["error"] for results in ends for result in results] == [None] * 2
    assert snapshot(hub) == before
    for number in range(2):
        for name in NAMES[:1]:
            assert snapshot(tmp_path / f"out{number}" / name) == snapshot(output / name)
    later = "".join(worker.log[marks[worker.name] :] for worker in cluster.workers)
    assert set(re.findall(r"net\d_2x  ✓ (\w+)[^\n]* [\d.]+ s$", later, re.MULTILINE)) <= {"assemble", "publish"}


def test_cancelling_stops_all_and_a_server_that_restarts_stops_nothing(cluster: Cluster, tmp_path: Path) -> None:
    name = "late_2x"
    small_spec(tmp_path / "specs" / name, name)
    marks = {worker.name: len(worker.log) for worker in cluster.workers}

    def told() -> str:
        return "".join(worker.log[marks[worker.name] :] for worker in cluster.workers)

    command = _release_all(cluster, tmp_path / "specs", tmp_path / "out", tmp_path / "hub")
    wait_for(lambda: "… export" in told(), 120, "a stage to cancel")
    command.process.send_signal(signal.SIGINT)
    code, _, err = command.end(60)
    assert code != 0, err

    wait_for(lambda: not any("prefect.engine" in line for line in _lines(cluster)), 60, "the end of what was cancelled")
    wait_for(lambda: _state_of(cluster, f"release {name} 1.0.0") == "CANCELLED", 60, "Prefect to say so")
    assert not (tmp_path / "hub").exists()
    for worker in cluster.workers[1:]:  # the first was killed, and left what it was doing to housekeeping
        assert list((worker.folder / "cache").rglob("scratch/*")) == []
    listed = json.loads(cluster.command("status", "--store", cluster.store, "--json").check(60))
    assert [run["outcome"] for run in listed if run["name"] == name] == ["stopped"]

    command = _release_all(cluster, tmp_path / "specs", tmp_path / "out", tmp_path / "hub")
    wait_for(lambda: "✓ load unchanged" in told(), 120, "the stages that were finished")
    cluster.server.stop()
    time.sleep(3)
    cluster.server.start()
    (result,) = json.loads(command.check(300))

    assert result["error"] is None
    assert verify_bundle(tmp_path / "out" / name).ok
    assert [path.name for path in (tmp_path / "hub" / name).iterdir()] == ["1.0.0"]


def _lines(cluster: Cluster) -> list[str]:
    return [line for worker in cluster.workers for line in worker.processes().values()]


def _state_of(cluster: Cluster, run: str) -> str:
    wanted = {"flow_runs": {"name": {"any_": [run]}}}
    (found,) = httpx.post(f"{cluster.server.address}/flow_runs/filter", json=wanted).json()
    return str(found["state"]["type"])
