"""How commands speak: data on stdout, words on stderr, one way to report an error."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aethernet.cli import interruption
from aethernet.errors import AethernetError, GateError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.table import Table

__all__ = [
    "emit_json",
    "exit_code_for",
    "keep_names",
    "print_error",
    "print_table",
    "require_png",
    "say",
    "show_facts",
    "visible",
    "write_chart",
    "write_text",
]


def say(text: str) -> None:
    """Words for people, on stderr."""
    print(visible(text), file=sys.stderr)


def visible(text: str) -> str:
    """Text as a terminal may have it: what steers one, or is no character, is spelled out."""
    return "".join(one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode() for one in text)


_NAMES = "aethernet.names"


def keep_names() -> None:
    """From here on stdout takes every file name: bytes that are no text go through as they are, so that a name can be
    handed on to another program, and characters that stdout's encoding lacks are spelled out.
    """
    codecs.register_error(_NAMES, _as_it_was)
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(ValueError, OSError):  # closed
            sys.stdout.reconfigure(errors=_NAMES)


def _as_it_was(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    if all("\udc80" <= one <= "\udcff" for one in part):
        return bytes(ord(one) - 0xDC00 for one in part), error.end
    return "".join(one.encode("unicode_escape").decode() for one in part), error.end


def emit_json(data: Any) -> None:
    """One JSON document on stdout; escaped where a file name is no text or stdout's encoding lacks a character."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data, indent=2)
    print(text)


def show_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Facts on stdout: as one JSON document, or a line each."""
    if as_json:
        emit_json(facts)
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {_words(value)}")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_words(item) for item in value) or "none"
    return "–" if value is None else str(value)


def print_table(table: Table) -> None:
    """A table on stdout; 80 columns wide where stdout is no terminal."""
    from rich.console import Console

    Console(file=sys.stdout, highlight=False).print(table)


def require_png(chart: Path | None) -> None:
    """Charts are PNG files; said before anything is measured.

    Raises:
        UsageError: Another ending.
    """
    if chart is not None and chart.suffix.lower() != ".png":
        raise UsageError(f"expected a chart called .png, found {chart.name}")


def write_chart(chart: Image, path: Path) -> None:
    """Write a chart in one step, and say so."""
    from aethernet.artifact import atomic_path

    with atomic_path(path) as temporary:
        chart.save(temporary, format="PNG")
    say(f"wrote {path}")


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step, ending in one line feed."""
    from aethernet.artifact import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(f"{text.rstrip()}\n", encoding="utf-8")


def exit_code_for(error: BaseException) -> int:
    """2 for misuse, 130 for Ctrl-C, 143 for SIGTERM, 1 for everything else."""
    if isinstance(error, KeyboardInterrupt):
        return interruption.exit_code(error)
    return 2 if isinstance(error, UsageError) else 1


def print_error(error: BaseException) -> None:
    """What was expected, what was found, what to do."""
    if isinstance(error, GateError) and error.table:
        print(error.table)
    if isinstance(error, KeyboardInterrupt):
        say(interruption.stopped())
    elif isinstance(error, AethernetError):
        say(f"error: {error}")
        if error.hint:
            say(f"hint: {error.hint}")
    elif isinstance(error, OSError):
        say(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    else:
        say(f"error: {type(error).__name__}: {error}")
        say("hint: this is a defect of the tool; --debug shows where")
