"""TensorRT engines through the whole release flow, on a machine without a GPU."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from aethernet.bundle import open_bundle, verify_bundle
from aethernet.engine import check_engine
from aethernet.errors import EngineError
from tests.support.engines import needs_rtx, no_gpu
from tests.support.releases import NAME, flip_byte
from tests.support.workplace import CommandLine, Workplace

pytestmark = pytest.mark.slow

ENGINES = """
[engines]
profiles = ["1x16x16:1x32x32:1x64x64"]
capabilities = ["8.9"]
"""


def _with_engines(place: Workplace, text: str = ENGINES) -> None:
    kept = [line for line in place.spec.read_text().splitlines() if not line.startswith("engines.")]
    place.spec.write_text("\n".join(kept) + "\n" + text)


def test_engines_are_released_with_their_identity_and_kept(
    workplace: Workplace, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_rtx()
    no_gpu(monkeypatch)
    _with_engines(workplace)

    finished = command_line(workplace.release)

    assert finished.code == 0, finished.err
    assert verify_bundle(workplace.bundle).problems == ()
    manifest = open_bundle(workplace.bundle).manifest
    engines = {entry.path: entry for entry in manifest.files if entry.role == "engine"}
    assert len(engines) == 2
    assert {entry.status for entry in manifest.engines} == {"built, not executed"}
    for entry in manifest.engines:
        assert entry.file is not None
        assert entry.record is not None
        assert entry.record.network.products
        assert entry.record.identity.sha256 == engines[entry.file].sha256
        assert check_engine(workplace.bundle / entry.file).record == entry.record
    card = (workplace.bundle / "README.md").read_text()
    assert f"trtexec --onnx={NAME}_fp16.onnx" in card

    again = command_line(workplace.release)
    assert again.code == 0, again.err
    assert again.ran == []

    spoilt = workplace.bundle / next(iter(engines))
    flip_byte(spoilt)
    assert any(spoilt.name in problem for problem in verify_bundle(workplace.bundle, run=False).problems)
    with pytest.raises(EngineError, match="found other content"):
        check_engine(spoilt)


def test_another_profile_builds_engines_and_nothing_else_anew(
    workplace: Workplace, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_rtx()
    no_gpu(monkeypatch)
    _with_engines(workplace, ENGINES.replace("1x64x64", "1x48x48"))

    finished = command_line(workplace.release)

    assert finished.code == 0, finished.err
    assert {step.split()[0] for step in finished.ran} <= {
        *(
            "build_engine",
            "describe",
            "record_build",
            "card",
            "write_config",
            "verify_published",
            "publish",
            "assemble",
        ),
        NAME,
    }
    assert sum(step.startswith("build_engine") for step in finished.ran) == 2


def test_an_engine_that_is_asked_for_and_cannot_be_built_fails_the_release(
    workplace: Workplace, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_gpu(monkeypatch)
    _with_engines(workplace, '[engines]\nbackends = ["tensorrt"]\nprecisions = ["fp16"]\n')

    finished = command_line(workplace.release)

    assert finished.code == 1
    assert "tensorrt" in finished.err.lower()
    workplace.require_unpublished()


def test_a_worker_builds_for_a_release_that_runs_elsewhere(
    workplace: Workplace, command_line: CommandLine, prefect_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_rtx()
    no_gpu(monkeypatch)
    from prefect.settings import PREFECT_API_URL

    _with_engines(workplace, ENGINES + 'precisions = ["fp16"]\ndeployment = "build-engines/elsewhere"\n')
    server = {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "CUDA_VISIBLE_DEVICES": ""}
    worker = workplace.start(["serve-builds", "--name", "elsewhere"], prefect_home, **server)
    try:
        _wait_for_deployment("build-engines/elsewhere")

        finished = command_line(workplace.release)
    finally:
        worker.terminate()
        worker.communicate(timeout=60)

    assert finished.code == 0, finished.err
    assert not [step for step in finished.ran if step.startswith("build_engine")]  # not in this process
    (entry,) = open_bundle(workplace.bundle).manifest.engines
    assert entry.status == "built, not executed"
    assert verify_bundle(workplace.bundle).problems == ()


def _wait_for_deployment(name: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        for _ in range(300):
            try:
                client.read_deployment_by_name(name)
            except ObjectNotFound:
                time.sleep(0.2)
            else:
                return
    raise AssertionError(f"{name} was not served within a minute")


def test_an_engine_that_times_out_costs_that_engine_and_not_the_release(
    workplace: Workplace, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_rtx()
    no_gpu(monkeypatch)
    _with_engines(workplace, ENGINES + "timeout = 0.05\n")

    finished = command_line(workplace.release)

    assert finished.code == 0, finished.err
    manifest = json.loads((workplace.bundle / "release.json").read_text())
    assert {entry["status"] for entry in manifest["engines"]} == {"skipped"}
    assert all("to end within 0.05 s" in entry["reason"] for entry in manifest["engines"])
