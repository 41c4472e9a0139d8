"""``python -m flows plan``, ``trigger`` and ``open-issue``: what workflows of GitHub Actions call."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from aethernet.cli.application import ENVIRONMENT
from aethernet.cli.options import AsJson, HubPlace
from aethernet.cli.output import emit_json, say
from aethernet.errors import UsageError

__all__ = ["open_issue", "plan", "trigger"]


def plan(
    specs: Annotated[Path, typer.Option(help="Folder with NAME/release.toml in it.")] = Path("releases"),
    spec: Annotated[str | None, typer.Option(help="Release this one, by the name of its folder.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Release this checkpoint, a file or an address.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the checkpoint's release.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of the checkpoint's release (default 1.0.0).")] = None,
    tag: Annotated[str | None, typer.Option(help="Release the spec that this tag, NAME-vVERSION, names.")] = None,
    since: Annotated[str | None, typer.Option(help="Release what changed since this commit.")] = None,
    hub: HubPlace = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Publish nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what the release workflow makes, as JSON and as outputs of a GitHub Actions job; by default all specs."""
    from flows.actions import plan_releases, set_outputs

    planned = plan_releases(
        specs,
        spec=spec,
        checkpoint=checkpoint,
        name=name,
        version=version,
        tag=tag,
        since=since,
        hub=hub,
        dry_run=dry_run,
    )
    set_outputs(planned.outputs)
    del as_json  # the plan is for machines: it is JSON in any case
    emit_json(dataclasses.asdict(planned))


def trigger(
    deployment: Annotated[str, typer.Argument(help="FLOW/DEPLOYMENT.", envvar=f"{ENVIRONMENT}_TRIGGER_DEPLOYMENT")],
    param: Annotated[
        list[str] | None, typer.Option(help="One parameter, name=value; the value as JSON or as text.")
    ] = None,
    parameters: Annotated[str, typer.Option(help="Several, as a JSON object.")] = "{}",
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the end; 1 unless it is Completed.")] = False,
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds to wait at most.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a deployment on the Prefect server of PREFECT_API_URL, in place of this machine."""
    from flows.actions import summarize
    from flows.trigger import trigger as run

    given = {**_object(parameters), **dict(map(_parameter, param or ()))}
    found = run(deployment, given, timeout=timeout if watch else 0, on_message=say)
    summarize("\n\n".join([f"# {deployment}: {found.state}", found.message, *found.pages]))
    if as_json:
        emit_json(dataclasses.asdict(found))
    else:
        print(f"{found.name}\t{found.state}\t{found.id}")
    if found.message:
        say(found.message)
    if watch and not found.completed:
        raise typer.Exit(1)


def open_issue(
    file: Annotated[Path, typer.Argument(help="Markdown text, as `reverify --issue-file` writes it.")],
    title: Annotated[str, typer.Option(help="An open issue of this title gets a comment instead.")],
    as_json: AsJson = False,
) -> None:
    """Open an issue in the GitHub repository whose workflow this runs in."""
    from flows.actions import open_issue as write

    issue = write(title, file.read_text(encoding="utf-8"))
    if as_json:
        emit_json({"issue": issue})
    else:
        print(issue)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"expected --parameters as a JSON object, found '{text}'")
    return found


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"expected --param name=value, found '{text}'")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
