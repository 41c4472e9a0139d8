"""TensorRT engines through the whole release flow, on a machine without a GPU."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from aethernet.comparison import Limits
from aethernet.engines.identity import check_engine
from aethernet.errors import EngineError
from aethernet.precision import Precision
from aethernet.release.bundle import open_bundle
from aethernet.release.spec import EngineSpec
from aethernet.release.verification import verify_bundle
from aethernet.store.store import Store
from flows.build import engines_of
from tasks.build import EngineOutcome
from tasks.caching import RunContext, StageEvent, running
from tests.support.engines import needs_rtx, no_gpu, small_model
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
        assert entry.record.identity.build_seconds is None
    seconds = open_bundle(workplace.bundle).build.engine_build_seconds
    assert {f"engines/{name}" for name in seconds} == engines.keys()
    assert all(one > 0 for one in seconds.values())
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


def test_an_engine_that_is_asked_for_and_cannot_be_built_fails_the_release(
    workplace: Workplace, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_gpu(monkeypatch)
    _with_engines(workplace, '[engines]\nbackends = ["tensorrt"]\nprecisions = ["fp16"]\n')

    finished = command_line(workplace.release)

    assert finished.code == 1
    assert "tensorrt" in finished.err.lower()
    workplace.require_unpublished()


@pytest.mark.long
def test_a_worker_builds_engines_for_a_flow_that_runs_elsewhere(
    engine: None, prefect_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_rtx()
    no_gpu(monkeypatch)
    place, store = Workplace(tmp_path), Store(tmp_path / "store")
    model = store.put(small_model(tmp_path / "net_fp16.onnx", Precision.FP16))
    profiles, deployment = ("1x32x32",), "build-engines/elsewhere"
    spec = EngineSpec(profiles=profiles, capabilities=("8.9",), precisions=(Precision.FP16,), deployment=deployment)

    @flow(persist_result=False, validate_parameters=False)
    def elsewhere() -> list[EngineOutcome]:
        return engines_of(spec, {Precision.FP16: model}, model, [], {Precision.FP16: Limits()})

    server = {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "CUDA_VISIBLE_DEVICES": ""}
    worker = place.start(["serve-builds", "--name", "elsewhere"], prefect_home, **server)
    told: list[StageEvent] = []
    try:
        _wait_for_deployment(deployment)
        with running(RunContext(store=store, observers=(told.append,))):
            (built,) = elsewhere()
    finally:
        worker.kill()
        worker.communicate()

    assert told == []  # nothing was built in this process
    assert built.entry.status == "built, not executed"
    assert built.engine is not None
    assert store.get(built.engine).stat().st_size == built.engine.size


def _wait_for_deployment(name: str) -> None:
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
