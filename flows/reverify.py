"""Look at everything that is published again: download, check, run, hold against what it promises."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from aethernet.errors import AethernetError, UsageError
from aethernet.hub.reverify import ReverifyFinding, Target, issue_text, released_at, specified_in
from aethernet.release.signing import Trust, read_trust
from flows.reporting import slug
from flows.session import located, on_worker
from tasks.reverify import reverify as look

__all__ = ["reverify"]


@flow(name="reverify", flow_run_name="reverify {hub}", persist_result=False)
def reverify(
    hub: str | None = None,
    releases: list[str] | None = None,
    specs: Path | None = None,
    images: list[Path] | None = None,
    trust: Trust | None = None,
    seconds: float = 3600,
) -> list[ReverifyFinding]:
    """Look at everything that is published again: download, check, run, hold against what it promises.

    Whatever is wrong with one release does not stop the others.

    Args:
        hub: Place to look at, such as ``hf://org``: the releases that ``specs`` names there, or all.
        releases: Addresses ``place/name[@version]`` to look at instead.
        specs: Folder with ``NAME/release.toml``.
        images: Folders with the images that stated numbers were measured on.
        trust: Whose signature must be on them; by default what the user's settings say for each address.
        seconds: What looking at one release may take.

    Raises:
        AethernetError: In a run of a worker, whose state is all that anybody sees: a release broke its promise.
    """
    unreadable: list[ReverifyFinding] = []
    if releases:
        targets = [Target(address=address) for address in releases]
    elif hub is None:
        raise UsageError("expected a hub or the addresses of releases, found neither")
    elif specs is not None:
        targets, unreadable = specified_in(located(specs), hub)
    else:
        targets = released_at(hub)
    folders = [located(folder) for folder in images or []]
    findings = [
        look(target, trust or read_trust(target.address.partition("@")[0]), folders, seconds) for target in targets
    ]
    findings += unreadable
    create_markdown_artifact(
        issue_text(findings),
        key=slug(f"reverify-{hub or 'releases'}"),
        description="Published releases, looked at again",
    )
    if on_worker() and not all(finding.ok for finding in findings):
        raise AethernetError(issue_text(findings))
    return findings
