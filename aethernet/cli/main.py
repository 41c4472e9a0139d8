"""``aethernet``: single steps, everything a downloaded release needs and, with the extra flows, whole releases."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata

import typer

from aethernet.cli import (
    benchmark,
    doctor,
    engines,
    evaluate,
    hub,
    inspection,
    releases,
    sensitivity,
    steps,
    upscaling,
    web,
)
from aethernet.cli.application import ENVIRONMENT, add_commands, make_app

__all__ = ["add_plugins", "app", "main"]

# A new command is a function in the file of its group, named here; a new group is a file.
app = make_app(__doc__, completion=True)
add_commands(app, upscaling.upscale, web.web, doctor.doctor, panel="Use a release")
add_commands(app, releases.verify, releases.compare, evaluate.evaluate, benchmark.benchmark, panel="Check a release")
add_commands(app, hub.list_, hub.download, releases.sign, hub.publish, hub.yank, panel="Hubs")
add_commands(app, inspection.info, steps.fuse, steps.export, panel="Networks and files")
add_commands(app, inspection.lint, sensitivity.sensitivity, panel="Networks and files")

engine_app = typer.Typer(no_args_is_help=True, help="TensorRT engines: build, look at, check.")
add_commands(engine_app, engines.build, engines.info, engines.check, group="engine")
app.add_typer(engine_app, name="engine", rich_help_panel="Networks and files")


def add_plugins(words: Sequence[str]) -> None:
    """Add the commands of other installed packages: entry points ``aethernet.commands``, each a function of the app.

    Args:
        words: What the user typed; for a command of our own nothing else is read.
    """
    own = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    if next((word for word in words if not word.startswith("-")), None) not in own:
        for found in metadata.entry_points(group="aethernet.commands"):
            found.load()(app)


def main() -> None:
    """Run the command line; errors become words and exit codes."""
    add_plugins(sys.argv[1:])
    app(prog_name="aethernet", auto_envvar_prefix=ENVIRONMENT)
