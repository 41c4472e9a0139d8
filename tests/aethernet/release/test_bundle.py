"""A release folder is exactly what was released, or verification says what is not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from aethernet.checkpoint import load, save_safetensors
from aethernet.errors import BundleError, GateError, StoreError
from aethernet.networks.fusion import fuse, merge_kernels
from aethernet.precision import Precision
from aethernet.records import canonical_json
from aethernet.release.bundle import Bundle, open_bundle
from aethernet.release.manifest import Manifest, checksum_of, identity_of
from aethernet.release.spec import ReleaseSpec
from aethernet.release.verification import require_accepted, verify_bundle
from tests.support.networks import tiny_network
from tests.support.releases import NAME, flip_byte, make_release, reassemble, rewrite, snapshot

FILES = (
    "README.md",
    "bom.cdx.json",
    "build.json",
    "config.json",
    "images/check_input.png",
    "images/check_output.png",
    "images/comparison.png",
    "openmodeldb.json",
    "release.json",
    "report.html",
    f"{NAME}_fp16.onnx",
    f"{NAME}_fp16.pth",
    f"{NAME}_fp16.safetensors",
    f"{NAME}_fp32.onnx",
    f"{NAME}_fp32.pth",
    f"{NAME}_fp32.safetensors",
    # Where ncnn is installed, its two files are made.
    *((f"{NAME}_ncnn.bin", f"{NAME}_ncnn.param") if find_spec("ncnn") else ()),
    f"{NAME}_notfused.safetensors",
)
each_file = pytest.mark.parametrize("path", FILES)


def _listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _problems(root: Path) -> str:
    verification = verify_bundle(root, run=False)
    assert verification.ok is not bool(verification.problems)
    return "\n".join(verification.problems)


def test_release_holds_exactly_these_files(finished_release: Path) -> None:
    assert sorted(snapshot(finished_release)) == sorted(FILES)


def test_whole_release_verifies_and_computes_its_check_image(finished_release: Path) -> None:
    verification = verify_bundle(finished_release)

    assert verification.problems == ()
    assert verification.files == len(FILES)
    assert verification.identity == open_bundle(finished_release).manifest.identity
    assert verification.image is not None
    assert "of 255 levels" in verification.image


def test_verification_without_running_leaves_the_image_out(finished_release: Path) -> None:
    assert verify_bundle(finished_release, run=False).image is None


@pytest.mark.parametrize("position", [0, 0.31, 0.5, 0.87, 1])
@each_file
def test_flipped_byte_is_found_and_its_file_named(release: Path, path: str, position: float) -> None:
    flip_byte(release / path, position)

    assert path in _problems(release)


@each_file
def test_missing_file_is_found_and_named(release: Path, path: str) -> None:
    (release / path).unlink()

    assert path in _problems(release)


@each_file
def test_truncated_file_is_found_and_named(release: Path, path: str) -> None:
    os.truncate(release / path, (release / path).stat().st_size // 2)

    assert path in _problems(release)


@each_file
def test_emptied_file_is_found_and_named(release: Path, path: str) -> None:
    os.truncate(release / path, 0)

    assert path in _problems(release)


@each_file
def test_folder_in_place_of_a_file_is_found_and_named(release: Path, path: str) -> None:
    (release / path).unlink()
    (release / path).mkdir()

    assert path in _problems(release)


@each_file
def test_link_in_place_of_a_file_is_refused_even_if_the_content_is_right(release: Path, path: str) -> None:
    elsewhere = release.parent / "elsewhere"
    shutil.move(release / path, elsewhere)
    (release / path).symlink_to(elsewhere)

    assert path in _problems(release)


def test_link_in_place_of_a_folder_is_refused(release: Path) -> None:
    shutil.move(release / "images", release.parent / "elsewhere")
    (release / "images").symlink_to(release.parent / "elsewhere")

    assert "images: is a link" in _problems(release)


@pytest.mark.parametrize("path", ["README.md", "images", f"{NAME}_fp32.onnx"])
def test_what_a_link_points_to_is_never_opened(release: Path, path: str) -> None:
    outside = release.parent / "outside"
    shutil.move(release / path, outside)
    (release / path).symlink_to(outside)
    program = (
        "import sys, aethernet.release.verification\n"
        "def on_message(event, arguments):\n"
        "    if event == 'open': print(arguments[0])\n"
        "sys.addaudithook(on_message)\n"
        "aethernet.release.verification.verify_bundle(sys.argv[1])\n"
    )

    told = subprocess.run([sys.executable, "-c", program, release], capture_output=True, text=True, check=True)

    opened = [Path(line).resolve() for line in told.stdout.splitlines() if line.startswith(str(release.parent))]
    assert release / "release.json" in opened
    assert not [place for place in opened if place.is_relative_to(outside)]


def test_fifo_is_refused_without_waiting_for_a_writer(release: Path) -> None:
    (release / "config.json").unlink()
    os.mkfifo(release / "config.json")

    assert "config.json: is a link or special file" in _problems(release)


@pytest.mark.parametrize("path", ["extra.txt", "images/extra.png", ".hidden", "sub/folder/extra.bin"])
def test_extra_file_is_found(release: Path, path: str) -> None:
    (release / path).parent.mkdir(parents=True, exist_ok=True)
    (release / path).write_bytes(b"")

    assert path.split("/")[0] in _problems(release)


@pytest.mark.parametrize("path", ["empty", "images/empty", ".empty"])
def test_empty_extra_folder_is_found(release: Path, path: str) -> None:
    (release / path).mkdir()

    assert f"{path}/: is not part of the release" in _problems(release)


def test_release_made_before_there_was_a_report_is_whole_and_takes_none(release: Path) -> None:
    for name in ("report.html", "openmodeldb.json"):
        (release / name).unlink()
    rewrite(release)
    assert verify_bundle(release, run=False).ok

    (release / "report.html").write_text("<p>Not ours.</p>")

    assert "report.html: is not part of the release" in _problems(release)


def test_digest_of_something_that_is_no_record_is_found(release: Path) -> None:
    build = open_bundle(release).build
    strange = build.model_copy(update={"digests": {**build.digests, "extra.html": "0" * 64}})
    (release / "build.json").write_bytes(canonical_json(strange.model_copy(update={"checksum": checksum_of(strange)})))

    assert "extra.html: is not part of the release" in _problems(release)


def test_every_problem_is_told_at_once(release: Path) -> None:
    flip_byte(release / "config.json")
    (release / "images/comparison.png").unlink()
    (release / "extra").write_bytes(b"")

    problems = _problems(release)

    assert [name in problems for name in ("config.json", "images/comparison.png", "extra")] == [True] * 3


def _edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


UNSAFE = {
    "parent": "../outside",
    "parent in the middle": "images/../../outside",
    "absolute": "/etc/hostname",
    "backslash": "images\\outside",
    "drive": "C:outside",
    "drive and root": "C:/outside",
    "stream": "config.json:stream",
    "device": "NUL",
    "device with an ending": "images/con.png",
    "device with a blank": "aux .txt",
    "console": "CONIN$",
    "port": "com1",
    "dot": "./config.json",
    "doubled slash": "images//check_input.png",
    "slash at the end": "images/",
    "nothing": "",
    "ends in a dot": "config.json.",
    "ends in a blank": "config.json ",
    "line break": "config\n.json",
    "null": "config\0.json",
    "turned around": "config\u202egnp.json",
}


@pytest.mark.parametrize("path", UNSAFE.values(), ids=UNSAFE.keys())
def test_unsafe_path_in_the_manifest_is_refused(release: Path, path: str) -> None:
    _edit_json(release / "release.json", lambda content: content["files"][0].update(path=path))

    with pytest.raises(BundleError, match=r"release\.json names unsafe paths"):
        open_bundle(release)
    assert "release.json" in _problems(release)


@pytest.mark.parametrize(
    "path",
    ["CONFIG.json", "config.JSON", "Readme.MD", "release.json", "build.json", "model.sig", "\u212aonfig.json"],
)
def test_paths_that_only_case_tells_apart_are_refused(release: Path, path: str) -> None:
    def add(content: dict[str, Any]) -> None:
        content["files"][0]["path"] = "kONFIG.json" if path.startswith("\u212a") else content["files"][0]["path"]
        content["files"].append({**content["files"][-1], "path": path})

    _edit_json(release / "release.json", add)

    with pytest.raises(BundleError, match=r"release\.json names a path twice"):
        open_bundle(release)


def _put_json(release: Path, name: str, data: bytes) -> str:
    (release / name).write_bytes(data)
    with pytest.raises(BundleError) as caught:
        open_bundle(release)
    assert _problems(release) == str(caught.value)
    return str(caught.value)


each_record = pytest.mark.parametrize("name", ["release.json", "build.json"])
BROKEN_JSON = {
    "empty": b"",
    "no JSON": b"PK\x03\x04",
    "cut": b'{"schema_version": 1, "na',
    "not UTF-8": b'{"schema_version": 1, "name": "\xff"}',
    "another type": b"[]",
    "null": b"null",
    "lone surrogate": b'{"schema_version": 1, "name": "\\ud800"}',
    "too deep": b"[" * 200_000,
    "endless number": b'{"schema_version": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("data", BROKEN_JSON.values(), ids=BROKEN_JSON.keys())
@each_record
def test_record_that_is_not_what_it_should_be_is_refused(release: Path, name: str, data: bytes) -> None:
    assert name in _put_json(release, name, data)


@each_record
def test_record_of_a_newer_schema_asks_for_an_upgrade(release: Path, name: str) -> None:
    _edit_json(release / name, lambda content: content.update(schema_version=2, something="new"))

    with pytest.raises(BundleError, match=f"{name} has schema version 2, this tool knows 1") as caught:
        open_bundle(release)
    assert caught.value.hint == "upgrade aethernet"


@each_record
def test_unknown_field_is_refused(release: Path, name: str) -> None:
    _edit_json(release / name, lambda content: content.update(surprise=1))

    with pytest.raises(BundleError, match=f"{name} breaks its schema at surprise"):
        open_bundle(release)


@each_record
def test_huge_record_is_refused_without_reading_it(release: Path, name: str) -> None:
    os.truncate(release / name, 65 * 2**20)

    with pytest.raises(BundleError, match=f"{name} is larger than 64 MiB"):
        open_bundle(release)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@each_record
def test_number_that_is_none_is_refused(release: Path, name: str, number: str) -> None:
    field = {"release.json": '"mean_abs": ', "build.json": '"median_ms": '}[name]
    text = (release / name).read_text()
    start = text.index(field) + len(field)
    end = text.index(",", start)

    message = _put_json(release, name, (text[:start] + number + text[end:]).encode())

    assert message.startswith(f"{name} is not JSON: expected a number")


def test_folder_without_records_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"expected a release folder with release\.json"):
        open_bundle(tmp_path)


def test_file_is_no_release(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    assert not verify_bundle(tmp_path / "file").ok
    assert not verify_bundle(tmp_path / "nothing").ok


def test_records_of_two_releases_do_not_go_together(release: Path) -> None:
    build = open_bundle(release).build

    rewrite(release, build=build.model_copy(update={"identity": "0" * 64}))

    assert "build.json: belongs to another release" in _problems(release)


def test_identity_is_that_of_the_files(release: Path) -> None:
    manifest = open_bundle(release).manifest

    rewrite(release, manifest.model_copy(update={"identity": "0" * 64}))

    assert "release.json: its identity is not that of its files" in _problems(release)


def test_identity_depends_on_weights_onnx_and_config_alone(finished_release: Path) -> None:
    files = open_bundle(finished_release).manifest.files

    for changed in files:
        others = tuple(entry.model_copy(update={"sha256": "0" * 64}) if entry is changed else entry for entry in files)

        assert (identity_of(others) != identity_of(files)) is (changed.role not in ("picture", "bill", "ncnn"))
    assert identity_of(files[::-1]) == identity_of(files)


@pytest.mark.slow
def test_network_that_computes_another_image_is_found(release: Path) -> None:
    """All digests fit; only running it shows."""
    manifest = open_bundle(release).manifest
    other = fuse(tiny_network(seed=1))
    from aethernet.export import export_onnx

    export_onnx(other, release / f"{NAME}_fp32.onnx")
    _reseal(release, manifest)

    assert verify_bundle(release, run=False).ok
    assert "computes another image" in "".join(verify_bundle(release).problems)


def test_onnx_file_that_cannot_be_run_is_a_problem_not_a_crash(release: Path) -> None:
    manifest = open_bundle(release).manifest
    (release / f"{NAME}_fp32.onnx").write_bytes(b"not a network")
    _reseal(release, manifest)

    assert "could not be run on the check image" in "".join(verify_bundle(release).problems)


def test_manifest_without_channels_is_a_problem_not_a_crash(release: Path) -> None:
    manifest = open_bundle(release).manifest
    rewrite(release, manifest.model_copy(update={"network": manifest.network.model_copy(update={"config": {}})}))

    assert "release.json: expected a network of 1 or 3 channels" in "".join(verify_bundle(release).problems)


def _reseal(release: Path, manifest: Manifest) -> None:
    from aethernet.artifact import file_digest

    files = tuple(
        entry.model_copy(
            update={
                "sha256": file_digest(release / entry.path),
                "size": (release / entry.path).stat().st_size,
            }
        )
        for entry in manifest.files
    )
    identity = identity_of(files)
    build = open_bundle(release).build.model_copy(update={"identity": identity})
    rewrite(release, manifest.model_copy(update={"files": files, "identity": identity}), build)


# --- assembling ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(finished_release: Path) -> Bundle:
    return open_bundle(finished_release)


def test_assembled_copy_is_the_same_to_the_byte(bundle: Bundle, tmp_path: Path) -> None:
    assert reassemble(bundle, tmp_path / "out" / NAME)

    assert snapshot(tmp_path / "out" / NAME) == snapshot(bundle.root)
    assert _listed(tmp_path / "out") == [NAME]


def test_identical_release_is_left_alone(bundle: Bundle, release: Path) -> None:
    before = {path: (release / path).stat().st_mtime_ns for path in FILES}

    assert not reassemble(bundle, release)

    assert {path: (release / path).stat().st_mtime_ns for path in FILES} == before


@each_file
def test_spoilt_release_is_put_right(bundle: Bundle, release: Path, path: str) -> None:
    flip_byte(release / path)

    assert reassemble(bundle, release)

    assert snapshot(release) == snapshot(bundle.root)
    assert _listed(release.parent) == [NAME]


def test_files_of_the_replaced_release_go_with_it(bundle: Bundle, release: Path) -> None:
    manifest = open_bundle(release).manifest
    (release / "older.onnx").write_bytes(b"older")
    older = manifest.files[0].model_copy(update={"path": "older.onnx"})
    rewrite(release, manifest.model_copy(update={"files": (*manifest.files, older)}))

    assert reassemble(bundle, release)

    assert snapshot(release) == snapshot(bundle.root)


@pytest.mark.parametrize("path", ["thesis.tex", "images/holiday.jpg"])
@pytest.mark.parametrize("with_release", [True, False])
def test_folder_with_foreign_files_is_not_touched(bundle: Bundle, release: Path, path: str, with_release: bool) -> None:
    if not with_release:
        shutil.rmtree(release)
    (release / path).parent.mkdir(parents=True, exist_ok=True)
    (release / path).write_text("years of work")
    before = snapshot(release.parent)

    with pytest.raises(BundleError, match=f"found other files: {path}"):
        reassemble(bundle, release)

    assert snapshot(release.parent) == before


def test_foreign_release_json_does_not_make_a_folder_ours(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "release.json").write_text('{"of": "another program"}')
    (tmp_path / NAME / "main.c").write_text("years of work")

    with pytest.raises(BundleError, match=r"found other files: main\.c"):
        reassemble(bundle, tmp_path / NAME)


def test_file_where_the_release_should_go_is_not_touched(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("years of work")

    with pytest.raises(BundleError):
        reassemble(bundle, tmp_path / NAME)

    assert (tmp_path / NAME).read_text() == "years of work"


def test_link_where_the_release_should_go_is_not_followed(bundle: Bundle, release: Path, tmp_path: Path) -> None:
    flip_byte(release / "config.json")
    (tmp_path / "link").symlink_to(release)

    with pytest.raises(BundleError, match="found other files: link"):
        reassemble(bundle, tmp_path / "link")


def test_manifest_and_files_must_agree(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="disagree"):
        reassemble(bundle, tmp_path / NAME, {"surprise.txt": bundle.root / "README.md"})

    assert _listed(tmp_path) == []


def test_file_that_is_not_what_the_manifest_says_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"config\.json changed while it was copied"):
        reassemble(bundle, tmp_path / NAME, {"config.json": bundle.root / "README.md"})

    assert _listed(tmp_path) == []


@pytest.mark.parametrize("failing", range(0, 12, 3))
@pytest.mark.parametrize("old", [True, False])
def test_failed_copy_leaves_what_was_there(
    bundle: Bundle, release: Path, monkeypatch: pytest.MonkeyPatch, failing: int, old: bool
) -> None:
    if old:
        flip_byte(release / "config.json")  # an older build, to be replaced
    else:
        shutil.rmtree(release)
    before = snapshot(release.parent)
    copies = iter(range(100))
    copy = shutil.copyfile

    def copyfile(source: Path, target: Path) -> Path:
        if next(copies) == failing:
            target.write_bytes(b"half a fi")
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    if failing >= len(bundle.manifest.files):
        pytest.skip("there are fewer files")

    with pytest.raises(StoreError, match="No space left on device"):
        reassemble(bundle, release)

    assert snapshot(release.parent) == before


def test_failed_last_step_puts_the_old_release_back(
    bundle: Bundle, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_byte(release / "config.json")
    before = snapshot(release.parent)
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if str(source).endswith(".part"):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)

    with pytest.raises(StoreError, match="Input/output error"):
        reassemble(bundle, release)

    assert snapshot(release.parent) == before


# --- what may be published -------------------------------------------------------------------------------------------


def test_accepted_release_may_be_published(finished_release: Path) -> None:
    require_accepted(open_bundle(finished_release).manifest)


@pytest.mark.parametrize(
    "change",
    [
        {"max_abs": 0.5},
        {"psnr": 20.0},
        {"finite": False},
        {"problem": "could not be run"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_measurement_beyond_its_limits_is_not_published(finished_release: Path, change: dict[str, Any]) -> None:
    manifest = open_bundle(finished_release).manifest
    worst = next(item for item in manifest.measurements if item.form.precision is Precision.FP32)
    measurements = tuple(item.model_copy(update=change) if item is worst else item for item in manifest.measurements)

    with pytest.raises(GateError, match="fp32 must pass and did not"):
        require_accepted(manifest.model_copy(update={"measurements": measurements}))


def test_released_file_without_measurements_is_not_published(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest
    others = tuple(item for item in manifest.measurements if item.form.file != f"{NAME}_fp16.onnx")

    with pytest.raises(GateError, match=f"found none of {NAME}_fp16.onnx"):
        require_accepted(manifest.model_copy(update={"measurements": others}))
    with pytest.raises(GateError, match="expected measurements"):
        require_accepted(manifest.model_copy(update={"measurements": ()}))


def test_released_form_without_limits_is_not_published(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest

    with pytest.raises(GateError, match="expected limits for every released form, found none for fp32, fp16"):
        require_accepted(manifest.model_copy(update={"limits": {}}))


def test_files_of_a_skipped_form_are_not_published(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest
    forms = tuple(
        form.model_copy(update={"status": "skipped", "reason": "too far off"})
        if form.precision is Precision.FP16
        else form
        for form in manifest.forms
    )

    with pytest.raises(GateError, match="expected files of released forms only"):
        require_accepted(manifest.model_copy(update={"forms": forms}))


def test_loss_against_the_original_images_is_judged_again(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest
    quality = tuple(
        item.model_copy(update={"psnr_rgb": item.psnr_rgb - 1}) if item.form == f"{NAME}_fp32.onnx" else item
        for item in manifest.quality
        if item.psnr_rgb is not None
    )

    with pytest.raises(GateError, match="loses 1"):
        require_accepted(manifest.model_copy(update={"quality": quality}))


@pytest.mark.parametrize("fold", [merge_kernels, pytest.param(fuse, marks=pytest.mark.slow)])
def test_checkpoint_that_arrives_folded_is_released_and_may_be_published(tmp_path: Path, fold: Callable) -> None:
    spec = ReleaseSpec(
        name=NAME,
        checkpoint=save_safetensors(fold(tiny_network()), tmp_path / "net.safetensors"),
        precisions=("fp32",),
        engines={"backends": ()},
    )

    bundle = open_bundle(make_release(spec, tmp_path))

    require_accepted(bundle.manifest)
    assert bundle.manifest.reference is not None
    assert bundle.manifest.reference.path == f"{NAME}_source.safetensors"
    assert verify_bundle(bundle.root).ok


# --- the card's word -------------------------------------------------------------------------------------------------


def test_every_file_a_release_lists_loads(finished_release: Path) -> None:
    for entry in open_bundle(finished_release).manifest.files:
        if entry.role == "weights":
            assert load(finished_release / entry.path).config.scale == 2
