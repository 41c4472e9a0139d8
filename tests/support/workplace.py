"""A place to release in: spec, images, store, output and hub of one's own, and ways to run the flows there."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from aethernet.artifact import file_digest
from aethernet.release.bundle import open_bundle
from tests.support.engine import fill_prefect_home
from tests.support.releases import NAME, made_once, small_spec, snapshot

__all__ = ["CommandLine", "Finished", "Workplace", "command_line", "first_release", "prefect_home", "workplace"]

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON on stdout."""
        return dict(json.loads(self.out))

    @property
    def done(self) -> set[str]:
        """Steps that ended well, by the progress on stderr."""
        return set(re.findall(r"✓ (.+?) (?:unchanged|[\d.]+ s)$", self.err, re.MULTILINE))

    @property
    def ran(self) -> list[str]:
        """Steps that really ran; looking at a hub whose place is new is not held against a run."""
        return [step for step in self.summary["ran"] if step != "verify_content"]


class Workplace:
    """Folders of one release, all under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec = root / "spec" / "release.toml"
        self.store, self.output, self.hub = root / "store", root / "out", root / "hub"

    @property
    def bundle(self) -> Path:
        """The release folder."""
        return self.output / NAME

    @property
    def published(self) -> Path:
        """The published release."""
        return self.hub / NAME / "1.0.0"

    @property
    def places(self) -> list[str]:
        """Options that keep everything here."""
        return ["--store", str(self.store), "--output", str(self.output), "--hub", self.hub.as_uri()]

    @property
    def release(self) -> list[str]:
        """Arguments of the release; most tests are about the flow itself, which ``--fresh`` always runs."""
        return ["release", str(self.spec), *self.places, "--fresh", "--json"]

    def edit_spec(self, text: str) -> None:
        """Add TOML at the end of the spec."""
        self.spec.write_text(self.spec.read_text() + text)

    def place_of(self, path: str) -> Path:
        """The stored object behind a file of the release folder."""
        entry = file_digest(self.bundle / path)
        return self.store / "objects" / entry[:2] / f"{entry}{Path(path).suffix}"

    def environment(self, home: Path) -> dict[str, str]:
        """Nothing of the user's own."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        own = {"HOME": str(self.root), "XDG_CACHE_HOME": str(self.root / "cache"), "PREFECT_HOME": str(home)}
        return {**kept, **own, "PYTHONDONTWRITEBYTECODE": "1"}

    def start(
        self, arguments: list[str], home: Path, tree: Path = REPOSITORY, **environment: str
    ) -> subprocess.Popen[str]:
        """Start ``python -m flows``."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows", *arguments],
            cwd=tree,
            env={**self.environment(home), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, arguments: list[str], home: Path, tree: Path = REPOSITORY, **environment: str) -> Finished:
        """Run ``python -m flows`` to its end."""
        with self.start(arguments, home, tree, **environment) as process:
            out, err = process.communicate(timeout=300)
        return Finished(process.returncode, out, err)

    def require_nothing_half_done(self) -> None:
        """Whatever has a final name is whole."""
        from aethernet.release.verification import verify_bundle

        objects = [path for path in (self.store / "objects").rglob("[!.]*") if path.is_file()]
        assert [path for path in objects if file_digest(path) != path.stem] == []
        for folder in (self.bundle, self.published):
            assert not folder.exists() or verify_bundle(folder, run=False).ok, folder

    def require_unpublished(self) -> None:
        """Nothing is on the hub, not even a trace of an attempt."""
        assert snapshot(self.hub) == {}


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's folder for commands that run in processes of their own."""
    home = tmp_path_factory.mktemp("prefect-home")
    fill_prefect_home(home)
    return home


@pytest.fixture(scope="session")
def first_release(tmp_path_factory: pytest.TempPathFactory, prefect_home: Path) -> tuple[Workplace, Finished]:
    """A release made by the command, and how that went; look, don't touch."""
    with made_once(tmp_path_factory, "first-release") as (folder, made):
        place, told = Workplace(folder / "place"), folder / "finished.json"
        if not made:
            small_spec(place.spec.parent)
            finished = place.run(place.release, prefect_home)
            assert finished.code == 0, finished.err
            told.write_text(json.dumps(asdict(finished)))
    return place, Finished(**json.loads(told.read_text()))


@pytest.fixture
def workplace(first_release: tuple[Workplace, Finished], tmp_path: Path) -> Workplace:
    """A copy of the spec and of the finished store; nothing assembled or published yet."""
    place = Workplace(tmp_path / "place")
    for name in ("spec", "store"):
        shutil.copytree(first_release[0].root / name, place.root / name)
    return place


CommandLine = Callable[[list[str]], Finished]


@pytest.fixture
def command_line(engine: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs ``python -m flows`` inside this process, on the session's Prefect server."""
    from flows.__main__ import main

    # Prefect's console handler may still hold the stream that an earlier test captured and closed.
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def run(arguments: list[str]) -> Finished:
        monkeypatch.setattr(sys, "argv", ["flows", *arguments])
        capsys.readouterr()
        try:
            main()
            code: Any = 0
        except SystemExit as ending:
            code = ending.code or 0
        told = capsys.readouterr()
        return Finished(code, told.out, told.err)

    return run


def without_speeds(bundle: Path) -> Mapping[str, str | bytes]:
    """Every file of a release but ``build.json`` and ``report.html``, without what they say about speed and time."""
    found: dict[str, str | bytes] = {
        entry.path: (bundle / entry.path).read_bytes() for entry in open_bundle(bundle).manifest.files
    }
    card = (bundle / "README.md").read_text()
    before, _, rest = card.partition("## How fast is it?")
    _, _, after = rest.partition("## How to use it")
    found["README.md"] = before + "\n".join(line for line in after.splitlines() if not line.startswith("Built "))
    found["release.json"] = (bundle / "release.json").read_bytes()
    entry = json.loads((bundle / "openmodeldb.json").read_bytes())
    for model in entry["models"].values():
        del model["date"]
    found["openmodeldb.json"] = json.dumps(entry)
    return found
