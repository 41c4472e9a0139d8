"""The GitHub Actions workflows: well-formed, careful, without logic of their own; and every command in them works."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer.main

from aethernet.release.bundle import SIGNATURE, open_bundle
from tests.support.actions import Finished, Runner, evaluate, read_workflow, render
from tests.support.engine import engine
from tests.support.github_server import GitHubServer, github_server
from tests.support.hub_server import Fault, HubServer
from tests.support.keys import KeyPair, key_pair
from tests.support.releases import NAME, tiny_checkpoint
from tests.support.workplace import CommandLine, Workplace, command_line, first_release, prefect_home, workplace

__all__ = ["command_line", "engine", "first_release", "github_server", "prefect_home", "workplace"]

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
PUBLISHING = ["release.yml"]

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def steps_of(path: Path) -> list[dict[str, Any]]:
    return [step for job in read_workflow(path)["jobs"].values() for step in job["steps"]]


def commands_of(path: Path) -> set[str]:
    return {step["run"] for step in steps_of(path) if "run" in step}


def check_schema(*paths: Path) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("check-jsonschema")
    command = [tool, "--builtin-schema", "vendor.github-workflows", *paths]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check_security(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("zizmor"), "--offline", "--no-progress", "--color=never", folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_workflows_keep_githubs_schema_and_another_does_not(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "runs-at:"))

    good, bad = check_schema(*WORKFLOWS), check_schema(broken)

    assert good.returncode == 0, good.stdout
    assert bad.returncode == 1
    assert "runs-at" in bad.stdout


BAD = """
on: pull_request_target
jobs:
  greet:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: echo "${{ github.event.pull_request.title }}"
"""


def test_workflows_are_safe_and_another_is_not(tmp_path: Path) -> None:
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    (folder / "bad.yml").write_text(BAD)

    good, bad = check_security(FOLDER.parent), check_security(folder)

    assert good.returncode == 0, good.stdout
    assert bad.returncode == 14
    found = set(re.findall(r"^(?:error|warning)\[([a-z-]+)\]", bad.stdout, re.MULTILINE))
    assert {"dangerous-triggers", "template-injection", "unpinned-uses", "excessive-permissions"} <= found


@every_workflow
def test_nothing_is_allowed_that_a_job_does_not_ask_for(path: Path) -> None:
    workflow = read_workflow(path)

    assert workflow["permissions"] == {}
    writing = {
        name: {key for key, value in job["permissions"].items() if value != "read"}
        for name, job in workflow["jobs"].items()
    }
    expected = {"publish": {"id-token", "attestations"}, "pages": {"id-token", "pages"}, "issue": {"issues"}}
    assert writing == {name: expected.get(name, set()) for name in workflow["jobs"]}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


@every_workflow
def test_actions_are_pinned_by_commit_and_leave_no_token_behind(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", path.read_text())

    assert used
    for action, comment in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action)
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment)
    for step in steps_of(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_one_action_has_one_version_everywhere() -> None:
    used = {action for path in WORKFLOWS for action in re.findall(r"uses: (\S+ # \S+)", path.read_text())}

    assert len(used) == len({action.partition("@")[0] for action in used})


@pytest.mark.parametrize("name", PUBLISHING)
def test_two_publications_of_one_release_never_run_at_once(name: str) -> None:
    workflow = read_workflow(FOLDER / name)

    assert workflow["concurrency"]["cancel-in-progress"] is False
    assert workflow["jobs"]["publish"]["concurrency"] == {
        "group": "publish-${{ matrix.name }}",
        "cancel-in-progress": False,
    }


def test_only_the_protected_job_publishes_and_it_builds_and_restores_nothing() -> None:
    jobs = read_workflow(FOLDER / "release.yml")["jobs"]
    publishing = [
        name for name, job in jobs.items() if any(" publish " in step.get("run", "") for step in job["steps"])
    ]
    caching = [name for name, job in jobs.items() if any("cache@" in step.get("uses", "") for step in job["steps"])]
    secret = [name for name, job in jobs.items() if "secrets." in json.dumps(job)]

    assert publishing == ["publish"]
    assert jobs["publish"]["environment"] == "release"
    assert "setup EXTRAS=hub,signing" in json.dumps(jobs["publish"])
    assert caching == ["build"]
    assert "environment" not in jobs["build"]
    assert secret == ["server"]


@every_workflow
def test_every_step_is_one_command_that_has_its_values_from_the_environment(path: Path) -> None:
    for command in commands_of(path):
        assert "${{" not in command
        assert not re.search(r"\n|;|\||&|`|\$\(", command.strip())
        assert re.match(r"make [a-z]|\.venv/bin/aethernet [a-z]|\.venv/bin/python -m flows [a-z]", command)


def _click(command: str) -> tuple[Any, str]:
    """The command a line calls, and what the names of its variables begin with."""
    from aethernet.cli.main import app as library
    from flows.__main__ import app as flows

    words = command.split()
    app, name = (library, words[1]) if words[0].endswith("aethernet") else (flows, words[3])
    return typer.main.get_command(app).commands[name], f"AETHERNET_{name.upper().replace('-', '_')}_"  # type: ignore[attr-defined]


@every_workflow
def test_every_variable_is_an_option_of_the_command_it_is_for(path: Path) -> None:
    for step in steps_of(path):
        for variable in step.get("env", {}):
            if variable.startswith("AETHERNET_"):
                command, prefix = _click(step["run"])
                options = {option.name.upper() for option in command.params if option.name}
                options |= {word.strip("-").replace("-", "_").upper() for one in command.params for word in one.opts}
                assert variable.startswith(prefix), variable
                assert variable.removeprefix(prefix) in options, variable


def test_ci_runs_what_the_readme_and_the_local_check_run() -> None:
    job = read_workflow(FOLDER / "ci.yml")["jobs"]["test"]
    local = re.findall(r"^(make .+?|\.venv/.+?)(?: \|\| make .+)?$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)

    assert [step["run"] for step in job["steps"] if "run" in step] == local
    assert {"make lint", "make types", "make test", "make release"} <= set(local)
    assert "\nmake test " in (ROOT / "README.md").read_text()
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_make_targets_and_their_variables_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in {command for path in WORKFLOWS for command in commands_of(path) if command.startswith("make ")}:
        _, target, *variables = command.split()
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        for variable in variables:
            assert re.search(rf"^{variable.partition('=')[0]} :?=", makefile, re.MULTILINE), variable


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("inputs.hub || vars.HUB", "hf://org"),
        ("github.ref_type == 'tag' && github.ref_name || ''", ""),
        ("!inputs.hub", True),
        ("github.event.before != 'x' && (inputs.flag == true)", True),
        ("format('{0}/x''s', github.ref_type)", "branch/x's"),
        ("format('{0}/{{x}}', github.ref_type)", "branch/{x}"),
        ("fromJSON(inputs.list)", [1]),
    ],
)
def test_runner_reads_expressions(text: str, value: object) -> None:
    context = {
        "inputs": {"hub": "", "flag": True, "list": "[1]"},
        "vars": {"HUB": "hf://org"},
        "github": {"ref_type": "branch", "event": {"before": "abc"}},
        "format": lambda text, *given: text.format(*given),
        "fromJSON": json.loads,
    }

    assert evaluate(text, context) == value
    assert render(f"<${{{{ {text} }}}}>", context).startswith("<")
    with pytest.raises(AssertionError, match="not known here"):
        evaluate("hashFiles('x')", context)


@pytest.fixture
def runner(
    workplace: Workplace,
    engine: None,
    prefect_home: Path,
    hub_server: HubServer,
    github_server: GitHubServer,
    tmp_path: Path,
) -> Runner:
    """A repository with one spec, a hub, and a store that has seen the spec before."""
    from prefect.settings import PREFECT_API_URL

    checkout = tmp_path / "repository"
    checkout.mkdir()
    for name in ("aethernet", "flows", "tasks", "constraints.txt"):
        (checkout / name).symlink_to(ROOT / name)
    git(checkout, "init", "-q", "-b", "main")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-q", "-m", "Begin")
    shutil.copytree(workplace.spec.parent, checkout / "releases" / NAME)
    git(checkout, "add", "-A")
    git(checkout, "commit", "-q", "-m", "A network")
    environment = {
        **workplace.environment(prefect_home),
        **{name: value for name, value in os.environ.items() if name.startswith("HF_")},
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1",
        "HF_ENDPOINT": hub_server.endpoint,
        "GITHUB_API_URL": github_server.url,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
    }
    found = Runner(checkout, tmp_path / "runner", environment)
    found.caches.mkdir(parents=True)
    shutil.copytree(workplace.store, found.caches / f"store-{NAME}-earlier")
    found.variables = {"AETHERNET_HUB": hub_server.place, "AETHERNET_PAGES": "true"}
    return found


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=A. Tester", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def keyed(key: KeyPair, environment: dict[str, str]) -> dict[str, str]:
    """GitHub's identity is to be had at GitHub only; here a key stands for it."""
    changed = {}
    for name, value in environment.items():
        command, _, option = name.rpartition("_")
        if option == "SIGSTORE":
            assert value == "true"
            changed[f"{command}_PRIVATE_KEY"] = str(key.private)
        elif option == "IDENTITY":
            assert value == (f"{IDENTITY} {BY_TAG}" if command.endswith(("PAGES", "REVERIFY")) else IDENTITY)
            changed[f"{command}_PUBLIC_KEY"] = str(key.public)
        elif option != "ISSUER":
            changed[name] = value
    return changed


WORKFLOW = "org/networks/.github/workflows/release.yml@refs/heads/main"
IDENTITY = f"https://github.com/{WORKFLOW}"
BY_TAG = IDENTITY.replace("heads/main", "tags/{name}-v{version}")
"""Of releases made by a tag; readers fill in which."""


def event(runner: Runner, name: str, **more: Any) -> dict[str, Any]:
    return {
        "event_name": name,
        "repository": "org/networks",
        "ref": "refs/heads/main",
        "ref_type": "branch",
        "ref_name": "main",
        "workflow_ref": WORKFLOW,
        "event": more,
    }


def results(jobs: dict[str, Finished]) -> dict[str, str]:
    return {name: job.result for name, job in jobs.items()}


@pytest.mark.long
def test_merged_spec_is_built_published_looked_at_and_reverified_until_the_hub_spoils_it(
    runner: Runner, hub_server: HubServer, github_server: GitHubServer, tmp_path: Path
) -> None:
    runner.change_environment = partial(keyed, key_pair(tmp_path, "ours"))
    before = git(runner.checkout, "rev-parse", "HEAD~1")

    made = runner.run(FOLDER / "release.yml", event(runner, "push", before=before))

    assert results(made) == {
        "plan": "success",
        f"build {NAME}": "success",
        f"publish {NAME}": "success",
        f"look {NAME}": "success",
        "pages": "success",
    }, "\n".join(job.told for job in made.values())
    bundle = runner.artifacts / NAME
    assert open_bundle(bundle).manifest.name == NAME
    assert {path.name for path in (runner.artifacts / f"{NAME}-report").rglob("*.*")} == {
        "comparison.md",
        "report.html",
    }
    assert "| passes |" in made[f"build {NAME}"].summary
    assert "- fp16: released\n- int8: skipped: left out by the spec" in made[f"build {NAME}"].summary
    tag = hub_server.state()[f"org/{NAME}"]["tags"]["v1.0.0"]
    assert tag.keys() == {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()} | {
        SIGNATURE
    }
    assert {SIGNATURE, "release.json"} <= set(runner.attested)
    assert {"index.html", "pages.txt", "style.css"} == {path.name for path in runner.pages.iterdir()}  # none has [web]
    assert len(list(runner.caches.iterdir())) == 2

    kept = runner.run(FOLDER / "reverify.yml", event(runner, "schedule"))
    hub_server.faults = [Fault("corrupt", match="GET /object/", times=-1)]
    broken = runner.run(FOLDER / "reverify.yml", event(runner, "schedule"))

    assert results(kept) == {"reverify": "success"}, kept["reverify"].told
    assert "stated numbers measured again" in kept["reverify"].summary
    assert ", 0 stated numbers" not in kept["reverify"].summary
    assert results(broken) == {"reverify": "failure", "issue": "success"}, broken["issue"].told
    (issue,) = github_server.issues
    assert "1 of 1 published releases are not as they were promised" in issue["body"]
    assert "is not what was released" in issue["body"]
    ran = {command for jobs in (made, broken) for job in jobs.values() for command in job.commands}
    trigger = {
        step["run"] for step in read_workflow(FOLDER / "release.yml")["jobs"]["server"]["steps"] if "run" in step
    }
    assert ran | trigger == commands_of(FOLDER / "release.yml") | commands_of(FOLDER / "reverify.yml")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and folder of a web server."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()


@pytest.mark.long
def test_dispatched_checkpoint_is_built_in_the_forms_asked_for_and_a_dry_run_publishes_nothing(
    runner: Runner, hub_server: HubServer, web: tuple[str, Path]
) -> None:
    address, folder = web
    checkpoint = tiny_checkpoint(folder)
    inputs = {
        "checkpoint": f"{address}/{checkpoint.name}",
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "name": "other_2x",
        "version": "2.1.0",
        "license": "CC0-1.0",
        "precisions": "fp32",
    }

    dispatched = event(runner, "workflow_dispatch")

    made = runner.run(FOLDER / "release.yml", dispatched, inputs)
    manifest = open_bundle(runner.artifacts / "other_2x").manifest
    wrong = runner.run(FOLDER / "release.yml", dispatched, {**inputs, "checkpoint_sha256": "0" * 64})

    assert results(made) == {"plan": "success", "build other_2x": "success"}, made["build other_2x"].told
    assert (manifest.version, manifest.license) == ("2.1.0", "CC0-1.0")
    assert manifest.checkpoint.origin == inputs["checkpoint"]
    assert [form.precision.value for form in manifest.forms if form.status == "released"] == ["fp32"]
    assert results(wrong) == {"plan": "success", "build other_2x": "failure"}
    assert "expected a file with sha256 0000" in wrong["build other_2x"].told
    assert hub_server.state() == {}
    assert len(list(runner.caches.iterdir())) == 1, "third-party weights do not get to write caches"


SERVED = """
from prefect import flow
from prefect.artifacts import create_markdown_artifact

@flow(name="release", persist_result=False)
def release(spec: str, works: bool = True) -> None:
    create_markdown_artifact(f"| {spec} | passes |", key="comparison")
    if not works:
        raise RuntimeError("the gate stayed shut")

if __name__ == "__main__":
    release.serve(name="here", print_starting_message=False)
"""


@pytest.mark.slow
def test_deployment_of_a_server_is_run_in_the_runners_place_and_its_end_is_told(
    runner: Runner, command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client

    (tmp_path / "served.py").write_text(SERVED)
    environment = {**runner.environment, "PREFECT_RUNNER_POLL_FREQUENCY": "1", "PREFECT_RUNNER_SERVER_ENABLE": "false"}
    worker = subprocess.Popen([sys.executable, tmp_path / "served.py"], cwd=tmp_path, env=environment)
    runner.variables["PREFECT_API_URL"] = runner.environment["PREFECT_API_URL"]
    inputs = {"deployment": "release/here", "parameters": '{"spec": "releases/x"}'}
    command = ["trigger", "--watch"]
    try:
        with get_client(sync_client=True) as client:
            for _ in range(300):
                if any(one.name == "here" for one in client.read_deployments()):
                    break
                threading.Event().wait(0.2)
        good = runner.run(FOLDER / "release.yml", event(runner, "workflow_dispatch"), inputs)
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
        bad = command_line([*command, "release/here", "--param", "spec=releases/x", "--param", "works=false"])
        unknown = command_line([*command, "release/nowhere"])
        refused = command_line([*command, "release/here", "--param", "speck=1"])
    finally:
        worker.terminate()
        worker.wait()

    assert results(good) == {"server": "success"}, good["server"].told
    assert "Completed" in good["server"].summary
    assert "| releases/x | passes |" in good["server"].summary
    assert bad.code == 1
    assert "the gate stayed shut" in (tmp_path / "summary").read_text()
    assert "| releases/x | passes |" in (tmp_path / "summary").read_text()
    assert unknown.code == 2
    assert "found none called 'release/nowhere'" in unknown.err
    assert refused.code == 1
    assert "could not run release/here" in refused.err
