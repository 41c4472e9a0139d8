"""Code blocks of our own pages, run as a reader would run them."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.spandrel_registry import registry_as_it_was

__all__ = ["Block", "code_blocks", "commands_of", "is_ours", "run_block", "run_command"]

FLOWS = "python -m flows "


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced code block."""

    language: str
    text: str


def code_blocks(page: str) -> list[Block]:
    """Every Python and shell block of a Markdown page, in order."""
    found = re.findall(r"^ *```(python|sh)\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    return [Block(language=language, text=text) for language, text in found]


def commands_of(block: Block) -> list[str]:
    """Every command of a shell block as if its environment were active, without comments, continued lines joined."""
    lines = [line.partition(" #")[0].strip() for line in block.text.replace("\\\n", " ").splitlines()]
    return [
        re.sub(r"\s{2,}", " ", line.removeprefix(".venv/bin/")) for line in lines if line and not line.startswith("#")
    ]


def is_ours(command: str) -> bool:
    """Whether it is one of our two command lines."""
    return command.startswith(("aethernet ", FLOWS))


def run_block(block: Block) -> dict[str, Any]:
    """Run a block in the current folder, of a shell block our own commands; Python's names come back.

    Raises:
        AssertionError: A command ends with another exit code than 0.
    """
    names: dict[str, Any] = {}
    if block.language == "python":
        with registry_as_it_was():
            exec(compile(block.text, "snippet", "exec"), names)
        return names
    commands = [command for command in commands_of(block) if is_ours(command)]
    assert commands, f"no command of ours in {block.text!r}"
    for command in commands:
        run_command(command)
    return names


def run_command(command: str) -> None:
    """Run one command: ours in this process, another one by itself.

    Raises:
        AssertionError: It ends with another exit code than 0.
    """
    if not is_ours(command):
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"exit code {done.returncode} of {command}: {done.stdout}{done.stderr}"
        return
    if command.startswith(FLOWS):
        from flows.__main__ import main
    else:
        from aethernet.cli.main import main
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["aethernet", *shlex.split(command.removeprefix(FLOWS).removeprefix("aethernet "))])
        try:
            main()
            code: Any = 0
        except SystemExit as ending:
            code = ending.code or 0
    assert code == 0, f"exit code {code} of {command}: {out.getvalue()}{err.getvalue()}"
