"""The archives for a bare CUDA machine: small enough, checked, and refused where they do not fit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None or shutil.which("git") is None, reason="needs bash and git"),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="packs what a clone has committed"),
]


def pack(bundle: Path, out: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("av", reason="the pack's video needs the package av")
    environment = {**os.environ, "PYTHON": sys.executable, "WHEELS": "0", "TARGET": HERE, **settings}
    command = ["bash", str(ROOT / "benchmarks" / "gpu_pack.sh"), str(out), str(bundle)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


def start(out: Path, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "PLACE": str(place), "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(out / "run.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


def test_archives_keep_the_limit_and_one_command_unpacks_and_runs_them(slim_release: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    made = pack(slim_release, out, PART="5000000")

    assert made.returncode == 0, made.stderr
    sizes = [path.stat().st_size for path in sorted(out.glob("pack.*"))]
    assert len(sizes) > 1
    assert max(sizes) <= 5_000_000
    done = start(out, tmp_path / "place", "--help")
    assert ("expected a card" in done.stderr) or done.returncode == 0  # a machine with a card runs it
    report = tmp_path / "gpu.json"
    # Half a second is enough to get to the report; what is measured in a rehearsal is another test's.
    done = start(out, tmp_path / "place", "--rehearse", "--minutes", "0.01", "--json", str(report))
    assert done.returncode == 0, done.stderr
    assert report.exists()


def test_a_damaged_archive_and_another_python_are_refused(slim_release: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    assert pack(slim_release, out, TARGET="3.99").returncode == 0

    done = start(out, tmp_path / "place", "--help")
    assert "expected Python 3.99, which the wheels were packed for" in done.stderr

    with open(out / "pack.00", "r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    done = start(out, tmp_path / "place", "--help")
    assert done.returncode == 2
    assert "expected the archives named above whole" in done.stderr


def test_archives_larger_than_the_limit_are_refused(slim_release: Path, tmp_path: Path) -> None:
    made = pack(slim_release, tmp_path / "pack", PART="70000000")

    assert made.returncode == 2
    assert "at most 60000000 bytes" in made.stderr
