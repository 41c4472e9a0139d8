"""A runner for GitHub Actions workflows, as far as ours need one: expressions, matrices, conditions, artifacts.

Jobs share nothing but outputs, caches and artifacts, as on GitHub; ``run`` steps are run for real, by bash. Whatever a
workflow uses that is not known here is an error, so that nothing is passed over in silence.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Finished", "Runner", "evaluate", "read_workflow", "render"]

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<op>\|\||&&|==|!=|[!(),])|(?P<name>[A-Za-z_][\w.-]*)|(?P<int>\d+))"
)
_EXPRESSION = re.compile(r"\$\{\{((?:'(?:[^']|'')*'|(?!\}\}).)*)\}\}")
"""Braces inside of its texts do not end it."""
STATUS = ("success", "failure", "cancelled", "always")


def read_workflow(path: Path) -> dict[str, Any]:
    """A workflow file; YAML takes its ``on`` for a truth value."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content["on"] = content.pop(True)
    return dict(content)


def evaluate(text: str, context: Mapping[str, Any]) -> Any:
    """An expression without its ``${{ }}``.

    Args:
        text: The expression.
        context: Name -> mapping of values, or function.
    """
    tokens, place = [], 0
    while text[place:].strip():
        match = _TOKEN.match(text, place)
        assert match, f"cannot read {text[place:]!r}"
        tokens.append(match)
        place = match.end()

    def peek() -> str:
        return (tokens[0]["op"] or "") if tokens else ""

    def either() -> Any:
        value = both()
        while peek() == "||":
            tokens.pop(0)
            other = both()
            value = value or other
        return value

    def both() -> Any:
        value = equal()
        while peek() == "&&":
            tokens.pop(0)
            other = equal()
            value = value and other
        return value

    def equal() -> Any:
        value = plain()
        while peek() in ("==", "!="):
            operator, other = tokens.pop(0)["op"], plain()
            value = (value == other) == (operator == "==")
        return value

    def plain() -> Any:
        token = tokens.pop(0)
        if token["op"] == "!":
            return not plain()
        if token["op"] == "(":
            value = either()
            assert tokens.pop(0)["op"] == ")"
            return value
        if token["text"]:
            return token["text"][1:-1].replace("''", "'")
        if token["int"]:
            return int(token["int"])
        if token["name"] in ("true", "false"):
            return token["name"] == "true"
        value = context
        for part in token["name"].split("."):
            value = value.get(part, "") if isinstance(value, Mapping) else ""
        if peek() == "(":
            tokens.pop(0)
            given = []
            while peek() != ")":
                given.append(either())
                if peek() == ",":
                    tokens.pop(0)
            tokens.pop(0)
            assert callable(value), f"{token['name']} is not known here"
            return value(*given)
        assert token["name"].split(".")[0] in context, f"{token['name']} is not known here"
        return value

    found = either()
    assert not tokens, f"cannot read the end of {text!r}"
    return found


def render(value: Any, context: Mapping[str, Any]) -> Any:
    """A text with every ``${{ }}`` in it replaced; a text that is one expression gives its value."""
    if not isinstance(value, str):
        return value
    if match := _EXPRESSION.fullmatch(value.strip()):
        return evaluate(match[1], context)
    return _EXPRESSION.sub(lambda match: _text(evaluate(match[1], context)), value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass
class Finished:
    """How a job ended."""

    result: str
    commands: list[str] = field(default_factory=list)
    """Commands of its steps, as they stand in the file."""
    told: str = ""
    summary: str = ""
    outputs: dict[str, str] = field(default_factory=dict)


class Runner:
    """Runs workflows on a checkout."""

    def __init__(self, checkout: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self.checkout, self.folder, self.environment = checkout, folder, dict(environment)
        self.variables: dict[str, str] = {}
        """Of the repository."""
        self.secrets: dict[str, str] = {}
        self.token = "ghs_loopback"
        self.artifacts, self.caches = folder / "artifacts", folder / "caches"
        self.pages = folder / "pages"
        """What GitHub Pages serves."""
        self.attested: list[str] = []
        self.change_environment: Callable[[dict[str, str]], dict[str, str]] = lambda environment: environment
        """Applied to what a step sets: the one place where a local run differs from GitHub."""

    def run(
        self, path: Path, github: Mapping[str, Any], inputs: Mapping[str, Any] | None = None
    ) -> dict[str, Finished]:
        """Run a workflow; ``job`` or ``job NAME`` of a matrix -> how it ended."""
        workflow = read_workflow(path)
        inputs = dict(inputs or {})
        if github["event_name"] == "workflow_dispatch":
            known = (workflow["on"]["workflow_dispatch"] or {}).get("inputs", {})
            assert inputs.keys() <= known.keys(), f"{path.name} has no inputs {inputs.keys() - known.keys()}"
            inputs = {name: inputs.get(name, one.get("default", "")) for name, one in known.items()}
        for place in (self.artifacts, self.caches, self.folder / "jobs"):
            place.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.artifacts)
        self.artifacts.mkdir()
        finished: dict[str, Finished] = {}
        results: dict[str, str] = {}
        outputs: dict[str, dict[str, str]] = {}
        for name, job in workflow["jobs"].items():
            wanted = job.get("needs", [])
            wanted = [wanted] if isinstance(wanted, str) else wanted
            before = [results[one] for one in _ancestors(workflow["jobs"], name)]
            context = {
                "github": {"token": self.token, "server_url": "https://github.com", **github},
                "inputs": inputs,
                "vars": self.variables,
                "secrets": self.secrets,
                "needs": {one: {"result": results[one], "outputs": outputs.get(one, {})} for one in wanted},
                "success": lambda before=before: all(one == "success" for one in before),
                "failure": lambda before=before: "failure" in before,
                "cancelled": lambda: False,
                "always": lambda: True,
                "fromJSON": json.loads,
                "format": lambda text, *given: text.format(*given),
            }
            if not _condition(job.get("if", ""), context):
                results[name] = "skipped"
                continue
            matrix = render(job.get("strategy", {}).get("matrix"), context)
            instances = _instances(matrix)
            ended = []
            for instance in instances:
                label = " ".join(
                    [name, *([str(instance.get("name") or next(iter(instance.values())))] if instance else [])]
                )
                finished[label] = self._job(label, job, {**context, "matrix": instance})
                ended.append(finished[label])
            results[name] = "failure" if any(one.result == "failure" for one in ended) else "success"
            outputs[name] = ended[-1].outputs
        return finished

    def _job(self, label: str, job: Mapping[str, Any], context: dict[str, Any]) -> Finished:
        workspace = self.folder / "jobs" / re.sub(r"\W+", "-", label)
        shutil.rmtree(workspace, ignore_errors=True)
        shutil.copytree(self.checkout, workspace, symlinks=True)
        finished, steps, saves = Finished("success"), {}, []
        context = {**context, "steps": steps}
        context["success"] = lambda: finished.result == "success"
        context["failure"] = lambda: finished.result == "failure"
        for index, step in enumerate(job["steps"]):
            if not _condition(step.get("if", ""), context):
                continue
            try:
                if "run" in step:
                    finished.commands.append(step["run"])
                    steps[step.get("id", str(index))] = {"outputs": self._command(step, workspace, context, finished)}
                else:
                    given = {key: render(value, context) for key, value in step.get("with", {}).items()}
                    self._action(step["uses"], given, workspace, job["permissions"], saves)
            except AssertionError as error:
                finished.result = "failure"
                finished.told += f"{error}\n"
        if finished.result == "success":
            for place, key in saves:
                shutil.copytree(place, self.caches / key)
        finished.outputs = {key: _text(render(value, context)) for key, value in job.get("outputs", {}).items()}
        return finished

    def _command(
        self, step: Mapping[str, Any], workspace: Path, context: Mapping[str, Any], finished: Finished
    ) -> dict[str, str]:
        command = step["run"]
        if command.startswith("make setup"):
            return {}
        output, summary = workspace / ".output", workspace / ".summary"
        output.write_text("")
        summary.write_text("")
        github = {key: value for key, value in context["github"].items() if isinstance(value, str) and key != "token"}
        own = {key: _text(render(value, context)) for key, value in step.get("env", {}).items()}
        environment = {
            **self.environment,
            **{f"GITHUB_{key.upper()}": value for key, value in github.items()},
            "GITHUB_ACTIONS": "true",
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
            **self.change_environment(own),
        }
        done = subprocess.run(
            ["bash", "-e", "-c", command.replace(".venv/bin/", f"{Path(sys.executable).parent}/")],
            cwd=workspace,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=300,
        )
        finished.told += done.stdout + done.stderr
        finished.summary += summary.read_text()
        assert done.returncode == 0, f"{command} ended with exit code {done.returncode}"
        return dict(line.split("=", 1) for line in output.read_text().splitlines())

    def _action(
        self,
        uses: str,
        given: Mapping[str, Any],
        workspace: Path,
        permissions: Mapping[str, str],
        saves: list[tuple[Path, str]],
    ) -> None:
        match uses.partition("@")[0]:
            case "actions/checkout":
                assert permissions.get("contents") == "read"
                assert given["persist-credentials"] is False
            case "actions/setup-python":
                assert re.fullmatch(r"3\.\d+", given["python-version"])
            case "actions/cache":
                keys = [given["key"], *given.get("restore-keys", "").split()]
                found = [place for key in keys for place in self.caches.iterdir() if place.name.startswith(key)]
                if found:
                    shutil.copytree(found[0], workspace / given["path"])
                if not (self.caches / given["key"]).exists():
                    saves.append((workspace / given["path"], given["key"]))
            case "actions/upload-artifact":
                self._upload(given, workspace)
            case "actions/download-artifact":
                source = self.artifacts / given["name"]
                assert source.is_dir(), f"there is no artifact {given['name']}"
                shutil.copytree(source, workspace / given["path"], dirs_exist_ok=True)
            case "actions/upload-pages-artifact":
                self._upload({"name": "github-pages", "if-no-files-found": "error", **given}, workspace)
            case "actions/deploy-pages":
                assert permissions["id-token"] == permissions["pages"] == "write"
                shutil.rmtree(self.pages, ignore_errors=True)
                shutil.copytree(self.artifacts / "github-pages", self.pages)
            case "actions/attest":
                assert permissions["id-token"] == permissions["attestations"] == "write"
                found = [path for path in workspace.glob(given["subject-path"] + "/*") if path.is_file()]
                assert found, f"there is nothing to attest at {given['subject-path']}"
                self.attested += sorted(path.name for path in found)
            case other:
                raise NotImplementedError(other)

    def _upload(self, given: Mapping[str, Any], workspace: Path) -> None:
        paths = [workspace / line for line in given["path"].split() if (workspace / line).exists()]
        assert paths or given.get("if-no-files-found") != "error", f"there is nothing at {given['path']}"
        target = self.artifacts / given["name"]
        assert not target.exists(), f"there is an artifact {given['name']} already"
        if len(paths) == 1 and paths[0].is_dir():
            shutil.copytree(paths[0], target)
            return
        root = Path(os.path.commonpath([path.parent for path in paths])) if paths else workspace
        for path in paths:
            (target / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / path.relative_to(root))


def _instances(matrix: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if not matrix:
        return [{}]
    if "include" in matrix:
        assert matrix.keys() == {"include"}
        assert matrix["include"], "GitHub refuses an empty matrix"
        return [dict(one) for one in matrix["include"]]
    ((key, values),) = matrix.items()
    return [{key: value} for value in values]


def _ancestors(jobs: Mapping[str, Any], name: str) -> set[str]:
    needs = jobs[name].get("needs", [])
    direct = {needs} if isinstance(needs, str) else set(needs)
    return direct.union(*(_ancestors(jobs, one) for one in direct))


def _condition(text: str, context: Mapping[str, Any]) -> bool:
    text = str(text).strip()
    if not text:
        return bool(context["success"]())
    expression = text.removeprefix("${{").removesuffix("}}")
    holds = bool(evaluate(expression, context))
    return holds if re.search(rf"\b({'|'.join(STATUS)})\(", expression) else holds and bool(context["success"]())
