"""What a release says about itself, from its files and facts to the manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from aethernet.artifact import Artifact
from aethernet.comparison import Acceptance
from aethernet.precision import Precision
from aethernet.release.bundle import open_bundle
from aethernet.release.entries import artifact_of, config_entry, engine_entries, image_entries, reference_entry
from aethernet.release.facts import AuthorFacts, ReleaseFacts
from aethernet.release.manifest import FileEntry, Manifest
from aethernet.release.spec import make_spec

FILE = Artifact(name="x.bin", sha256="a" * 64, size=3)


def _facts(manifest: Manifest, files: tuple[FileEntry, ...]) -> ReleaseFacts:
    """The facts that a finished release was made of."""
    stated = {name: getattr(manifest, name) for name in AuthorFacts.model_fields if hasattr(manifest, name)}
    return ReleaseFacts(
        author=AuthorFacts(**stated, kernel=manifest.conditions.kernel, origin=manifest.checkpoint.origin),
        network=manifest.network,
        checkpoint=manifest.checkpoint.model_copy(update={"origin": ""}),
        files=files,
        acceptance=Acceptance(
            accepted=(Precision.FP16, Precision.FP32), skipped={Precision.INT8: "left out by the spec"}
        ),
        limits=manifest.limits,
        images=manifest.conditions.images,
        measurements=manifest.measurements,
        quality=manifest.quality,
        ncnn=manifest.ncnn,
    )


def test_facts_become_the_very_manifest_in_whatever_order_they_are_given(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest
    facts = _facts(manifest, tuple(reversed(manifest.files)))

    made = facts.manifest(toolchain=manifest.toolchain, host=manifest.conditions.host)

    assert made == manifest


def test_another_file_is_another_identity(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest
    config = next(entry for entry in manifest.files if entry.role == "config")
    other = tuple(config.model_copy(update={"sha256": "0" * 64}) if one == config else one for one in manifest.files)

    made = _facts(manifest, other).manifest(toolchain={}, host={})

    assert made.identity != manifest.identity


def test_facts_survive_their_journey_as_json(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest
    facts = _facts(manifest, manifest.files)

    assert ReleaseFacts.model_validate(facts.model_dump(mode="json")) == facts


def test_the_author_states_what_the_spec_says(tmp_path: Path) -> None:
    spec = make_spec({"name": "a", "checkpoint": tmp_path / "b", "origin": "somewhere", "precisions": ["int8"]})

    author = AuthorFacts.of(spec)

    assert (author.name, author.version, author.origin) == ("a", "1.0.0", "somewhere")
    assert author.required == (Precision.FP32, Precision.INT8)


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ("org/a", "https://huggingface.co/spaces/org/a"),
        ("https://example.org/a/", "https://example.org/a/"),
        ("", ""),
    ],
)
def test_the_page_to_try_it_is_an_address(tmp_path: Path, page: str, address: str) -> None:
    spec = make_spec({"name": "a", "checkpoint": tmp_path / "b", "web": {"page": page}})

    assert AuthorFacts.of(spec).page == address


def test_every_kind_of_file_is_listed_where_it_lies() -> None:
    entries = [
        reference_entry(FILE, "training"),
        config_entry(FILE),
        *image_entries({"images/x.bin": FILE}),
        *engine_entries(FILE, FILE, Precision.FP16),
    ]

    assert [(one.path, one.role) for one in entries] == [
        ("x.bin", "weights"),
        ("config.json", "config"),
        ("images/x.bin", "picture"),
        ("engines/x.bin", "engine"),
        ("engines/x.bin", "engine identity"),
    ]
    assert all(artifact_of(one).sha256 == FILE.sha256 for one in entries)
