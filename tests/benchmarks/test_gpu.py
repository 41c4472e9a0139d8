"""The GPU kit: a report that is whole at every moment, parts that cannot take each other along, and the rehearsal."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_benchmark"] = module  # dataclasses look their module up
    before = sys.path.copy()
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def follow(gpu: ModuleType, folder: Path, script: str, seconds: float) -> tuple[str, list[dict[str, Any]]]:
    lines = folder / "lines"
    process = subprocess.Popen([sys.executable, "-c", script, str(lines)], start_new_session=True)
    report = gpu.Report(folder / "report.json", {})
    ended = gpu.follow(process, lines, report, seconds)
    written = json.loads((folder / "report.json").read_text()) if (folder / "report.json").exists() else {"results": []}
    return ended, written["results"]


TELL = (
    "import json, sys, os, time; open(sys.argv[1], 'a').write(json.dumps({'part': 'a', 'status': 'measured'}) + '\\n');"
)


def test_what_a_part_told_before_it_hung_is_kept(gpu: ModuleType, tmp_path: Path) -> None:
    ended, results = follow(gpu, tmp_path, TELL + "time.sleep(60)", 1.5)

    assert ended == "was ended after 2 s"
    assert results == [{"part": "a", "status": "measured"}]


@pytest.mark.parametrize(
    ("ending", "told"), [("os.abort()", "was ended by SIGABRT"), ("sys.exit(3)", "ended with code 3"), ("", "")]
)
def test_how_a_part_ended_is_told(ending: str, told: str, gpu: ModuleType, tmp_path: Path) -> None:
    ended, results = follow(gpu, tmp_path, TELL + ending, 30)

    assert ended == told
    assert len(results) == 1


def test_a_part_ends_early_on_a_card_and_has_all_the_time_in_a_rehearsal(gpu: ModuleType) -> None:
    part = gpu.Part("a", 15, 60)

    assert (part.allowed(300, rehearsal=False), part.allowed(20, rehearsal=False)) == (60, 20)
    assert part.allowed(300, rehearsal=True) == 300


def test_a_line_that_was_cut_off_is_no_result(gpu: ModuleType, tmp_path: Path) -> None:
    half = "open(sys.argv[1], 'a').write('{\"part\": ')"

    assert follow(gpu, tmp_path, TELL + half, 30) == ("", [{"part": "a", "status": "measured"}])


def run(folder: Path, *arguments: str, timeout: int = 60) -> dict[str, Any]:
    report = folder / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--json", str(report), *arguments]
    # No card of the machine that runs the tests: they say what happens without one.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1" if "--rehearse" not in arguments else ""}
    if "--rehearse" in arguments:
        del environment["CUDA_VISIBLE_DEVICES"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, env=environment)
    assert done.returncode in (0, 1), done.stderr
    answer: dict[str, Any] = json.loads(report.read_text())
    return answer


def test_without_a_card_nothing_is_measured_and_the_reason_is_told(tmp_path: Path) -> None:
    report = run(tmp_path)

    assert [(one["status"], one["reason"]) for one in report["results"]] == [
        ("skipped", "no NVIDIA card: nvidia-smi tells of none")
    ]


def test_parts_that_there_is_no_time_for_are_left_out(tmp_path: Path) -> None:
    report = run(tmp_path, "--rehearse", "--minutes", "0.1")

    assert {one["status"] for one in report["results"]} == {"skipped"}
    assert "s were left, it needs 20" in report["results"][0]["reason"]


@pytest.mark.long
def test_a_rehearsal_needs_no_repair(finished_release: Path, tmp_path: Path) -> None:
    report = run(tmp_path, "--rehearse", "--minutes", "6", "--bundle", str(finished_release), timeout=500)

    assert report["rehearsal"] is True
    assert [one for one in report["results"] if one["status"] == "failed"] == []
    gates = [one["gate"]["failures"] for one in report["results"] if "gate" in one]
    assert len(gates) >= 8
    assert gates == [[]] * len(gates)
    faults = {one["what"]: one for one in report["results"] if one["part"] == "faults"}
    assert faults["tiles that overflow in fp16 are repeated in fp32"]["repeated"] > 0
    assert faults["tiles that memory runs out for are halved"]["halved"]
