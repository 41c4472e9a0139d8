"""The records of a release: schema, canonical form, safe paths, identity."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from aethernet.errors import BundleError
from aethernet.records import canonical_json, read_model
from aethernet.release.bundle import open_bundle
from aethernet.release.manifest import (
    MANIFEST,
    BuildRecord,
    Manifest,
    identity_of,
    is_safe_path,
    release_schema,
    seal_of,
)

SCHEMA = Path(__file__).resolve().parents[3] / "aethernet" / "schemas" / "release.schema.json"


def test_the_published_schema_is_the_current_one() -> None:
    published = json.loads(SCHEMA.read_text(encoding="utf-8"))

    assert published == release_schema(), (
        "write json.dumps(release_schema(), indent=2, sort_keys=True) to " + SCHEMA.name
    )


def test_a_real_manifest_follows_the_published_schema(finished_release: Path) -> None:
    manifest = json.loads((finished_release / MANIFEST).read_text(encoding="utf-8"))

    jsonschema.validate(manifest, json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_a_manifest_with_a_foreign_field_breaks_the_schema(finished_release: Path) -> None:
    manifest = json.loads((finished_release / MANIFEST).read_text(encoding="utf-8")) | {"surprise": 1}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, json.loads(SCHEMA.read_text(encoding="utf-8")))
    with pytest.raises(BundleError, match="surprise"):
        read_model(Manifest, json.dumps(manifest).encode(), MANIFEST)


def test_records_come_back_equal(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)

    assert read_model(Manifest, canonical_json(bundle.manifest), MANIFEST) == bundle.manifest
    assert read_model(BuildRecord, canonical_json(bundle.build), "build.json") == bundle.build


def test_the_seal_covers_everything_but_itself(finished_release: Path) -> None:
    build = open_bundle(finished_release).build

    assert seal_of(build) == build.seal
    assert seal_of(build.model_copy(update={"seal": "other"})) == build.seal
    assert seal_of(build.model_copy(update={"created": "1970-01-01"})) != build.seal


def test_identity_depends_on_what_computes_and_on_nothing_else(finished_release: Path) -> None:
    files = open_bundle(finished_release).manifest.files
    pictures = tuple(entry for entry in files if entry.role == "picture")
    weights = next(entry for entry in files if entry.role == "weights")
    others = tuple(entry for entry in files if entry != weights)

    assert identity_of(tuple(reversed(files))) == identity_of(files)
    assert identity_of(tuple(entry for entry in files if entry not in pictures)) == identity_of(files)
    assert identity_of((*others, weights.model_copy(update={"sha256": "0" * 64}))) != identity_of(files)
    assert identity_of((*others, weights.model_copy(update={"path": "renamed"}))) != identity_of(files)


@pytest.mark.parametrize("path", ["a.onnx", "images/a b.png", "ünïcode.bin", "a/b/c", "console.txt", ".hidden"])
def test_plain_relative_paths_are_safe(path: str) -> None:
    assert is_safe_path(path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../a",
        "a/../b",
        "/a",
        "a//b",
        "a/",
        "./a",
        "a\\b",
        "C:/a",
        "C:a",
        "con",
        "a/NUL.txt",
        "com1.onnx",
        "a\nb",
        "a\x00",
        "b ",
        "b./c",
        "lpt9.tar.gz",
    ],
)
def test_paths_that_leave_the_folder_or_mean_something_to_a_system_are_unsafe(path: str) -> None:
    assert not is_safe_path(path)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1, 2]", "breaks its schema"),
        (b"{}", "breaks its schema"),
        (b'{"schema_version": 99}', "schema version 99"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_manifest_is_refused_in_words(data: bytes, told: str) -> None:
    with pytest.raises(BundleError, match=told):
        read_model(Manifest, data, MANIFEST)
