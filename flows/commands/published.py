"""``python -m flows verify-published``, ``reverify`` and ``pages``: releases on hubs, looked at again and shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from aethernet.cli.options import AsJson, TrustOptions
from aethernet.cli.output import emit_json, say, write_text
from aethernet.records import published_names
from flows.session import embedded_server

__all__ = ["pages", "reverify", "verify_published"]


def pages(
    trust: TrustOptions,
    hub: Annotated[str, typer.Option(help="Place of the releases: hf://org, file:///folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to serve.")] = Path("pages"),
    specs: Annotated[Path, typer.Option(help="Folder with NAME/release.toml in it.")] = Path("releases"),
    as_json: AsJson = False,
) -> None:
    """Write the pages of all published releases whose specs have [web], from what the hub has, for one server."""
    from aethernet.web.onnxruntime_web import onnxruntime_web
    from aethernet.web.pages import write_pages

    made = write_pages(specs, hub, output, onnxruntime_web, trust=trust.trust(), on_message=say)
    if as_json:
        emit_json({"path": str(output), "releases": made})
    else:
        print(output)
    say(f"pages of {', '.join(made) or 'no release'}")


def verify_published(
    address: Annotated[str, typer.Argument(help="place/name[@version], such as hf://org/name@1.0.0.")],
    trust: TrustOptions,
    as_json: AsJson = False,
) -> None:
    """Fetch a published release into an empty folder, check every byte and who signed, run one image."""
    from flows.verify_published import verify_published as flow

    with embedded_server():
        verified = flow(address, trust.trust())
    if as_json:
        emit_json(published_names(dataclasses.asdict(verified)))
    else:
        print(f"{address}: {verified.files} files, {verified.image}")
        say(verified.signature)


def reverify(
    trust: TrustOptions,
    releases: Annotated[
        list[str] | None,
        typer.Argument(metavar="ADDRESS...", help="Addresses place/name[@version]; by default what --hub has."),
    ] = None,
    hub: Annotated[
        str | None, typer.Option(help="Place whose releases are looked at: hf://org, file:///folder.")
    ] = None,
    specs: Annotated[
        Path | None, typer.Option(help="Only releases that specs in this folder, NAME/release.toml, name.")
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder with images that stated numbers were measured on.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that looking at one release may take.")] = 3600,
    issue_file: Annotated[
        Path | None, typer.Option(help="Where to write what is wrong, as the text of an issue.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at published releases again: fetch, check, run, hold against what they promise; 1 if they broke it."""
    from aethernet.hub.reverify import issue_text
    from flows.actions import summarize
    from flows.reverify import reverify as flow

    with embedded_server():
        findings = flow(hub, releases, specs, images, trust.trust(), timeout)
    text = issue_text(findings)
    summarize(text)
    wrong = [finding for finding in findings if not finding.ok]
    if as_json:
        emit_json([published_names(dataclasses.asdict(finding)) for finding in findings])
    else:
        for finding in findings:
            told = "; ".join(finding.problems) or f"as promised, {finding.numbers} numbers measured again"
            print(f"{finding.address}\t{told}")
    if wrong and issue_file is not None:
        write_text(issue_file, text)
        say(f"wrote {issue_file}")
    if wrong:
        raise typer.Exit(1)
