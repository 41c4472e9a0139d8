"""``python -m flows release …``: the command line of the flows."""

from __future__ import annotations

import typer

from aethernet.cli.application import ENVIRONMENT, add_commands, make_app
from flows.commands import actions, published, releases, stores, training, workers
from flows.session import prepare_prefect


def add_all_commands(app: typer.Typer) -> None:
    """Add every command to a command line: ours, or ``aethernet``'s where this is installed beside it."""
    prepare_prefect()  # before a command imports Prefect
    # A new command is a function in the file of its group, named here; a new group is a file.
    add_commands(app, releases.release, releases.release_all, panel="Release")
    add_commands(
        app, published.verify_published, published.reverify, published.pages, panel="Look at published releases"
    )
    add_commands(app, stores.status, stores.gc, panel="The store")
    add_commands(app, training.train, training.qat_finetune, panel="Train")
    add_commands(app, workers.deploy, workers.worker, workers.serve_builds, panel="Several machines")
    add_commands(app, actions.plan, actions.trigger, actions.open_issue, panel="Automation")


app = make_app("Release flows on Prefect's engine.")
add_all_commands(app)


def main() -> None:
    """Run the command line; errors become words and exit codes."""
    app(prog_name="python -m flows", auto_envvar_prefix=ENVIRONMENT)


if __name__ == "__main__":
    main()
