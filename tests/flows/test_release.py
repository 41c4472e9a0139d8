"""A whole release, from a spec to a hub, through Prefect's engine."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from aethernet.release.bundle import open_bundle
from aethernet.release.signing import Trust
from aethernet.release.verification import verify_bundle
from tests.support.keys import key_pair
from tests.support.releases import NAME, flip_byte, snapshot, tiny_checkpoint
from tests.support.workplace import REPOSITORY, CommandLine, Finished, Workplace

pytestmark = pytest.mark.slow


def _times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(root.rglob("*"))}


def test_release_is_whole_published_and_verified(first_release: tuple[Workplace, Finished]) -> None:
    place, finished = first_release
    summary = finished.summary

    assert summary["bundle"] == str(place.bundle)
    assert verify_bundle(place.bundle).problems == ()
    assert summary["identity"] == open_bundle(place.bundle).manifest.identity
    assert summary["published"] == f"{place.hub.as_uri()}/{NAME}@1.0.0"
    assert summary["already_published"] is False
    assert summary["verified"]["identity"] == summary["identity"]
    assert snapshot(place.published) == snapshot(place.bundle)
    assert summary["unchanged"] == []


def test_nothing_is_left_beside_the_release(first_release: tuple[Workplace, Finished]) -> None:
    place, _ = first_release

    assert [path.name for path in place.output.iterdir()] == [NAME]
    assert [path.name for path in place.published.parent.iterdir()] == ["1.0.0"]
    assert list((place.store / "scratch").iterdir()) == []
    assert not (place.root / "cache" / "aethernet").exists()


def test_bundle_holds_copies_not_links_into_the_store(first_release: tuple[Workplace, Finished]) -> None:
    place, _ = first_release

    assert {path.stat().st_nlink for path in place.bundle.rglob("*") if path.is_file()} == {1}


def test_form_that_cannot_be_made_is_named_with_the_reason(first_release: tuple[Workplace, Finished]) -> None:
    forms = {form["precision"]: form for form in first_release[1].summary["forms"]}

    assert [forms[one]["status"] for one in ("fp32", "fp16", "int8")] == ["released", "released", "skipped"]
    assert forms["int8"]["reason"] == "left out by the spec"
    assert "int8 is not part of this release" in (first_release[0].bundle / "README.md").read_text()


def test_second_run_executes_nothing_changes_no_byte_and_says_so_in_prefects_ui(
    first_release: tuple[Workplace, Finished], prefect_home: Path, server: dict[str, str]
) -> None:
    place, first = first_release
    before = [snapshot(place.bundle), snapshot(place.hub), _times(place.bundle), _times(place.hub)]

    second = place.run(place.release, prefect_home, **server)

    assert second.code == 0, second.err
    assert second.summary["ran"] == []
    assert sorted(second.summary["unchanged"]) == sorted(first.summary["ran"])
    assert second.summary["step_seconds"] == 0 < second.summary["seconds"]
    lines = [one["message"] for one in httpx.post(f"{server['PREFECT_API_URL']}/logs/filter", json={}).json()]
    assert {f"{step}: unchanged" for step in second.summary["unchanged"]} <= set(lines)
    assert "export: unchanged" not in second.err  # Prefect's log is Prefect's; stderr has lines of its own
    assert second.summary["already_published"] is True
    assert [snapshot(place.bundle), snapshot(place.hub), _times(place.bundle), _times(place.hub)] == before


def test_finished_store_makes_the_same_release_elsewhere(
    first_release: tuple[Workplace, Finished], workplace: Workplace, command_line: CommandLine
) -> None:
    finished = command_line(workplace.release)

    assert finished.code == 0, finished.err
    assert finished.ran == [f"assemble {NAME}", f"publish {NAME}"]
    assert snapshot(workplace.bundle) == snapshot(first_release[0].bundle)


@pytest.fixture
def assembled(workplace: Workplace, first_release: tuple[Workplace, Finished]) -> Workplace:
    for name in ("out", "hub"):
        shutil.copytree(first_release[0].root / name, workplace.root / name)
    return workplace


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILT: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "onnx deleted": (f"{NAME}_fp32.onnx", Path.unlink, "export"),
    "half onnx flipped": (f"{NAME}_fp16.onnx", flip_byte, "export_half"),
    "weights truncated": (f"{NAME}_fp16.pth", functools.partial(os.truncate, length=99), "fuse fp16"),
    "image is a folder": ("images/comparison.png", _replace_by_folder, "draw"),
    "config emptied": ("config.json", functools.partial(os.truncate, length=0), "write_config"),
    "card deleted": ("README.md", Path.unlink, "card"),
    "report flipped": ("report.html", flip_byte, "report"),
    "database entry deleted": ("openmodeldb.json", Path.unlink, "openmodeldb"),
}


@pytest.mark.parametrize("case", SPOILT.values(), ids=SPOILT.keys())
def test_spoilt_object_runs_exactly_its_stage_again(
    assembled: Workplace, command_line: CommandLine, case: tuple[str, Callable[[Path], object], str]
) -> None:
    path, spoil, stage = case
    before = snapshot(assembled.bundle), snapshot(assembled.hub)
    spoil(assembled.place_of(path))

    finished = command_line(assembled.release)

    assert finished.code == 0, finished.err
    assert finished.ran == [stage]
    assert f"! {stage}: " in finished.err
    assert "making it again" in finished.err
    assert (snapshot(assembled.bundle), snapshot(assembled.hub)) == before


@pytest.mark.parametrize("path", ["config.json", f"{NAME}_fp32.onnx", "README.md", "report.html", "build.json"])
def test_spoilt_release_folder_is_put_right_from_the_store(
    assembled: Workplace, command_line: CommandLine, path: str
) -> None:
    before = snapshot(assembled.bundle)
    flip_byte(assembled.bundle / path)

    finished = command_line(assembled.release)

    assert finished.code == 0, finished.err
    assert finished.ran == [f"assemble {NAME}"]
    assert snapshot(assembled.bundle) == before


def test_spoilt_published_release_fails_the_run(assembled: Workplace, command_line: CommandLine) -> None:
    flip_byte(assembled.published / "config.json")

    finished = command_line(assembled.release)

    assert finished.code == 1
    assert "config.json is not what was released" in finished.err
    verified = command_line(["verify-published", f"{assembled.hub.as_uri()}/{NAME}"])
    assert verified.code == 1
    assert "config.json is not what was released" in verified.err


def test_changed_template_renders_the_card_and_runs_nothing_else(
    assembled: Workplace,
    first_release: tuple[Workplace, Finished],
    prefect_home: Path,
    server: dict[str, str],
    tmp_path: Path,
) -> None:
    for package in ("aethernet", "tasks", "flows"):
        shutil.copytree(REPOSITORY / package, tmp_path / "tree" / package)
    template = tmp_path / "tree/aethernet/release/card/template.md.jinja"
    template.write_text(template.read_text() + "\nA new last line.\n")
    before, published = snapshot(assembled.bundle), snapshot(first_release[0].hub)
    arguments = [*assembled.release[:-4], "--hub", first_release[0].hub.as_uri(), "--fresh", "--json"]

    finished = assembled.run(arguments, prefect_home, tmp_path / "tree", **server)

    assert finished.code == 0, finished.err
    assert finished.summary["ran"] == ["card", f"assemble {NAME}"]
    after = snapshot(assembled.bundle)
    assert {path for path in after if after[path] != before[path]} == {"README.md", "build.json"}
    assert (assembled.bundle / "README.md").read_text().endswith("A new last line.\n")
    assert snapshot(first_release[0].hub) == published


def test_other_content_under_a_published_version_is_refused(assembled: Workplace, command_line: CommandLine) -> None:
    published = snapshot(assembled.hub)
    assembled.edit_spec("[export]\nopset = 18\n")

    finished = command_line(assembled.release)

    assert finished.code == 1
    assert "is published with identity" in finished.err
    assert "raise `version` in the spec" in finished.err
    assert snapshot(assembled.hub) == published


# --- the gate --------------------------------------------------------------------------------------------------------


def _require_refused(workplace: Workplace, finished: Finished, *words: str) -> None:
    assert finished.code == 1
    for word in words:
        assert word in finished.out + finished.err
    workplace.require_unpublished()
    assert not workplace.bundle.exists()


def test_missed_limit_shows_the_whole_table_and_publishes_nothing(
    workplace: Workplace, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.edit_spec("[limits.fp32]\nmin_psnr = 500\n")
    table, summary = workplace.root / "table.md", workplace.root / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))

    finished = command_line([*workplace.release, "--table", str(table)])

    _require_refused(workplace, finished, "fp32 must pass and did not", "nothing was published")
    rows = [line for line in finished.out.splitlines() if line.startswith("| fp")]
    assert len(rows) == 2 * 7 + 4 * 6  # ONNX on every case, weights on those that tell; those that pass as well
    assert any("dB < 500 dB" in row for row in rows)
    assert any(row.endswith("passes |") for row in rows)
    assert [line for line in table.read_text().splitlines() if line.startswith("| fp")] == rows
    assert all(row in summary.read_text() for row in rows)
    assert summary.read_text().startswith("# Not released\n\nfp32 must pass and did not")


def test_form_asked_for_that_cannot_be_made_fails_the_release(workplace: Workplace, command_line: CommandLine) -> None:
    kept = [line for line in workplace.spec.read_text().splitlines() if not line.startswith(("images", "hr", "leave"))]
    workplace.spec.write_text("\n".join(kept) + "\n")

    finished = command_line([*workplace.release, "--precisions", "fp32,int8"])

    _require_refused(workplace, finished, "int8 must pass and did not", "expected calibration images")


def test_form_asked_for_that_misses_its_limits_fails_the_release(
    workplace: Workplace, command_line: CommandLine
) -> None:
    workplace.edit_spec("[limits.fp16]\nmin_psnr = 500\n")

    finished = command_line([*workplace.release, "--precisions", "fp16"])

    _require_refused(workplace, finished, "fp16 must pass and did not")


def test_form_made_by_default_that_misses_its_limits_is_left_out_with_its_numbers(
    workplace: Workplace, command_line: CommandLine
) -> None:
    workplace.edit_spec("[limits.fp16]\nmin_psnr = 500\n")

    finished = command_line(workplace.release)

    assert finished.code == 0, finished.err
    forms = {form["precision"]: form for form in finished.summary["forms"]}
    assert [forms[one]["status"] for one in ("fp32", "fp16", "int8")] == ["released", "skipped", "skipped"]
    assert "dB < 500 dB" in forms["fp16"]["reason"]
    manifest = open_bundle(workplace.bundle).manifest
    assert not [entry.path for entry in manifest.files if "fp16" in entry.path]
    assert [item for item in manifest.measurements if item.form.precision == "fp16"]
    assert "fp16 is not part of this release" in (workplace.bundle / "README.md").read_text()
    assert verify_bundle(workplace.published).ok


def test_form_not_asked_for_is_not_made(workplace: Workplace, command_line: CommandLine) -> None:
    finished = command_line([*workplace.release, "--precisions", "fp32"])

    assert finished.code == 0, finished.err
    assert [form["precision"] for form in finished.summary["forms"]] == ["fp32"]


# --- every step in turn fails ----------------------------------------------------------------------------------------

STAGES = (
    "load",
    "fuse",
    "export",
    "export_half",
    "run_reference",
    "compare",
    "accept",
    "benchmark",
    "describe_network",
    "draw",
    "write_config",
    "describe",
    "bill",
    "record_build",
    "card",
    "report",
    "openmodeldb",
)
INT8_STAGES = ("sensitivity", "quantize", "export_quantized", "measure_speedup")
"""These do not run here, see tests/flows/test_int8.py."""
PLAIN = ("fetch_checkpoint", "fetch_images")
LATE = ("assemble_bundle", "publish_release")


def _fail(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no such luck")


def test_every_stage_of_the_flow_is_listed_here() -> None:
    assert _stages().keys() == {*STAGES, *INT8_STAGES}


def _stages() -> dict[str, Any]:
    import flows.precisions
    import flows.release
    from tasks.caching import Stage

    named = {**vars(flows.precisions), **vars(flows.release)}
    return {name: value for name, value in named.items() if isinstance(value, Stage)}


@pytest.mark.parametrize("step", [*PLAIN, *STAGES[::3], *LATE])  # all stages are called in one and the same way
def test_failing_step_fails_the_run_and_publishes_nothing(
    workplace: Workplace, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    import flows.release as module
    import tasks.assemble
    import tasks.publish

    if step in STAGES:
        stage = _stages()[step]
        monkeypatch.setattr(stage, "key", lambda _: "f" * 64)  # not in the cache
        monkeypatch.setattr(stage, "function", functools.wraps(stage.function)(_fail))
    else:
        place = {"assemble_bundle": tasks.assemble, "publish_release": tasks.publish}.get(step, module)
        monkeypatch.setattr(place, step, _fail)

    finished = command_line(workplace.release)

    assert finished.code == 1
    assert finished.out == ""
    assert "error: RuntimeError: no such luck" in finished.err
    workplace.require_unpublished()
    assert workplace.bundle.exists() is (step == "publish_release")


def test_failed_look_at_the_published_release_fails_the_run(
    workplace: Workplace, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aethernet.hub.publishing as module

    monkeypatch.setattr(module, "verify_bundle", _fail_second(module.verify_bundle))

    assert command_line(workplace.release).code == 1


def _fail_second(function: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[object] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return function(*args, **kwargs) if len(calls) == 1 else _fail()

    return call


# --- misuse ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["release"], "expected a spec, or --checkpoint and --name"),
        (["release", "nowhere.toml"], "expected a release spec at nowhere.toml, found nothing"),
        (["release", "--checkpoint", "nowhere.pth", "--name", "x"], "expected a checkpoint at"),
        (["release", "--checkpoint", "a.pth", "--name", "../x"], "'name': expected"),
        (["release", "--checkpoint", "a.pth", "--name", "x", "--precisions", "fp8"], "precisions"),
        (["release", "--no-such-option"], "No such option"),
        (["release-all", "nowhere"], "expected NAME/release.toml in nowhere, found none"),
        (["verify-published", "no-address"], "expected an address"),
    ],
)
def test_misuse_is_exit_code_2_with_words_on_stderr(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    places = ["--store", str(tmp_path / "store")] if arguments[0] == "release" else []

    finished = command_line([*arguments, *places])

    assert finished.code == 2
    assert finished.out == ""
    assert words in finished.err
    assert "Traceback" not in finished.err


def test_checkpoint_with_another_digest_is_refused(workplace: Workplace, command_line: CommandLine) -> None:
    workplace.edit_spec(f'checkpoint_sha256 = "{"0" * 64}"\n')

    finished = command_line(workplace.release)

    _require_refused(workplace, finished, "expected a checkpoint with sha256 0000")


# --- many at once ----------------------------------------------------------------------------------------------------


def test_one_broken_spec_does_not_stop_the_others(
    workplace: Workplace, command_line: CommandLine, tmp_path: Path
) -> None:
    specs, key = tmp_path / "specs", key_pair(tmp_path, "ours")
    options = 'images = "../low"\nprecisions = ["fp32"]\nengines.backends = []\n'
    for name in (NAME, "broken_2x", "unreadable_2x"):
        (specs / name).mkdir(parents=True)
        checkpoint = "broken.pth" if name == "broken_2x" else "tiny.safetensors"
        text = f'name = "{name}"\nlicense = "CC0-1.0"\ncheckpoint = "../{checkpoint}"\n{options}'
        (specs / name / "release.toml").write_text(text if name != "unreadable_2x" else "name = ")
    tiny_checkpoint(specs)
    shutil.copytree(workplace.spec.parent / "low", specs / "low")
    (specs / "broken.pth").write_bytes(b"no checkpoint")

    finished = command_line(["release-all", str(specs), *workplace.places, "--sign-key", str(key.private), "--json"])

    assert finished.code == 1
    results = {result["name"]: result for result in json.loads(finished.out)}
    failed = {name for name, result in results.items() if result["error"]}
    assert failed == {"broken_2x", "unreadable_2x"}, finished.out
    assert [path.name for path in workplace.hub.iterdir()] == [NAME]
    assert verify_bundle(workplace.published, trust=Trust(public_key=key.public.read_text())).ok
    told = command_line(["verify-published", f"{workplace.hub.as_uri()}/{NAME}", "--json"])
    assert told.summary["identity"] == results[NAME]["identity"]
