"""A release that is known to be unchanged needs no run; whatever is in doubt does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aethernet.hub.connecting import connect
from aethernet.release.bundle import open_bundle
from aethernet.release.spec import ReleaseSpec
from aethernet.store.store import Store
from flows.outcome import Outcome
from flows.unchanged import KnownRelease, known_release, release_key, remember_release
from tests.support.releases import small_images

ROOT = Path(__file__).resolve().parents[2]
KEY = "0" * 64


@pytest.fixture
def finished(finished_release: Path, tmp_path: Path) -> tuple[Store, Outcome]:
    """A release folder, published, and the note of the run that made it."""
    folder = tmp_path / "out" / finished_release.name
    shutil.copytree(finished_release, folder)
    bundle = open_bundle(folder)
    publication = connect((tmp_path / "hub").as_uri()).publish(bundle, bundle.manifest.name)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("<p>Try it")
    outcome = Outcome(bundle=folder, manifest=bundle.manifest, site=tmp_path / "site", publication=publication)
    store = Store(str(tmp_path / "store"))
    remember_release(store, KEY, outcome, {"bundle": str(folder), "ran": ["load"], "unchanged": ["fuse"]})
    return store, outcome


def test_what_a_run_made_is_known_while_it_is_there(finished: tuple[Store, Outcome]) -> None:
    known = known_release(finished[0], KEY, None)

    assert known is not None
    assert known.outcome == finished[1]
    assert (known.summary["ran"], known.summary["unchanged"]) == ([], ["load", "fuse"])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DOUBTS: dict[str, Callable[[Path, Outcome], None]] = {
    "a byte of a weight": lambda _, outcome: _flip(outcome.bundle / f"{outcome.manifest.name}_fp32.onnx"),
    "a byte of the card": lambda _, outcome: _flip(outcome.bundle / "README.md"),
    "a file too many": lambda _, outcome: (outcome.bundle / "more.txt").write_text("x"),
    "the folder is gone": lambda _, outcome: shutil.rmtree(outcome.bundle),
    "a byte of what is published": lambda root, outcome: _flip(
        root / "hub" / outcome.manifest.name / outcome.manifest.version / "release.json"
    ),
    "a byte of the site": lambda root, _: _flip(root / "site/index.html"),
    "a page is gone": lambda root, _: (root / "site/index.html").unlink(),
    "nothing is published any more": lambda root, _: shutil.rmtree(root / "hub"),
    "a note cut off": lambda root, _: (root / "store/finished" / f"{KEY}.json").write_text("{"),
    "no note": lambda root, _: (root / "store/finished" / f"{KEY}.json").unlink(),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_whatever_is_in_doubt_starts_a_run(doubt: str, finished: tuple[Store, Outcome], tmp_path: Path) -> None:
    DOUBTS[doubt](tmp_path, finished[1])

    assert known_release(finished[0], KEY, None) is None


def test_an_old_note_starts_a_run(finished: tuple[Store, Outcome]) -> None:
    note = finished[0].root / "finished" / f"{KEY}.json"
    known = KnownRelease.model_validate_json(note.read_bytes())
    note.write_text(known.model_copy(update={"finished": known.finished - 6 * 24 * 3600}).model_dump_json())

    assert known_release(finished[0], KEY, None) is None


@pytest.fixture
def spec(tmp_path: Path) -> ReleaseSpec:
    (tmp_path / "net.pth").write_bytes(b"weights")
    small_images(tmp_path / "lr")
    return ReleaseSpec(name="net_2x", checkpoint=tmp_path / "net.pth", images=tmp_path / "lr")


def _key(spec: ReleaseSpec, *, output: str = "out", hub: str | None = None, code: Path = ROOT) -> str:
    return release_key(spec, Path(output), hub, None, False, code=code)


def test_the_key_is_the_same_for_the_same_content_elsewhere(spec: ReleaseSpec, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "lr", tmp_path / "copy/lr")
    shutil.copyfile(tmp_path / "net.pth", tmp_path / "copy/net.pth")
    moved = spec.model_copy(update={"checkpoint": tmp_path / "copy/net.pth", "images": tmp_path / "copy/lr"})

    assert _key(moved) == _key(spec)


def test_every_input_changes_the_key(spec: ReleaseSpec, tmp_path: Path) -> None:
    keys = [_key(spec), _key(spec, output="elsewhere"), _key(spec, hub="file:///hub")]
    keys.append(_key(spec.model_copy(update={"license": "MIT"})))
    _flip(next((tmp_path / "lr").iterdir()))
    keys.append(_key(spec))
    (tmp_path / "net.pth").write_bytes(b"other weights")
    keys.append(_key(spec))

    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("file", ["aethernet/release/card/template.md.jinja", "tasks/fuse.py", "flows/release.py"])
def test_every_line_of_code_changes_the_key(file: str, spec: ReleaseSpec, tmp_path: Path) -> None:
    for package in ("aethernet", "tasks", "flows"):
        shutil.copytree(ROOT / package, tmp_path / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    before = _key(spec, code=tmp_path / "code")
    with (tmp_path / "code" / file).open("a") as changed:
        changed.write("\n# changed\n")

    assert _key(spec, code=tmp_path / "code") != before


def test_looking_loads_neither_prefect_nor_pytorch() -> None:
    heavy = ("prefect", "torch", "onnxruntime", "polygraphy")
    code = f"import sys, json, flows.unchanged; print(json.dumps([name for name in {heavy} if name in sys.modules]))"

    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert json.loads(found.stdout) == []
