"""What GitHub Actions needs of us, so that its workflow files hold no logic: what to release, summaries, issues."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aethernet.artifact import file_digest
from aethernet.errors import HubError, UsageError
from aethernet.release.spec import ReleaseSpec, make_spec, read_spec

__all__ = ["Plan", "open_issue", "plan_releases", "set_outputs", "summarize"]

_TAG = re.compile(r"(?P<name>.+)-v(?P<version>\d[^/]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowJob:
    """One job of the release matrix."""

    name: str
    spec: str
    """Folder of the spec; empty where there is a checkpoint instead."""
    digest: str
    """Of everything that decides which of a release's steps have been done before; names the cache of the store."""
    address: str
    """Where it is published, ``place/name@version``; empty without a hub."""
    resource: str
    """What the Hub's Trusted Publishers call that, ``org/name``; empty elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run of the release workflow does."""

    jobs: tuple[WorkflowJob, ...]
    publish: bool

    @property
    def outputs(self) -> dict[str, str]:
        """As the workflow reads it."""
        matrix = json.dumps({"include": [asdict(job) for job in self.jobs]})
        return {
            "matrix": matrix,
            "any": str(bool(self.jobs)).lower(),
            "publish": str(self.publish and bool(self.jobs)).lower(),
        }


def plan_releases(
    specs: Path,
    *,
    spec: str | None = None,
    checkpoint: str | None = None,
    name: str | None = None,
    version: str | None = None,
    tag: str | None = None,
    since: str | None = None,
    hub: str | None = None,
    dry_run: bool = False,
) -> Plan:
    """Decide what is released: a checkpoint, one spec, the spec a tag names, the specs that changed, or all.

    Args:
        specs: Folder with ``NAME/release.toml``.
        spec: Name of a folder in ``specs``, or a path.
        checkpoint: File or address; needs ``name``.
        name: Name of the checkpoint's release.
        version: Version of the checkpoint's release.
        tag: Git tag ``NAME-vVERSION``; the spec must say the same.
        since: Commit before the change; specs whose folders differ from it are released.
        hub: Place to publish to.
        dry_run: Publish nothing.

    Raises:
        UsageError: What is asked for does not exist, or contradicts itself.
    """
    if (checkpoint is None) != (name is None) or (checkpoint and spec) or (version and not checkpoint):
        raise UsageError("expected a spec, or a checkpoint together with its name and, if need be, its version")
    if checkpoint is not None:
        given = {"name": name, "checkpoint": checkpoint, "version": version}
        own = make_spec({key: value for key, value in given.items() if value is not None})
        chosen: list[tuple[ReleaseSpec, Path | None]] = [(own, None)]
    else:
        chosen = [(_read(folder, tag), folder) for folder in _folders(specs, spec, tag, since)]
    place = (hub or "").rstrip("/")
    jobs = [
        WorkflowJob(
            name=one.name,
            spec="" if folder is None else folder.as_posix(),
            digest="" if folder is None else _digest(folder),
            address=f"{place}/{one.name}@{one.version}" if place else "",
            resource=f"{place.removeprefix('hf://')}/{one.name}" if place.startswith("hf://") else "",
        )
        for one, folder in chosen
    ]
    return Plan(jobs=tuple(jobs), publish=bool(place) and not dry_run)


def _digest(folder: Path) -> str:
    """Over a spec with its files, our code and the pinned tools."""
    checkout = Path(__file__).resolve().parents[1]
    code = [path for layer in ("aethernet", "tasks", "flows") for path in (checkout / layer).rglob("*.py")]
    files = {path.relative_to(checkout): path for path in [*code, checkout / "constraints.txt"]}
    files |= {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    lines = sorted(f"{file_digest(path)}  {name.as_posix()}\n" for name, path in files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _folders(specs: Path, spec: str | None, tag: str | None, since: str | None) -> list[Path]:
    known = {path.parent.name: path.parent for path in sorted(specs.glob("*/release.toml"))}
    if spec is not None:
        wanted = known.get(spec) or Path(spec.removesuffix("/release.toml"))
        if not (wanted / "release.toml").is_file():
            raise UsageError(f"expected one of the specs {', '.join(known) or '(there is none)'}, found '{spec}'")
        return [wanted]
    if tag is not None:
        match = _TAG.fullmatch(tag)
        named = [folder for folder in known.values() if match and read_spec(folder).name == match["name"]]
        if not named:
            raise UsageError(f"expected a tag NAME-vVERSION of a spec in {specs}, found '{tag}'")
        return named
    if since is not None:
        changed = _changed(specs, since)
        return [folder for folder in known.values() if changed is None or folder.name in changed]
    return list(known.values())


def _read(folder: Path, tag: str | None) -> ReleaseSpec:
    spec = read_spec(folder)
    if tag is not None and not tag.endswith(f"-v{spec.version}"):
        raise UsageError(f"expected version {spec.version} in the tag, as {folder}/release.toml says, found '{tag}'")
    return spec


def _changed(specs: Path, since: str) -> set[str] | None:
    """Folders in ``specs`` that a commit has otherwise, by name; None where it is unknown, as for a new branch."""
    if not re.fullmatch(r"[0-9a-f]{7,64}", since):
        raise UsageError(f"expected a commit, found '{since}'")
    command = ["git", "diff", "--name-only", "-z", since, "HEAD", "--", "."]
    found = subprocess.run(command, cwd=specs, capture_output=True, text=True, encoding="utf-8", check=False)
    if found.returncode:
        return None
    root = subprocess.run(
        ["git", "rev-parse", "--show-prefix"], cwd=specs, capture_output=True, text=True, encoding="utf-8", check=True
    ).stdout.strip()
    return {path.removeprefix(root).partition("/")[0] for path in found.stdout.split("\0") if path}


def set_outputs(outputs: dict[str, str]) -> None:
    """Hand values, each on one line, to later jobs, where this runs in GitHub Actions."""
    if path := os.environ.get("GITHUB_OUTPUT"):
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in outputs.items())


def summarize(text: str) -> None:
    """Add Markdown to the summary of the job, where this runs in GitHub Actions."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{text}\n\n")


def open_issue(title: str, text: str) -> str:
    """Open an issue in the repository whose workflow this runs in; one that is open under this title gets a comment.

    Returns:
        Its address.

    Raises:
        UsageError: ``GITHUB_REPOSITORY`` or ``GITHUB_TOKEN`` is not set.
        HubError: GitHub refused or cannot be reached.
    """
    repository = os.environ.get("GITHUB_REPOSITORY")
    if not repository or not os.environ.get("GITHUB_TOKEN"):
        raise UsageError("expected GITHUB_REPOSITORY and GITHUB_TOKEN, as GitHub Actions sets them, found them not set")
    issues = f"/repos/{repository}/issues"
    body = text[:60_000]  # GitHub takes 65,536 characters
    for issue in _github("GET", f"{issues}?state=open&per_page=100"):
        if issue["title"] == title and "pull_request" not in issue:
            return str(_github("POST", f"{issues}/{int(issue['number'])}/comments", {"body": body})["html_url"])
    return str(_github("POST", issues, {"title": title, "body": body})["html_url"])


def _github(method: str, path: str, content: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(
        os.environ.get("GITHUB_API_URL", "https://api.github.com") + path,
        data=None if content is None else json.dumps(content).encode(),
        method=method,
        headers={
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "User-Agent": "aethernet",
        },
    )
    request.add_unredirected_header("Authorization", f"Bearer {os.environ['GITHUB_TOKEN']}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise HubError(f"GitHub refused {method} {path}: {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        raise HubError(f"GitHub gave no answer to {method} {path}: {error}") from error
