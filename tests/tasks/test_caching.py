"""What decides whether a stage runs: every part of the key, and every way a record or a file can be spoilt."""

from __future__ import annotations

import base64
import functools
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from aethernet.artifact import Artifact
from aethernet.comparison import Limits
from aethernet.errors import StoreError
from aethernet.precision import Precision
from aethernet.release.spec import ExportSpec
from aethernet.store.store import Store
from tasks import caching as _caching
from tasks.caching import CacheKeyError, RunContext, Stage, StageEvent, current_store, running, stage
from tests.support.releases import flip_byte

ARTIFACT = Artifact(name="net.safetensors", sha256="a" * 64, size=5)
REPOSITORY = Path(__file__).resolve().parents[2]


@stage()
def write(text: str, artifact: Artifact, options: dict[str, float], precision: Precision = Precision.FP32) -> Artifact:
    """A stage with an input of every kind."""
    store = current_store()
    with store.scratch() as folder:
        (folder / "written.txt").write_text(f"{text} {artifact.sha256} {options} {precision}")
        return store.put(folder / "written.txt")


@stage()
def write_again(
    text: str, artifact: Artifact, options: dict[str, float], precision: Precision = Precision.FP32
) -> Artifact:
    """Same inputs, another stage."""
    return ARTIFACT


@stage(host_matters=True)
def measure(text: str) -> int:
    """A stage whose numbers depend on the host."""
    return len(text)


def _key(of: Stage, *args: Any, **kwargs: Any) -> str:
    return of.key(of.encode(*args, **kwargs))


# --- keys ------------------------------------------------------------------------------------------------------------


def test_key_is_the_same_every_time() -> None:
    first, second = _key(write, "a", ARTIFACT, {"x": 1.0}), _key(write, "a", ARTIFACT, {"x": 1.0})

    assert first == second
    assert len(first) == 64


def test_how_arguments_are_passed_does_not_matter() -> None:
    by_name = _key(write, options={"y": 2.0, "x": 1.0}, artifact=ARTIFACT, text="a", precision=Precision.FP32)

    assert by_name == _key(write, "a", ARTIFACT, {"x": 1.0, "y": 2.0})


@pytest.mark.parametrize(
    "arguments",
    [
        ("b", ARTIFACT, {"x": 1.0}),
        ("a", replace(ARTIFACT, sha256="b" * 64), {"x": 1.0}),
        ("a", ARTIFACT, {"x": 1.0000001}),
        ("a", ARTIFACT, {"y": 1.0}),
        ("a", ARTIFACT, {"x": 1.0}, Precision.FP16),
    ],
    ids=["text", "input digest", "config value", "config name", "precision"],
)
def test_every_input_counts(arguments: tuple[Any, ...]) -> None:
    assert _key(write, *arguments) != _key(write, "a", ARTIFACT, {"x": 1.0})


def test_two_stages_with_equal_inputs_have_different_keys() -> None:
    assert _key(write, "a", ARTIFACT, {}) != _key(write_again, "a", ARTIFACT, {})


def test_the_release_s_own_stages_have_different_keys() -> None:
    from tasks.export import export
    from tasks.fuse import fuse

    keys = [_key(fuse, ARTIFACT, "net_2x", precision) for precision in Precision]
    keys.append(_key(export, ARTIFACT, "name", ExportSpec(), {}))
    keys.append(_key(export, ARTIFACT, "name", ExportSpec(opset=18), {}))

    assert len(set(keys)) == len(keys)


def test_limits_of_the_gate_count() -> None:
    from tasks.compare import accept

    keys = {
        _key(accept, [], [], {Precision.FP32: limits}, (Precision.FP32,), {}, {})
        for limits in (Limits(min_psnr=80), Limits(min_psnr=81), Limits(max_level=1))
    }

    assert len(keys) == 3


def test_tool_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _key(write, "a", ARTIFACT, {})

    monkeypatch.setattr(_caching, "toolchain", lambda: {**_caching.describe_host(), "torch": "99.0"})

    assert _key(write, "a", ARTIFACT, {}) != before


def test_host_counts_where_it_matters_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _key(measure, "a"), _key(write, "a", ARTIFACT, {})

    monkeypatch.setattr(_caching, "describe_host", lambda: {"processor": "another one"})

    assert _key(measure, "a") != before[0]
    assert _key(write, "a", ARTIFACT, {}) == before[1]


def test_schema_of_records_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _key(write, "a", ARTIFACT, {})

    monkeypatch.setattr(_caching, "RECORD_SCHEMA", _caching.RECORD_SCHEMA + 1)

    assert _key(write, "a", ARTIFACT, {}) != before


@pytest.mark.parametrize(
    "options",
    [{"x": float("nan")}, {"x": float("inf")}, {"x": object()}, {object(): 1.0}],
    ids=["nan", "infinity", "object", "object as a key"],
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_input_without_a_key_stops_the_run(options: dict[Any, Any], tmp_path: Path) -> None:
    with running(RunContext(store=Store(tmp_path))), pytest.raises(CacheKeyError):
        write("a", ARTIFACT, options)


def test_unreadable_code_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> str:
        raise SyntaxError("invalid syntax")

    monkeypatch.setattr(_caching, "code_digest", fail)

    with running(RunContext(store=Store(tmp_path))), pytest.raises(CacheKeyError, match="no cache key for stage"):
        write("a", ARTIFACT, {})


def test_stage_outside_a_run_is_a_mistake() -> None:
    with pytest.raises(LookupError):
        write("a", ARTIFACT, {})


# --- records and files, through Prefect's engine ---------------------------------------------------------------------


@dataclass
class Runs:
    """Calls a stage and counts how often it really ran."""

    store: Store
    events: list[StageEvent]

    def __call__(self, text: str = "a") -> Artifact:
        self.events.clear()
        with running(RunContext(store=self.store, observers=(self.events.append,))):
            return write(text, ARTIFACT, {"x": 1.0})

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    @property
    def record(self) -> Path:
        return self.store.records / _key(write, "a", ARTIFACT, {"x": 1.0})


RAN = ["started", "ran"]
REUSED = ["started", "cached"]
REBUILT = ["started", "rebuilding", "ran"]


@pytest.fixture
def runs(engine: None, tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(Store(tmp_path / "store"), [])
    runs()
    assert runs.kinds == RAN
    yield runs
    assert runs.store.get(runs()).read_text() == f"a {ARTIFACT.sha256} {{'x': 1.0}} fp32"
    assert runs.kinds == REUSED


@pytest.mark.slow
def test_second_run_reuses_the_first(runs: Runs) -> None:
    runs()

    assert runs.kinds == REUSED


@pytest.mark.slow
def test_how_long_the_stage_itself_took_is_told_apart_from_what_is_around_it(runs: Runs) -> None:
    runs("b")
    ran = runs.events[-1]
    runs("b")
    reused = runs.events[-1]

    assert 0 < ran.own_seconds < ran.seconds
    assert reused.own_seconds == 0 < reused.seconds


@pytest.mark.slow
def test_other_input_runs(runs: Runs) -> None:
    runs("b")

    assert runs.kinds == RAN


def _sealed(key: str, output: Any) -> dict[str, Any]:
    return {"output": output, "seal": _caching._checksum(key, output)}


def _envelope(runs: Runs, result: Any, **metadata: Any) -> bytes:
    record = json.loads(runs.record.read_bytes())
    record["metadata"].update(metadata)
    return json.dumps({**record, "result": result if isinstance(result, str) else json.dumps(result)}).encode()


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def _pickled(runs: Runs, trap: Path) -> bytes:
    payload = base64.encodebytes(pickle.dumps(_Bomb(trap))).decode()
    serializer = {"type": "pickle", "picklelib": "pickle", "picklelib_version": None}
    return _envelope(runs, payload, serializer=serializer)


def _calling(runs: Runs, trap: Path) -> bytes:
    """Prefect's JSON decoder calls what a record names."""
    hook = "prefect.serializers.prefect_json_object_decoder"
    serializer = {**json.loads(runs.record.read_bytes())["metadata"]["serializer"], "object_decoder": hook}
    return _envelope(runs, {"__exc_type__": "os.mkdir", "message": str(trap)}, serializer=serializer)


def _calling_without_saying_so(runs: Runs, trap: Path) -> bytes:
    return _envelope(runs, _sealed(runs.record.name, {"__exc_type__": "os.mkdir", "message": str(trap)})["output"])


def _another_key_s(runs: Runs, _: Path) -> bytes:
    runs("b")
    return (runs.store.records / _key(write, "b", ARTIFACT, {"x": 1.0})).read_bytes()


def _changed_value(runs: Runs, _: Path) -> bytes:
    return runs.record.read_bytes().replace(b"written.txt", b"wr1tten.txt")


SPOILT: dict[str, Callable[[Runs, Path], bytes]] = {
    "empty": lambda *_: b"",
    "garbage": lambda *_: os.urandom(200),
    "truncated": lambda runs, _: runs.record.read_bytes()[:-40],
    "null": lambda *_: b"null",
    "another shape": lambda *_: b'{"metadata": [], "result": 5}',
    "too deep": lambda *_: b"[" * 100_000,
    "another key's": _another_key_s,
    "a changed value": _changed_value,
    "without seal": lambda runs, _: _envelope(runs, {"name": "x", "sha256": "a" * 64, "size": 1}),
    "older schema": lambda runs, _: _envelope(runs, json.dumps({"name": "x", "sha256": "a" * 64, "size": 1})),
    "pickle": _pickled,
    "a decoder that calls": _calling,
    "a call": _calling_without_saying_so,
}


@pytest.mark.slow
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_spoilt_record_is_a_miss_and_nothing_in_it_is_executed(
    runs: Runs, tmp_path: Path, spoil: Callable[[Runs, Path], bytes]
) -> None:
    runs.record.write_bytes(spoil(runs, tmp_path / "pwned"))

    runs()

    assert runs.kinds == RAN
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
def test_deleted_record_is_a_miss(runs: Runs) -> None:
    runs.record.unlink()

    runs()

    assert runs.kinds == RAN


@pytest.mark.slow
def test_folder_in_place_of_a_record_is_a_miss(runs: Runs) -> None:
    runs.record.unlink()
    runs.record.mkdir()
    (runs.record / "something").write_text("in it")

    runs()

    assert runs.kinds == RAN


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("in it")


def _replace_by_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        flip_byte,
        functools.partial(os.truncate, length=0),
        functools.partial(os.truncate, length=7),
        _replace_by_folder,
        _replace_by_dangling_link,
    ],
    ids=["deleted", "flipped", "emptied", "truncated", "folder", "dangling link"],
)
def test_spoilt_object_is_made_again_and_the_observer_told(runs: Runs, spoil: Callable[[Path], object]) -> None:
    place = runs.store.get(runs())
    spoil(place)

    runs()

    assert runs.kinds == REBUILT
    assert "written.txt" in runs.events[1].detail
    assert place.read_text().startswith("a ")


@pytest.mark.slow
def test_record_that_cannot_be_written_is_an_error(engine: None, tmp_path: Path) -> None:
    """Prefect alone logs it and calls the run complete."""
    runs = Runs(Store(tmp_path / "store"), [])
    runs.store.root.mkdir()
    runs.store.records.write_text("a file where the folder should be")

    with pytest.raises(StoreError, match="record"):
        runs()

    assert runs.kinds == ["started", "failed"]


@pytest.mark.slow
def test_failing_stage_fails_the_flow_and_leaves_no_record(
    engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(Store(tmp_path / "store"), [])

    def fail(**_: Any) -> Artifact:
        raise RuntimeError("no such luck")

    with monkeypatch.context() as patch:
        patch.setattr(write, "function", functools.wraps(write.function)(fail))
        with pytest.raises(RuntimeError, match="no such luck"):
            runs()
    assert runs.kinds == ["started", "failed"]
    assert not runs.record.exists()

    runs()
    assert runs.kinds == RAN


@pytest.mark.slow
def test_input_without_a_key_fails_the_flow(engine: None, tmp_path: Path) -> None:
    from prefect import flow

    @flow(persist_result=False)
    def run() -> Artifact:
        return write("a", ARTIFACT, {"x": float("nan")})

    with running(RunContext(store=Store(tmp_path))), pytest.raises(CacheKeyError):
        run()


# --- locks -----------------------------------------------------------------------------------------------------------

_HOLDER = textwrap.dedent(
    """
    import sys, time
    from aethernet.store.store import Store
    with Store(sys.argv[1]).lock("key"):
        print("held", flush=True)
        time.sleep(600)
    """
)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_lock_is_free_once_its_holder_is_dead(tmp_path: Path, ending: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        waiting = [sys.executable, "-c", _HOLDER.replace("time.sleep(600)", "pass"), str(tmp_path)]
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(waiting, timeout=1, check=False)

        holder.send_signal(ending)

        assert subprocess.run(waiting, timeout=30, check=False, capture_output=True).returncode == 0


# --- a store that several machines share ------------------------------------------------------------------------------


@pytest.fixture
def machines(engine: None, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Runs]:
    def machine(name: str) -> Runs:
        monkeypatch.setattr("aethernet.store.store.default_store", lambda: tmp_path / name / "store")
        return Runs(Store(bucket), [])

    return [machine("one"), machine("other")]


def test_what_one_machine_has_done_no_other_does_again(machines: list[Runs]) -> None:
    one, other = machines

    artifact = one()
    assert one.kinds == RAN
    assert other() == artifact
    assert other.kinds == REUSED
    assert other.store.get(artifact).is_relative_to(other.store.root)
    assert other() == artifact
    assert other.kinds == REUSED  # from its own copy


def test_a_shared_record_is_believed_only_with_its_seal(machines: list[Runs]) -> None:
    one, other = machines
    one()
    path = f"records/{one.record.name}"
    noted = json.loads(one.store.place.read(path) or b"")
    noted["with_checksum"]["output"]["name"] = "forged.bin"
    one.store.place.write(path, json.dumps(noted).encode())

    other()

    assert other.kinds == RAN
    assert one() == other()
    assert other.kinds == REUSED


def test_a_shared_file_that_is_lost_is_made_again_by_whoever_needs_it(machines: list[Runs]) -> None:
    one, other = machines
    artifact = one()
    for entry in one.store.place.entries("objects"):
        one.store.place.remove(entry.path)

    assert other() == artifact
    assert other.kinds == REBUILT
    assert [entry.size for entry in other.store.place.entries("objects")] == [artifact.size]


@stage(quick=True)
def count_letters(text: str) -> int:
    """A stage that takes less time than a lock on object storage."""
    return len(text)


def test_a_quick_stage_locks_no_other_machine_out_and_is_shared_all_the_same(machines: list[Runs]) -> None:
    one, other = machines
    told: list[StageEvent] = []

    for machine in (one, other):
        with running(RunContext(store=machine.store, observers=(told.append,))):
            assert count_letters("abc") == 3

    assert [event.kind for event in told] == [*RAN, *REUSED]
    assert one.store.place.entries("locks") == []
    assert list((one.store.root / "locks").iterdir()) != []
    one()
    assert one.store.place.entries("locks") != []


def test_use_of_a_shared_record_is_noted_for_housekeeping(
    machines: list[Runs], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machines
    one()
    path = f"records/{one.record.name}"
    noted = json.loads(one.store.place.read(path) or b"")
    noted["used"] -= 24 * 3600
    one.store.place.write(path, json.dumps(noted).encode())

    other()

    assert json.loads(one.store.place.read(path) or b"")["used"] > noted["used"] + 20 * 3600
