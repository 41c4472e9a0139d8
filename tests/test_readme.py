"""The README's promises that can be checked without running a release."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.support.releases import small_images
from tests.support.snippets import Block, code_blocks, commands_of, run_block, run_command

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    "docs/evaluation.md",
    "docs/benchmarks.md",
    ".github/CONTRIBUTING.md",
    ".github/RELEASING.md",
    "CHANGELOG.md",
]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")

    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)

    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))

    assert named
    assert named <= targets


def test_every_command_named_exists() -> None:
    from aethernet.cli.main import app

    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    named = set(re.findall(r"aethernet (info|[a-z]+) (?:[A-Za-z]*[./_][\w./]*|FILE)", README))

    assert {"info", "fuse", "export", "compare", "verify"} <= named
    assert named <= commands


ELSEWHERE = {
    "aethernet upscale video": "tests/aethernet/upscale/test_video.py",
    "aethernet engine build": "tests/aethernet/engine/test_builder.py",
}
"""Commands that are too much for this page's test -> what runs them."""


@pytest.fixture
def desk(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything the README's snippets name; a tiny network stands for the sample."""
    folder = tmp_path / "desk"
    (folder / "out").mkdir(parents=True)
    release.rename(folder / "out" / "aether_tiny_2x")
    (folder / "releases").symlink_to(ROOT / "releases")
    (folder / "net_g.pth").write_bytes((folder / "out" / "aether_tiny_2x" / "tiny_2x_fp32.pth").read_bytes())
    low = small_images(folder / "mine")
    (folder / "Set5").mkdir()
    small_images(folder / "Set5" / "HR", scale=2)
    (folder / "scans").mkdir()
    shutil.copytree(low, folder / "photos")
    with Image.open(next(low.iterdir())) as image:
        image.save(folder / "cat.jpg")
        image.save(folder / "scans" / "a.tif")
    monkeypatch.chdir(folder)
    return folder


def as_on_the_desk(text: str, folder: Path) -> str:
    """The same with the tiny network's names, and a folder for a hub."""
    names = {
        "aether_tiny_2x/aether_tiny_2x_": "aether_tiny_2x/tiny_2x_",
        "hf://your-organisation": f"file://{folder}/hub",
    }
    names |= {"@v1.0.0": "@1.0.0", "info FILE": "info out/aether_tiny_2x"}
    names["info realesr-animevideov3.pth"] = "info net_g.pth"
    for name, other in names.items():
        text = text.replace(name, other)
    return text


def test_every_python_snippet_runs(desk: Path) -> None:
    blocks = [block for block in code_blocks(README) if block.language == "python"]

    upscaler, onnx, torch, spandrel = (
        run_block(Block(language="python", text=as_on_the_desk(block.text, desk))) for block in blocks
    )

    assert upscaler["larger"].shape == (128, 128, 3)
    assert onnx["levels"].shape == (256, 256, 3)
    assert torch["output"].shape == (1, 3, 128, 128)
    assert spandrel["descriptor"].scale == 2


@pytest.mark.slow
def test_every_command_runs(desk: Path) -> None:
    commands = [command for block in code_blocks(README) if block.language == "sh" for command in commands_of(block)]
    here = [command for command in commands if not command.startswith(tuple(ELSEWHERE))]

    for command in here:
        run_command(as_on_the_desk(command, desk))

    assert all(any(command.startswith(one) for command in commands) for one in ELSEWHERE)
    assert len(here) >= 13
    assert all((ROOT / test).is_file() for test in ELSEWHERE.values())
    assert (desk / "cat_2x.jpg").is_file()
    assert (desk / "larger").is_dir()
