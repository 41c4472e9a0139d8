"""The entry for OpenModelDB passes the checks that database runs on its own entries."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from aethernet.release.bundle import open_bundle
from aethernet.release.openmodeldb import database_patch, formatted, model_id
from aethernet.release.spec import OpenModelDbSpec, make_spec

KNOWN_ARCHITECTURES = {"compact", "esrgan", "span", "dat", "realplksr"}
KNOWN_TAGS = {
    *("ai-generated", "anime", "cartoon", "cgi", "faces", "game-screenshots", "game-textures", "manga", "pixel-art"),
    *("photo", "text", "video-frame", "anti-aliasing", "compression-removal", "deblur", "denoise", "general-upscaler"),
    *("jpeg", "pretrained", "research", "restoration"),
}
"""Some of ``data/architectures.json`` and ``data/tags.json``."""


def problems(patch: dict[str, Any]) -> list[str]:
    """What ``scripts/validate-db.ts`` would report, by ``src/lib/validate-model.ts`` and ``src/lib/model-props.ts``."""
    found = []
    architectures, users = KNOWN_ARCHITECTURES | set(patch["architectures"]), set(patch["users"])
    for arch in patch["architectures"].values():
        if set(arch) != {"name", "input", "compatiblePlatforms"} or arch["input"] not in ("image", "video", "audio"):
            found.append("architecture")
    for name, patterns in (("architectures", r"[a-z0-9]+(?:-[a-z0-9]+|[+])*"), ("users", r"[a-z0-9]+(?:-[a-z0-9]+)*")):
        found += [f"id of {name}" for one in patch[name] if not re.fullmatch(patterns, one)]
    for one, model in patch["models"].items():
        text = ("name", "description", "date", "architecture")
        found += [key for key in text if not isinstance(model.get(key), str)]
        found += [key for key in ("license",) if not isinstance(model.get(key, 0), str | None)]
        for key, most in (("scale", 16), ("inputChannels", 4), ("outputChannels", 4)):
            if type(model.get(key)) is not int or not 1 <= model[key] <= most:
                found.append(key)
        if not re.fullmatch(r"\d+x-[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*", one) or not one.startswith(f"{model['scale']}x-"):
            found.append("id")
        if model["description"] != model["description"].strip():
            found.append("description")
        if not re.fullmatch(r"\d{4}-(?:0[1-9]|1[012])-(?:0[1-9]|[12][0-9]|3[01])", model["date"]):
            found.append("date")
        authors = model["author"] if isinstance(model["author"], list) else [model["author"]]
        if not authors or not set(authors) <= users:
            found.append("author")
        if not model["tags"] or not set(model["tags"]) <= KNOWN_TAGS:
            found.append("tags")
        if model["architecture"] not in architectures:
            found.append("architecture")
        if model["size"] is not None and not (model["size"] and all(model["size"])):
            found.append("size")
        if not isinstance(model["images"], list) or "thumbnail" in model:
            found.append("images")
        if not model["resources"]:
            found.append("resources")
        for resource in model["resources"]:
            # The database's schema has the platform ncnn, and no type of file for it.
            kinds = {"pth": "pytorch", "safetensors": "pytorch", "onnx": "onnx"}
            platform = kinds.get(resource["type"])
            whole = type(resource["size"]) is int and resource["size"] >= 1
            digest = re.fullmatch(r"[0-9a-f]{64}", resource["sha256"])
            if resource["platform"] != platform or not (whole and digest and resource["urls"]):
                found.append("resources")
    return found


@pytest.fixture
def patch(finished_release: Path) -> dict[str, Any]:
    return dict(json.loads((finished_release / "openmodeldb.json").read_text(encoding="utf-8")))


def test_the_released_entry_is_valid(patch: dict[str, Any]) -> None:
    assert problems(patch) == []
    ((name, model),) = patch["models"].items()
    assert name == "2x-Tiny"
    assert model["author"] == ["a-tester", "b-c"]
    assert patch["users"] == {"a-tester": {"name": "A. Tester"}, "b-c": {"name": "B | C"}}
    assert patch["architectures"]["aethernet"]["compatiblePlatforms"] == ["pytorch", "onnx", "ncnn"]


def test_resources_are_the_releases_files(patch: dict[str, Any], finished_release: Path) -> None:
    (model,) = patch["models"].values()
    stated = {entry.path: (entry.size, entry.sha256) for entry in open_bundle(finished_release).manifest.files}

    assert len(model["resources"]) == 4
    for resource in model["resources"]:
        assert (resource["size"], resource["sha256"]) == stated[resource["urls"][0]]


@pytest.mark.skipif(find_spec("ncnn") is None, reason="needs ncnn: the extra 'ncnn'")
def test_ncnn_files_are_named_with_platform_and_size_where_the_database_takes_them(finished_release: Path) -> None:
    """As resources they would make the whole entry invalid: see the last case below."""
    bundle = open_bundle(finished_release)
    patch = database_patch(bundle.manifest, bundle.build, OpenModelDbSpec(url="https://example.com/v1"))

    (model,) = patch["models"].values()
    told = next(line for line in model["description"].splitlines() if line.startswith("Platform ncnn"))
    files = [entry for entry in bundle.manifest.files if entry.role == "ncnn"]
    assert len(files) == 2
    for entry in files:
        assert f"[{entry.path}](https://example.com/v1/{entry.path}) ({entry.size} bytes)" in told


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda model: model.update(scale=17), "scale"),
        (lambda model: model.update(tags=["fancy"]), "tags"),
        (lambda model: model.update(date="21 November 2026"), "date"),
        (lambda model: model.update(author="nobody"), "author"),
        (lambda model: model.update(description=" spaced "), "description"),
        (lambda model: model.update(architecture="unheard-of"), "architecture"),
        (lambda model: model["resources"][0].update(urls=[]), "resources"),
        (lambda model: model["resources"][0].update(platform="onnx", type="pth"), "resources"),
        (lambda model: model["resources"][0].update(platform="ncnn", type="param"), "resources"),
    ],
)
def test_invalid_entries_are_found_out(
    patch: dict[str, Any], spoil: Callable[[dict[str, Any]], object], word: str
) -> None:
    spoilt = copy.deepcopy(patch)
    spoil(next(iter(spoilt["models"].values())))

    assert word in problems(spoilt)


def test_the_spec_says_what_a_release_cannot_know(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)
    spec = OpenModelDbSpec(name="Little One", tags=("photo",), authors=("someone",), url="https://example.com/v1/")

    patch = database_patch(bundle.manifest, bundle.build, spec)

    ((name, model),) = patch["models"].items()
    assert (name, model["name"], model["author"], patch["users"]) == ("2x-Little-One", "Little One", "someone", {})
    assert model["resources"][0]["urls"] == ["https://example.com/v1/tiny_2x_fp32.pth"]
    assert model["images"] == [{"type": "standalone", "url": "https://example.com/v1/images/comparison.png"}]
    assert problems(patch | {"users": {"someone": {"name": "Someone"}}}) == []


def test_a_release_by_nobody_with_an_unknown_licence_is_valid(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)
    manifest = bundle.manifest.model_copy(update={"authors": (), "license": "unknown", "description": ""})

    patch = database_patch(manifest, bundle.build, OpenModelDbSpec())

    (model,) = patch["models"].values()
    assert model["license"] is None
    assert problems(patch) == []


@pytest.mark.parametrize(
    ("name", "scale", "wanted"),
    [
        ("aether_tiny_2x", 2, "2x-aether-tiny"),
        ("2x-Aether", 2, "2x-Aether"),
        ("Ünïcode name!", 4, "4x-n-code-name"),
        ("x4 plus", 4, "4x-plus"),
    ],
)
def test_ids_are_canonical(name: str, scale: int, wanted: str) -> None:
    assert model_id(name, scale) == wanted


def test_the_file_is_formatted_as_the_database_s_are(patch: dict[str, Any], finished_release: Path) -> None:
    data = (finished_release / "openmodeldb.json").read_bytes()

    assert data == formatted(patch)
    assert data.startswith(b'{\n    "models"')
    assert not data.endswith(b"\n")


def test_specs_say_what_they_want_of_the_entry() -> None:
    spec = make_spec({"name": "a", "checkpoint": "b", "openmodeldb": {"tags": ["photo"], "url": "https://example.com"}})

    assert spec.openmodeldb.tags == ("photo",)
    with pytest.raises(Exception, match=r"did you mean 'openmodeldb.tags'|did you mean 'tags'"):
        make_spec({"name": "a", "checkpoint": "b", "openmodeldb": {"tag": ["photo"]}})
