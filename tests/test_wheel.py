"""The wheel, installed where the repository is not: the small commands, and a whole release."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.engine import fill_prefect_home
from tests.support.releases import NAME, made_once, small_spec

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git knows: files that lie about in a working tree are not in it."""
    with made_once(tmp_path_factory, "wheel") as (folder, made):
        if not made:
            tree = folder / "tree"
            listed = subprocess.run(
                ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for name in filter(None, listed.split("\0")):
                if (ROOT / name).is_file():
                    (tree / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(ROOT / name, tree / name)
            command = [
                sys.executable,
                "-m",
                "pip",
                "wheel",
                "--quiet",
                "--no-deps",
                "--wheel-dir",
                str(folder),
                str(tree),
            ]
            built = subprocess.run(command, capture_output=True, text=True, check=False)
            assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an environment with the wheel and the packages that these tests run with, but not this repository."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    # Of the other environment's own .pth files, one of which leads to this repository, none counts here.
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"]
    installed = subprocess.run([*command, str(wheel)], capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    return folder


def _run(environment: Path, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept: Mapping[str, str] = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
    own = {"HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "PATH": f"{environment / 'bin'}:/usr/bin:/bin"}
    return subprocess.run(
        ["aethernet", *words],
        cwd=home,
        env={**kept, **own},
        executable=str(environment / "bin" / "aethernet"),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_takes_no_general_names_and_leaves_tests_out(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"aethernet", "aethernet_workflows"}


def test_every_file_of_the_library_and_of_the_flows_is_in_the_wheel(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "aethernet", "flows", "tasks"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())

    wanted = {name if name.startswith("aethernet/") else f"aethernet_workflows/{name}" for name in listed}
    assert wanted - held == {"aethernet/rooms.toml"}  # the order of rooms, for a test


def test_a_release_is_made_verified_and_known_to_be_unchanged_far_from_the_repository(
    environment: Path, tmp_path: Path
) -> None:
    small_spec(tmp_path / "spec")
    fill_prefect_home(tmp_path / "prefect")
    release = ["release", "spec", "--output", "out", "--store", "store", "--hub", (tmp_path / "hub").as_uri(), "--json"]

    first = _run(environment, tmp_path, *release)
    again = _run(environment, tmp_path, *release)
    verified = _run(environment, tmp_path, "verify", f"out/{NAME}", "--json")

    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["ran"]
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["ran"] == []
    assert json.loads(verified.stdout)["ok"], verified.stdout
    assert (tmp_path / "hub" / NAME / "1.0.0" / "release.json").is_file()


def test_every_command_of_the_flows_is_a_command_of_aethernet(environment: Path, tmp_path: Path) -> None:
    told = _run(environment, tmp_path, "--help").stdout

    for name in ("release", "release-all", "reverify", "status", "gc", "train", "qat-finetune", "deploy", "worker"):
        assert f" {name} " in told, name
