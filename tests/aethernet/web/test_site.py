"""The site as files: what it is made of, and what it refuses to be made of."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from aethernet.errors import BundleError, UsageError, WebError
from aethernet.release.bundle import open_bundle
from aethernet.web import onnxruntime_web as fetching
from aethernet.web import site as writing
from aethernet.web.onnxruntime_web import onnxruntime_web
from aethernet.web.site import SITE, space_card, write_site
from tests.support.commands import Call
from tests.support.hub_server import HubServer
from tests.support.releases import NAME, flip_byte, snapshot
from tests.support.web_fixtures import CONTENT, package, runtime

__all__ = ["package", "runtime"]


def test_exactly_the_pinned_files_are_kept(package: Path, runtime: Path) -> None:
    assert {path.name: path.read_bytes() for path in runtime.iterdir()} == CONTENT
    shutil.rmtree(package)
    assert onnxruntime_web(cache=runtime.parent) == runtime


def test_an_archive_does_as_well(package: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as archive:
        archive.add(package, "package")

    kept = onnxruntime_web(tmp_path / "made.tgz", cache=tmp_path / "cache")

    assert {path.name: path.read_bytes() for path in kept.iterdir()} == CONTENT


def test_another_version_is_refused_and_nothing_of_it_is_kept(package: Path, tmp_path: Path) -> None:
    flip_byte(package / "dist" / "ort.wasm.min.mjs")

    with pytest.raises(WebError, match=r"other content in ort\.wasm\.min\.mjs") as caught:
        onnxruntime_web(package, cache=tmp_path / "cache")

    assert "npm pack onnxruntime-web@" in caught.value.hint
    assert not (tmp_path / "cache").exists()


def test_what_is_no_package_is_refused(package: Path, tmp_path: Path) -> None:
    (tmp_path / "words.tgz").write_text("words")

    with pytest.raises(WebError, match="cannot be read"):
        onnxruntime_web(tmp_path / "words.tgz", cache=tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WebError, match=r"found no ort\.wasm\.min\.mjs"):
        onnxruntime_web(tmp_path / "empty", cache=tmp_path / "cache")


def test_without_npm_the_hint_names_the_way_out(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(WebError, match="neither them nor npm") as caught:
        onnxruntime_web(cache=tmp_path / "cache")

    assert "--onnxruntime-web" in caught.value.hint


def test_a_damaged_cache_is_fetched_again(
    package: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_byte(runtime / "ort.wasm.min.mjs")
    monkeypatch.setattr(fetching, "_pack", lambda _: package)

    onnxruntime_web(cache=runtime.parent)

    assert (runtime / "ort.wasm.min.mjs").read_bytes() == CONTENT["ort.wasm.min.mjs"]


def test_a_site_holds_what_the_release_states(finished_release: Path, runtime: Path, tmp_path: Path) -> None:
    site = write_site(finished_release, tmp_path / "site", runtime)

    manifest = open_bundle(finished_release).manifest
    stated = {entry.path: entry.sha256 for entry in manifest.files}
    facts = json.loads((site.root / SITE).read_text())
    found = snapshot(site.root)
    assert facts["identity"] == manifest.identity
    assert facts["network"]["receptive_radius"] == manifest.network.receptive_radius
    for one in facts["files"].values():
        assert found[one["path"]] == one["sha256"] == stated[one["path"].removeprefix("models/")]
    for one in (facts["check"]["input"], facts["check"]["output"]):
        assert found[one["path"]] == one["sha256"] == stated[one["path"]]
    packed = site.root / facts["runtime"]["wasm"]["binary"]["path"]
    assert gzip.decompress(packed.read_bytes()) == CONTENT["ort-wasm-simd-threaded.wasm"]
    assert (site.files, site.size) == (len(found), sum(p.stat().st_size for p in site.root.rglob("*") if p.is_file()))
    html = (site.root / "index.html").read_text()
    assert manifest.license in html
    assert manifest.identity in html
    assert "http://" not in html
    assert "https://" not in html


def test_the_same_release_gives_the_same_site(finished_release: Path, runtime: Path, tmp_path: Path) -> None:
    write_site(finished_release, tmp_path / "first", runtime)
    (tmp_path / "second").mkdir()
    write_site(finished_release, tmp_path / "second", runtime)
    write_site(finished_release, tmp_path / "second", runtime)

    assert snapshot(tmp_path / "first") == snapshot(tmp_path / "second")


def test_what_is_no_site_is_not_replaced(finished_release: Path, runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")

    with pytest.raises(UsageError, match="found other files; nothing was touched"):
        write_site(finished_release, tmp_path / "mine", runtime)

    assert snapshot(tmp_path / "mine").keys() == {"letter.txt"}


def test_a_changed_release_is_refused_and_leaves_nothing(finished_release: Path, runtime: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(finished_release, tmp_path / "bundle")
    flip_byte(next(bundle.glob("*_fp32.onnx")))

    with pytest.raises(BundleError, match="missing or changed"):
        write_site(bundle, tmp_path / "sites" / "site", runtime)

    assert list((tmp_path / "sites").iterdir()) == []


def test_a_site_that_is_too_large_is_refused(
    finished_release: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LARGEST_SITE", 1000)

    with pytest.raises(UsageError, match="expected a site of at most 0 MB"):
        write_site(finished_release, tmp_path / "site", runtime)

    assert not (tmp_path / "site").exists()


def test_a_space_has_the_hubs_metadata_and_the_headers_for_threads(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest

    front = yaml.safe_load(space_card(manifest, "org/tiny_2x").split("---\n")[1])

    assert front["sdk"] == "static"
    assert front["app_file"] == "index.html"
    assert front["models"] == ["org/tiny_2x"]
    assert len(front["short_description"]) <= 60
    assert front["custom_headers"] == {
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "cross-origin",
    }


def test_words_of_a_release_cannot_become_markup(finished_release: Path, runtime: Path, tmp_path: Path) -> None:
    opened = open_bundle(finished_release)
    from dataclasses import replace

    said = replace(opened, manifest=opened.manifest.model_copy(update={"description": "<script>alert(1)</script>"}))

    html = (write_site(said, tmp_path / "site", runtime).root / "index.html").read_text()

    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_the_command_writes_it_and_says_how_to_look_at_it(
    finished_release: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    done = call("web", finished_release, "-o", tmp_path / "site", "--space", "--onnxruntime-web", package)

    assert (done.code, done.out) == (0, f"{tmp_path / 'site'}\n")
    assert f"python -m http.server --directory {tmp_path / 'site'}" in done.err
    assert (tmp_path / "site" / "README.md").is_file()


def test_writing_a_site_needs_no_runtime() -> None:
    code = (
        "import sys, aethernet.web.site, aethernet.web.onnxruntime_web; "
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


def test_publishing_with_a_page_makes_a_space_that_names_the_release(
    finished_release: Path,
    package: Path,
    hub_server: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    onnxruntime_web(package)

    done = call("publish", finished_release, f"{hub_server.place}/{NAME}", "--no-verify", "--space", "--json")

    state = hub_server.state()
    assert done.code == 0, done.err
    assert done.result["space"] == f"{hub_server.endpoint}/spaces/org/{NAME}"
    assert state.keys() == {f"org/{NAME}", f"spaces:org/{NAME}"}
    assert {"index.html", "README.md", SITE} <= state[f"spaces:org/{NAME}"]["main"].keys()
    card = (hub_server.root / state[f"spaces:org/{NAME}"]["main"]["README.md"]).read_text()
    assert yaml.safe_load(card.split("---\n")[1])["models"] == [f"org/{NAME}"]


def test_a_release_without_its_check_images_is_refused(slim_release: Path, runtime: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"found no images/check_input\.png"):
        write_site(slim_release, tmp_path / "site", runtime)
