"""Code blocks of our own pages, run as a reader would run them."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from dataclasses import dataclass
from typing import Any

import pytest

__all__ = ["Block", "code_blocks", "commands_of", "run_block", "run_command"]


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
    """The ``aethernet`` commands of a shell block, without comments, continued lines joined."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [
        line.removeprefix(".venv/bin/").partition(" #")[0].strip()
        for line in lines
        if line.removeprefix(".venv/bin/").startswith("aethernet ")
    ]


def run_block(block: Block) -> dict[str, Any]:
    """Run a block in the current folder; Python's names come back.

    Raises:
        AssertionError: A command ends with another exit code than 0.
    """
    names: dict[str, Any] = {}
    if block.language == "python":
        exec(compile(block.text, "snippet", "exec"), names)
        return names
    commands = commands_of(block)
    assert commands, f"no command of ours in {block.text!r}"
    for command in commands:
        run_command(command)
    return names


def run_command(command: str) -> None:
    """Run one ``aethernet`` command in this process.

    Raises:
        AssertionError: It ends with another exit code than 0.
    """
    from aethernet.cli import main as cli

    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", shlex.split(command))
        try:
            cli.main()
            code: Any = 0
        except SystemExit as ending:
            code = ending.code or 0
    assert code == 0, f"exit code {code} of {command}: {out.getvalue()}{err.getvalue()}"
