"""What both command lines have in common: help, version, JSON, earlier names, variables, errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

import aethernet
from aethernet.cli.application import RENAMED, add_commands, expand, make_app, with_new_names
from aethernet.cli.main import app as library
from aethernet.cli.options import PublishOptions, split_list
from aethernet.errors import UsageError
from flows.__main__ import app as flows

ROOT = Path(__file__).resolve().parents[3]
APPS = {"aethernet": library, "python -m flows": flows}
Number = Annotated[int, typer.Option(help="A number.")]


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command of an app and of the groups in it, with the words that call it."""
    for name, command in group.commands.items():
        words = f"{path} {name}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, words)
        else:
            yield words, command


def all_commands() -> list[Any]:
    return [
        pytest.param(name, words, command, id=f"{name} {words}")
        for name, app in APPS.items()
        for words, command in commands(typer.main.get_command(app))
    ]


def ran(app: typer.Typer, *words: str, **variables: str) -> Any:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200", **variables}, auto_envvar_prefix="AETHERNET")


@pytest.mark.parametrize("module", ["aethernet", "flows"])
def test_both_are_modules_that_answer_with_their_version(module: str) -> None:
    command = [sys.executable, "-m", module, "--version"]

    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)

    assert found.stdout.strip() == aethernet.__version__


@pytest.mark.parametrize(("name", "words", "command"), all_commands())
def test_every_command_has_short_help_and_json_and_shows_nothing_internal(name: str, words: str, command: Any) -> None:
    found = ran(APPS[name], *words.split(), "-h")

    assert found.exit_code == 0
    assert found.stdout == ran(APPS[name], *words.split(), "--help").stdout
    assert "--json" in found.stdout
    for internal in ("env var", "as_json", "AS_JSON", *RENAMED):
        assert internal not in found.stdout
    assert not [one.name for one in command.params if one.help is None], "an option without help"


def test_long_helps_are_in_groups() -> None:
    upscale, release = ran(library, "upscale", "-h").stdout, ran(flows, "release", "-h").stdout

    assert all(f"─ {panel} ─" in upscale for panel in ("Runtime and memory", "Images", "Videos"))
    assert all(f"─ {panel} ─" in release for panel in ("What is released", "Signing and publishing"))


def test_the_shell_completes_commands_and_leaves_earlier_names_out() -> None:
    asked = {"_AETHERNET_COMPLETE": "complete_bash", "COMP_CWORD": "1"}

    found = CliRunner().invoke(library, [], prog_name="aethernet", env={**asked, "COMP_WORDS": "aethernet up"})

    assert found.stdout.split() == ["upscale"]
    assert "--install-completion" in ran(library, "-h").stdout


# --- earlier names ---------------------------------------------------------------------------------------------------


def parsed(command: str, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = typer.main.get_command(flows).commands[command].make_context(command, list(words)).params  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("written", [["{}", "3"], ["{}=3"]])
@pytest.mark.parametrize(
    ("command", "old", "field"),
    [
        ("train", "--octaves", "pyramid_levels"),
        ("train", "--extremes", "synthetic_share"),
        ("train", "--extreme-weight", "synthetic_weight"),
        ("qat-finetune", "--octaves", "pyramid_levels"),
    ],
)
def test_an_option_answers_to_its_earlier_name(command: str, old: str, field: str, written: list[str]) -> None:
    place = ["photographs"] if command == "train" else ["net.pth", "--images", "photographs"]
    earlier = [word.format(old) for word in written]
    today = [word.format(RENAMED[old]) for word in written]

    assert parsed(command, *place, *earlier) == parsed(command, *place, *today)
    assert parsed(command, *place, *earlier)[field] == 3


def test_a_variable_of_an_earlier_name_counts_and_todays_goes_before_it() -> None:
    app = make_app("For a test.")

    def train(pyramid_levels: Number = 2) -> None:
        print(pyramid_levels)

    add_commands(app, train)

    assert ran(app, "train").stdout == "2\n"
    assert ran(app, "train", AETHERNET_TRAIN_OCTAVES="3").stdout == "3\n"
    assert ran(app, "train", AETHERNET_TRAIN_OCTAVES="3", AETHERNET_TRAIN_PYRAMID_LEVELS="4").stdout == "4\n"


def test_a_command_without_the_option_keeps_the_word_and_so_does_what_follows_two_dashes() -> None:
    assert with_new_names(["--octaves", "3"], {"--json"}) == ["--octaves", "3"]
    assert with_new_names(["--octaves", "3"], {"--octaves", "--pyramid-levels"}) == ["--octaves", "3"]
    words = ["--octaves", "1", "--", "--octaves"]
    assert with_new_names(words, {"--pyramid-levels"}) == ["--pyramid-levels", "1", "--", "--octaves"]


# --- options as objects ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pair:
    number: Number = 1


def test_a_dataclass_stands_for_its_fields() -> None:
    app = make_app("For a test.")

    def show(pair: Pair, word: Annotated[str, typer.Argument(help="A word.")]) -> None:
        print(pair, word)

    add_commands(app, show)

    assert ran(app, "show", "--number", "5", "x").stdout.endswith("Pair(number=5) x\n")


def test_two_options_of_one_name_are_a_mistake() -> None:
    def twice(pair: Pair, number: Number = 1) -> None: ...

    with pytest.raises(TypeError, match="every option of twice once, found number, number"):
        expand(twice)


def test_publishing_options_are_the_same_in_another_process() -> None:
    given = PublishOptions(hub="file:///hub", private=True, sign_key=Path("k.pem"), sign_chain=[Path("a"), Path("b")])
    words = given.arguments()

    found = parsed("release-all", *words)

    assert {name: found[name] for name in ("hub", "private", "sign_key", "sign_chain", "sigstore")} == {
        "hub": "file:///hub",
        "private": True,
        "sign_key": Path("k.pem"),
        "sign_chain": [Path("a"), Path("b")],
        "sigstore": False,
    }


@pytest.mark.parametrize(
    ("text", "words"), [(None, []), ("", []), ("fp16", ["fp16"]), ("fp16, int8,", ["fp16", "int8"])]
)
def test_lists_are_words_between_commas(text: str | None, words: list[str]) -> None:
    assert split_list(text) == words


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UsageError("expected a thing", hint="give one"), 2, "error: expected a thing\nhint: give one\n"),
        (KeyboardInterrupt(), 130, "stopped; nothing was changed; the same command starts again\n"),
        (ZeroDivisionError("x"), 1, "error: ZeroDivisionError: x\nhint: this is a defect of the tool; --debug shows"),
    ],
)
def test_every_error_becomes_words_and_an_exit_code(error: BaseException, code: int, told: str) -> None:
    app = make_app("For a test.")

    def fail() -> None:
        raise error

    add_commands(app, fail)

    plain, debug = ran(app, "fail"), ran(app, "fail", "--debug")

    assert (plain.exit_code, debug.exit_code) == (code, code)
    assert plain.stderr.startswith(told)
    assert "Traceback" not in plain.stderr
    assert debug.stderr.startswith("Traceback")
