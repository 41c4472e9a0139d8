"""Published releases, looked at again: kept promises pass, every kind of broken one is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper

from aethernet.artifact import file_digest
from aethernet.errors import HubError, UsageError
from aethernet.hub.connecting import connect
from aethernet.hub.reverify import ReverifyFinding, Target, issue_text, released_at, reverify, specified_in
from aethernet.release.bundle import open_bundle
from aethernet.release.manifest import identity_of
from aethernet.release.signing import Signer, sign_bundle
from aethernet.release.spec import ReleaseSpec, make_spec
from tests.support.keys import KeyPair, key_pair
from tests.support.releases import NAME, flip_byte, rewrite, tiny_checkpoint


@pytest.fixture
def pictures(finished_release: Path) -> list[Path]:
    root = finished_release.parents[1]
    return [root / "low", root / "high"]


@pytest.fixture
def key(tmp_path: Path) -> KeyPair:
    return key_pair(tmp_path, "ours")


def published(release: Path) -> Target:
    place = (release.parent / "hub").as_uri()
    connect(place).publish(open_bundle(release), NAME)
    return Target(address=f"{place}/{NAME}@1.0.0")


def folder_of(release: Path) -> Path:
    return release.parent / "hub" / NAME / "1.0.0"


def own_spec(folder: Path) -> ReleaseSpec:
    return make_spec({"name": NAME, "checkpoint": tiny_checkpoint(folder)})


def test_release_that_keeps_its_promises_passes_with_its_signature_spec_and_all_its_numbers(
    release: Path, pictures: list[Path], key: KeyPair, tmp_path: Path
) -> None:
    signer = Signer(private_key=key.private)
    sign_bundle(open_bundle(release), signer)
    manifest = open_bundle(release).manifest
    target = replace(published(release), spec=own_spec(tmp_path))

    found = reverify(target, trust=signer.trust(), images=pictures)

    assert found.problems == ()
    assert found.note == ""
    assert found.identity == manifest.identity
    assert found.signature.startswith("signed by the key")
    assert set(found.forms) == {item.form.file for item in manifest.measurements}
    promised = sum(item.psnr_rgb is not None for item in manifest.quality)
    assert found.numbers == len(manifest.measurements) + promised > 20


def test_signature_of_somebody_else_is_found(slim_release: Path, key: KeyPair, tmp_path: Path) -> None:
    sign_bundle(open_bundle(slim_release), Signer(private_key=key.private))
    theirs = Signer(private_key=key_pair(tmp_path, "theirs").private)

    found = reverify(published(slim_release), trust=theirs.trust())

    assert "expected a signature by" in found.problems[0]


def test_without_pictures_limits_and_spec_are_held_and_the_note_says_what_was_not(
    release: Path, tmp_path: Path
) -> None:
    other = own_spec(tmp_path).model_copy(update={"checkpoint": release / f"{NAME}_fp32.safetensors"})

    found = reverify(replace(published(release), spec=other))

    (problem,) = found.problems
    assert "expected a release of the checkpoint" in problem
    assert found.forms
    assert found.numbers == 0
    assert "numbers were not measured again" in found.note


def _flip(folder: Path) -> None:
    flip_byte(folder / f"{NAME}_fp32.onnx")


def _delete(folder: Path) -> None:
    (folder / f"{NAME}_fp32.onnx").unlink()


def _add(folder: Path) -> None:
    (folder / "extra.txt").write_text("hello")


def _forget_the_manifest(folder: Path) -> None:
    (folder / "release.json").unlink()


def _spoil_weights(folder: Path) -> None:
    """Another fp16 network, in a release whose digests all fit."""
    path = folder / f"{NAME}_fp16.onnx"
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.5, tensor.name))
    onnx.save(model, path)
    bundle = open_bundle(folder)
    files = tuple(
        entry.model_copy(update={"sha256": file_digest(path), "size": path.stat().st_size})
        if entry.path == path.name
        else entry
        for entry in bundle.manifest.files
    )
    identity = identity_of(files)
    rewrite(
        folder,
        bundle.manifest.model_copy(update={"files": files, "identity": identity}),
        bundle.build.model_copy(update={"identity": identity}),
    )


def _promise_more_quality(folder: Path) -> None:
    manifest = open_bundle(folder).manifest
    better = tuple(item.model_copy(update={"psnr_rgb": (item.psnr_rgb or 0) + 1}) for item in manifest.quality)
    rewrite(folder, manifest.model_copy(update={"quality": better}))


def _promise_more_closeness(folder: Path) -> None:
    manifest = open_bundle(folder).manifest
    closer = tuple(
        item.model_copy(update={"psnr": item.psnr and item.psnr + 10}) if item.form.precision == "fp16" else item
        for item in manifest.measurements
    )
    rewrite(folder, manifest.model_copy(update={"measurements": closer}))


def _call_itself_another_version(folder: Path) -> None:
    rewrite(folder, open_bundle(folder).manifest.model_copy(update={"version": "2.0.0"}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_flip, "sha256 differs"),
        (_delete, "fp32.onnx"),
        (_add, "extra.txt"),
        (_forget_the_manifest, "release.json"),
        (_call_itself_another_version, "2.0.0"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_broken_promise_is_found(
    slim_release: Path, pictures: list[Path], spoil: Callable[[Path], None], told: str
) -> None:
    target = published(slim_release)
    spoil(folder_of(slim_release))

    found = reverify(target, images=pictures)

    assert not found.ok
    assert told in " ".join(found.problems)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_spoil_weights, "fp16 must pass and did not"),
        (_promise_more_quality, "against the original, measured"),
        (_promise_more_closeness, "dB from the reference, measured"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_form_that_is_not_what_its_consistent_records_promise_is_found(
    release: Path, pictures: list[Path], spoil: Callable[[Path], None], told: str
) -> None:
    target = published(release)
    spoil(folder_of(release))

    found = reverify(target, images=pictures)

    assert found.identity is not None, "all digests fit"
    assert told in " ".join(found.problems)


def test_release_that_is_not_there_is_a_finding(tmp_path: Path) -> None:
    found = reverify(Target(address=f"{tmp_path.as_uri()}/{NAME}@1.0.0"))

    assert not found.ok


def test_specs_name_releases_and_an_unreadable_spec_is_a_finding(tmp_path: Path) -> None:
    for name, text in {
        "good": f'name = "{NAME}"\nversion = "1.2.0"\ncheckpoint = "x.pth"\n',
        "bad": "name = 3",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "release.toml").write_text(text)

    targets, unreadable = specified_in(tmp_path, "hf://org")

    assert [target.address for target in targets] == [f"hf://org/{NAME}@1.2.0"]
    assert [finding.address for finding in unreadable] == ["hf://org/bad"]
    with pytest.raises(UsageError, match="found none"):
        specified_in(tmp_path / "good", "hf://org")


def test_all_of_a_place_is_looked_at_but_what_is_yanked(release: Path, tmp_path: Path) -> None:
    target = published(release)
    place = target.address.rpartition("/")[0]

    assert released_at(place) == [target]
    connect(place).yank(NAME, "1.0.0", "wrong")
    with pytest.raises(HubError, match="found none"):
        released_at(place)


def test_text_of_a_hostile_release_stays_in_its_block() -> None:
    hostile = ReverifyFinding(address="hf://org/x`@everyone`", problems=("```\n@everyone <img src=x>\n## heading",))
    good = ReverifyFinding(address="hf://org/y@1.0.0", problems=(), identity="0" * 64, files=3, numbers=7)

    text = issue_text([hostile, good])

    assert text.startswith("1 of 2 published releases")
    block = text.split("```text\n")[1].split("\n```")[0]
    assert block == "''' @everyone <img src=x> ## heading"
    assert text.count("```") == 2
    assert "## `hf://org/x'@everyone'`" in text
    assert "`hf://org/y@1.0.0`: 3 files, 0 run, 7 stated numbers measured again" in text
