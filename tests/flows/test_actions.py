"""What workflows ask of us: which releases a change, a tag or a person means; issues; running elsewhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from aethernet.errors import HubError, UsageError
from flows.actions import open_issue, plan_releases
from tests.support.github_server import GitHubServer, github_server

__all__ = ["github_server"]


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=A. Tester", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    """Two specs in a Git repository."""
    folder = tmp_path / "checkout" / "releases"
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        (folder / name / "release.toml").write_text(f'name = "{name}_2x"\nversion = "0.3.0"\ncheckpoint = "net.pth"\n')
    git(tmp_path, "init", "-q", "-b", "main", "checkout")
    commit(folder)
    return folder


def commit(folder: Path) -> str:
    git(folder, "add", "-A", "..")
    git(folder, "commit", "-q", "-m", "Change")
    return git(folder, "rev-parse", "HEAD")


def names(specs: Path, **options: object) -> list[str]:
    return [job.name for job in plan_releases(specs, **options).jobs]  # type: ignore[arg-type]


def test_all_specs_are_released_by_default_and_one_by_its_folder(specs: Path) -> None:
    assert names(specs) == ["one_2x", "two_2x"]
    assert names(specs, spec="two") == ["two_2x"]
    assert names(specs, spec=str(specs / "two")) == ["two_2x"]
    with pytest.raises(UsageError, match="expected one of the specs one, two, found 'three'"):
        names(specs, spec="three")


def test_a_change_releases_the_specs_whose_folders_it_touched(specs: Path) -> None:
    before = git(specs, "rev-parse", "HEAD")
    (specs / "two" / "net.pth").write_text("other weights")
    (specs.parent / "README.md").write_text("not a spec")
    commit(specs)

    assert names(specs, since=before) == ["two_2x"]
    assert names(specs, since=git(specs, "rev-parse", "HEAD")) == []


def test_a_deleted_spec_releases_nothing_and_a_new_branch_everything(specs: Path) -> None:
    before = git(specs, "rev-parse", "HEAD")
    (specs / "one" / "release.toml").unlink()
    commit(specs)

    assert names(specs, since=before) == []
    assert names(specs, since="0" * 40) == ["two_2x"]
    with pytest.raises(UsageError, match="expected a commit"):
        names(specs, since="--output=x")


def test_a_tag_releases_the_spec_it_names_and_only_in_its_version(specs: Path) -> None:
    assert names(specs, tag="two_2x-v0.3.0") == ["two_2x"]
    with pytest.raises(UsageError, match=r"expected version 0\.3\.0 in the tag"):
        names(specs, tag="two_2x-v0.4.0")
    with pytest.raises(UsageError, match="expected a tag NAME-vVERSION"):
        names(specs, tag="v1.0.0")


def test_a_checkpoint_needs_a_name_and_no_spec(specs: Path) -> None:
    address = "https://example.com/net.pth"

    (job,) = plan_releases(specs, checkpoint=address, name="net_2x", version="1.1.0", hub="hf://org").jobs

    assert (job.name, job.spec, job.address) == ("net_2x", "", "hf://org/net_2x@1.1.0")
    for wrong in ({"checkpoint": address}, {"name": "x"}, {"checkpoint": address, "name": "x", "spec": "one"}):
        with pytest.raises(UsageError, match="expected a spec, or a checkpoint"):
            names(specs, **wrong)
    with pytest.raises(UsageError, match="name"):
        names(specs, checkpoint=address, name="../x")


def test_a_release_is_published_with_a_hub_and_without_a_dry_run(specs: Path) -> None:
    def outputs(**options: object) -> dict[str, str]:
        return plan_releases(specs, **options).outputs  # type: ignore[arg-type]

    assert outputs()["publish"] == "false"
    assert outputs(hub="hf://org")["publish"] == "true"
    assert outputs(hub="hf://org", dry_run=True)["publish"] == "false"
    assert outputs(hub="hf://org", since=git(specs, "rev-parse", "HEAD")) == {
        "matrix": '{"include": []}',
        "any": "false",
        "publish": "false",
    }
    (one, _) = json.loads(outputs(hub="hf://org/")["matrix"])["include"]
    assert one["address"] == "hf://org/one_2x@0.3.0"
    assert one["resource"] == "org/one_2x"


def test_the_caches_name_changes_with_a_specs_files_and_not_with_anothers(specs: Path) -> None:
    def digest(name: str) -> str:
        return plan_releases(specs, spec=name).jobs[0].digest

    one, two = digest("one"), digest("two")
    (specs / "two" / "net.pth").write_text("weights")

    assert digest("one") == one
    assert digest("two") != two


@pytest.fixture
def in_actions(github_server: GitHubServer, monkeypatch: pytest.MonkeyPatch) -> GitHubServer:
    monkeypatch.setenv("GITHUB_REPOSITORY", github_server.repository)
    monkeypatch.setenv("GITHUB_API_URL", github_server.url)
    monkeypatch.setenv("GITHUB_TOKEN", github_server.token)
    return github_server


def test_an_issue_is_opened_once_and_then_commented_on(in_actions: GitHubServer) -> None:
    first = open_issue("Broken", "text")
    second = open_issue("Broken", "more text")
    other = open_issue("Something else", "x" * 100_000)

    assert first == "https://github.com/org/networks/issues/1"
    assert second.startswith(f"{first}#")
    assert other.endswith("/2")
    assert [issue["title"] for issue in in_actions.issues] == ["Broken", "Something else"]
    assert in_actions.comments == [(1, "more text")]
    assert len(in_actions.issues[1]["body"]) < 65_536


def test_an_issue_that_was_closed_is_opened_anew(in_actions: GitHubServer) -> None:
    open_issue("Broken", "text")
    in_actions.issues[0]["state"] = "closed"

    open_issue("Broken", "text")

    assert len(in_actions.issues) == 2


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda patch: patch.delenv("GITHUB_TOKEN"), UsageError, "expected GITHUB_REPOSITORY and GITHUB_TOKEN"),
        (lambda patch: patch.setenv("GITHUB_TOKEN", "wrong"), HubError, "401"),
        (lambda patch: patch.setenv("GITHUB_API_URL", "http://127.0.0.1:1"), HubError, "no answer"),
    ],
)
def test_what_keeps_an_issue_from_being_opened_is_told(
    in_actions: GitHubServer,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pytest.MonkeyPatch], None],
    error: type[Exception],
    told: str,
) -> None:
    change(monkeypatch)

    with pytest.raises(error, match=told):
        open_issue("Broken", "text")
