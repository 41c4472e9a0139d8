"""What README and the other pages promise: links, names, options, and every command and snippet run."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from tests.support.engine import engine
from tests.support.releases import small_images, small_spec
from tests.support.snippets import Block, code_blocks, commands_of, is_ours, run_block, run_command

__all__ = ["engine"]

ROOT = Path(__file__).resolve().parent.parent
GUIDES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
"""Pages whose commands and snippets are run."""
PAGES = [*GUIDES, ".github/CONTRIBUTING.md", ".github/RELEASING.md", "CHANGELOG.md"]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}

ELSEWHERE = {
    "make": "sets an environment up and takes minutes: .ci/run",
    "python3 -m venv": "needs a package registry: .ci/run",
    ". ": "changes the reader's shell, not a program",
    "pip install": "needs a package registry: .ci/run",
    "export": "sets variables of the reader's shell",
    "aethernet web": "needs npm: tests/aethernet/web/test_site.py",
    "python -m http.server": "ends when stopped: tests/aethernet/web/test_page_in_use.py",
    "aethernet publish out/aether_tiny_2x hf://your-organisation/aether_tiny_2x --space": (
        "needs npm and the Hub: tests/aethernet/web/test_site.py"
    ),
    "python -m flows pages": "needs npm and the Hub: tests/aethernet/web/test_pages.py",
    "aethernet engine": "needs TensorRT and minutes: tests/aethernet/cli/test_engine_commands.py",
    "aethernet upscale video.mkv -o video_2x.mkv --bundle out/NAME --runtime tensorrt": (
        "needs a GPU: tests/aethernet/upscale/test_engines.py"
    ),
    "python -m flows train": "takes an hour: tests/aethernet/training/test_training.py",
    "python -m flows serve-builds": "needs a Prefect server and ends when stopped: tests/flows/test_engines.py",
    "python -m flows deploy": "needs a Prefect server that is nobody's: tests/flows/test_deploying.py",
    "python -m flows worker": "ends when stopped: tests/flows/test_cluster.py",
    "python -m flows release-all releases --work-pool": "needs workers: tests/flows/test_cluster.py",
}
"""Beginnings of commands that the test of their page leaves to others -> why, and which test or script has them."""


def commands(page: str) -> list[str]:
    return [command for block in code_blocks(TEXTS[page]) if block.language == "sh" for command in commands_of(block)]


def reason_not_here(command: str) -> str | None:
    return next((reason for start, reason in ELSEWHERE.items() if command.startswith(start)), None)


def command_lines() -> dict[str, Any]:
    from aethernet.cli.main import app
    from flows.__main__ import app as flows

    return {"aethernet": typer.main.get_command(app), "python -m flows": typer.main.get_command(flows)}


def found_command(words: list[str], command: Any) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words behind them."""
    while words and (inner := getattr(command, "commands", {}).get(words[0])) is not None:
        command, words = inner, words[1:]
    return command, words


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page: str) -> None:
    wrong = []
    for link in re.findall(r"\]\((?!https?://)([^)]+)", TEXTS[page]):
        path, _, anchor = link.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        if not place.exists() or (anchor and anchor not in anchors(place.read_text(encoding="utf-8"))):
            wrong.append(link)

    assert wrong == []


def test_every_page_is_in_the_list_of_pages() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", TEXTS["docs/README.md"]))

    assert listed == {page.removeprefix("docs/") for page in GUIDES if page.startswith("docs/")} - {"README.md"}


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    named = {name for text in TEXTS.values() for name in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)}

    assert {"release", "test"} <= named
    assert named <= targets


def test_every_extra_named_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

    named = {
        extra
        for page in GUIDES
        for listed in re.findall(r"'\.\[([\w,-]+)\]'", TEXTS[page])
        for extra in listed.split(",")
    }

    assert {"images", "hub", "video", "spandrel"} <= named
    assert named <= set(extras)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_the_options_and_arguments_it_is_given(page: str) -> None:
    lines = command_lines()
    for text in filter(is_ours, commands(page)):
        name = next(name for name in lines if text.startswith(f"{name} "))
        command, words = found_command(shlex.split(text.removeprefix(name)), lines[name])

        assert not hasattr(command, "commands"), text
        command.make_context(text, words).close()


def test_an_option_that_is_not_there_is_noticed() -> None:
    command, words = found_command(["info", "FILE", "--octaves"], command_lines()["aethernet"])

    with pytest.raises(Exception, match="No such option: --octaves"):
        command.make_context("info", words)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_commands_named_in_sentences_exist_with_their_options(page: str) -> None:
    prose = re.sub(r"^ *```.*?^ *```", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    for text in re.findall(r"`((?:aethernet|(?:\.venv/bin/)?python -m flows) [a-z][^`]*)`", prose):
        text = text.removeprefix(".venv/bin/")
        name = "aethernet" if text.startswith("aethernet ") else "python -m flows"
        command, words = found_command(text.removeprefix(name).split(), command_lines()[name])
        options = {option for parameter in command.params for option in parameter.opts}

        assert command is not command_lines()[name]
        assert not hasattr(command, "commands") or not words, f"{text} names no command"
        assert {word.strip("[]").partition("=")[0] for word in words if word.lstrip("[").startswith("--")} <= options


@pytest.fixture
def desk(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything the pages' commands name; a tiny network stands for the sample and for others'."""
    folder = tmp_path / "desk"
    (folder / "out").mkdir(parents=True)
    release.rename(folder / "out" / "aether_tiny_2x")
    shutil.copytree(folder / "out" / "aether_tiny_2x", folder / "aether_tiny_2x")
    small_spec(folder / "releases" / "aether_tiny_2x", "aether_tiny_2x")
    (folder / "releases" / "aether_tiny_2x" / "images").symlink_to(ROOT / "releases" / "aether_tiny_2x" / "images")
    for name in ("net_g.pth", "net_g_ema.pth"):
        shutil.copyfile(folder / "out" / "aether_tiny_2x" / "tiny_2x_fp32.pth", folder / name)
    low = small_images(folder / "mine")
    for copy in ("photos", "images/lr", "validation/lr"):
        shutil.copytree(low, folder / copy)
    (folder / "Set5").mkdir()
    high = small_images(folder / "Set5" / "HR", scale=2)
    for copy in ("validation/hr", "photographs", "sets/Set5/HR"):
        shutil.copytree(high, folder / copy)
    (folder / "scans").mkdir()
    with Image.open(next(low.iterdir())) as image:
        image.save(folder / "cat.jpg")
        image.save(folder / "scans" / "a.tif")
    monkeypatch.chdir(folder)
    return folder


def as_on_the_desk(text: str, folder: Path) -> str:
    """The same with the tiny network's names, folders for hubs, and less of what takes time."""
    names = {
        "aether_tiny_2x/aether_tiny_2x_": "aether_tiny_2x/tiny_2x_",
        "hf://your-organisation": f"file://{folder}/hub",
        "hf://some-organisation": f"file://{folder}/theirs",
        "@v1.0.0": "@1.0.0",
        "--sizes 256x256,720x1280 --seconds 120": "--sizes 16x16,24x32 --seconds 5",
        "--runs 3 --seconds 150": "--runs 3 --seconds 5",
        "--steps 500": "--steps 2",
    }
    for name, other in names.items():
        text = text.replace(name, other)
    return text


@pytest.mark.parametrize("page", [page for page in GUIDES if "```python" in TEXTS[page]])
def test_every_python_snippet_runs(page: str, desk: Path) -> None:
    shapes = {"larger": (128, 128, 3), "levels": (256, 256, 3), "output": (1, 3, 128, 128)}
    for block in code_blocks(TEXTS[page]):
        if block.language == "python":
            names = run_block(Block(language="python", text=as_on_the_desk(block.text, desk)))

            made = next(name for name in ("larger", "levels", "descriptor", "output") if name in names)
            assert names[made].scale == 2 if made == "descriptor" else names[made].shape == shapes[made]


def prepared(page: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the commands of some pages need beside the desk."""
    if "video.mkv" in TEXTS[page]:
        pytest.importorskip("av", reason="needs PyAV: pip install 'aethernet-sr[video]'")
        from tests.support.videos import make_video

        make_video(desk / "video.mkv")
    if "realesr" in TEXTS[page]:
        from tests.support.third_party import compact

        compact(desk / "realesr-animevideov3.pth")
    if "aethernet lint" in TEXTS[page]:
        from tests.support.int8_files import one_int8_layer

        one_int8_layer(desk / "out" / "aether_tiny_2x" / "tiny_2x_int8.onnx")
    if page == "README.md":
        # Downloaded there as from somebody else, before anything is made.
        shutil.rmtree(desk / "aether_tiny_2x")
        run_command(as_on_the_desk("aethernet publish out/aether_tiny_2x hf://some-organisation/aether_tiny_2x", desk))
    if "release.pem" in TEXTS[page]:
        run_command("openssl ecparam -name prime256v1 -genkey -noout -out release.pem")
    if "python -m flows" in TEXTS[page]:
        from aethernet.engines import backends

        monkeypatch.setenv("AETHERNET_STORE", str(desk / "store"))
        monkeypatch.setattr(backends, "installed_version", lambda backend: None)
    if page in ("docs/publishing.md", "docs/releasing.md"):
        # Of the spec on the desk, which the release is held against; the downloaded one is still to come.
        shutil.rmtree(desk / "aether_tiny_2x")
        shutil.rmtree(desk / "out" / "aether_tiny_2x")
    if page == "docs/publishing.md":
        run_command("python -m flows release releases/aether_tiny_2x")


@pytest.mark.parametrize(
    "page",
    [
        # Most of the others run whole releases, and each of their commands is a test elsewhere, too.
        pytest.param(page, marks=pytest.mark.slow if page == "README.md" else pytest.mark.long)
        for page in GUIDES
        if any(not reason_not_here(one) for one in commands(page))
    ],
)
def test_every_command_of_a_page_runs(
    page: str, desk: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    here = [command for command in commands(page) if not reason_not_here(command)]
    if any("python -m flows" in command for command in here):
        request.getfixturevalue("engine")
    prepared(page, desk, monkeypatch)

    for command in here:
        run_command(as_on_the_desk(command, desk))

    assert here
    if page == "README.md":
        assert all((desk / made).exists() for made in ("cat_2x.jpg", "larger", "video_2x.mkv", "from_hub"))
        assert (desk / "out" / "my_network_2x" / "release.json").is_file()


def test_what_is_left_to_others_is_on_a_page_and_has_a_reason() -> None:
    everything = [command for page in GUIDES for command in commands(page)]
    for start, reason in ELSEWHERE.items():
        assert any(command.startswith(start) for command in everything), start
        place = reason.rpartition(": ")[2] if ": " in reason else None
        assert place is None or (ROOT / place).is_file(), reason
