"""Releases on Dask's workers: they may die, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from aethernet.release.verification import verify_bundle
from tests.support.releases import small_spec
from tests.support.workplace import CommandLine, Workplace


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--scheduler", "tcp://127.0.0.1:8786"], "expected --runner dask with --scheduler"),
        (["--runner", "dask", "--work-pool", "any"], "expected --work-pool or --runner dask, found both"),
    ],
)
def test_who_runs_the_releases_is_said_once(
    command_line: CommandLine, workplace: Workplace, options: list[str], told: str
) -> None:
    finished = command_line(["release-all", str(workplace.spec.parents[1]), *workplace.places, *options])

    assert finished.code == 2
    assert told in finished.err
    assert not workplace.output.exists()


@pytest.mark.long
def test_a_release_outlives_the_dask_worker_that_was_making_it(
    prefect_home: Path, server: dict[str, str], tmp_path: Path
) -> None:
    place = Workplace(tmp_path / "place")
    small_spec(tmp_path / "specs" / "one_2x", "one_2x", leave_out=["int8", "fp16"])
    arguments = ["release-all", str(tmp_path / "specs"), *place.places, "--runner", "dask", "--jobs", "1", "--json"]

    told: list[str] = []
    with place.start(arguments, prefect_home, **server) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        reader = threading.Thread(target=lambda: told.extend(process.stderr))  # type: ignore[arg-type]
        reader.start()
        until = time.monotonic() + 200
        while not any("one_2x  ✓ fuse" in line for line in told):
            assert time.monotonic() < until, "".join(told)
            assert process.poll() is None, "".join(told)
            time.sleep(0.1)
        making = _making("one_2x", process.pid)
        worker = making.parent()
        assert worker is not None
        assert worker.pid != process.pid
        os.kill(worker.pid, signal.SIGKILL)
        out = process.stdout.read()
        reader.join()
        process.wait(200)

    log = "".join(told)
    assert process.returncode == 0, log
    assert [result["error"] for result in json.loads(out)] == [None]
    assert not making.is_running()
    assert log.count("one_2x  ✓ load") == 2
    assert "one_2x  ✓ load unchanged" in log
    done = re.findall(r"one_2x  ✓ (\w+[^\n]*?) [\d.]+ s$", log, re.MULTILINE)
    assert len(done) == len(set(done)), "a step ran twice"
    assert verify_bundle(place.output / "one_2x").ok
    assert verify_bundle(place.hub / "one_2x" / "1.0.0", run=False).ok


def _making(name: str, command: int) -> psutil.Process:
    """The process that makes a release, below a running command."""
    for process in psutil.Process(command).children(recursive=True):
        line = process.cmdline()
        if any(word.startswith(f"packed:{name} ") for word in line):
            return process
    raise AssertionError(f"found no process that makes {name}")
