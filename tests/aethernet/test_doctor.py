"""What works here is found out by trying it, and nothing secret or personal is told."""

from __future__ import annotations

import json
import os
import tomllib
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from aethernet import doctor
from aethernet.cli.doctor import doctor as command
from aethernet.errors import ComparisonError
from aethernet.runtimes import runtimes_here

ROOT = Path(__file__).resolve().parents[2]
HERE = [name for name, lack in runtimes_here().items() if not lack]


@pytest.mark.parametrize("name", HERE)
def test_every_runtime_that_is_here_computes_three_layers_right(name: str) -> None:
    answer = doctor._checked(name)

    assert answer["state"] == "works", answer


class Wrong:
    """A runtime that swaps two channels."""

    def __init__(self, right: Any) -> None:
        self.right = right

    def __enter__(self) -> Wrong:
        self.right.__enter__()
        return self

    def __exit__(self, *ending: object) -> None:
        self.right.__exit__(None, None, None)

    def infer(self, image: np.ndarray[Any, Any]) -> Any:
        return self.right.infer(image)[:, ::-1]


def test_a_runtime_that_computes_something_else_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.open_runtime
    monkeypatch.setattr(doctor, "open_runtime", lambda *given, **named: Wrong(real(*given, **named)))

    answer = doctor._checked("onnxruntime-cpu")

    assert answer["state"] == "broken"
    assert "off by" in answer["words"]


def _crash(name: str, connection: Connection) -> None:
    os._exit(3)


def _sleep(name: str, connection: Connection) -> None:
    connection.poll(60)


def _refuse(name: str) -> dict[str, str]:
    raise ComparisonError("expected a card, found none")


def test_a_crash_takes_only_its_own_process_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_serve", _crash)

    assert doctor.try_runtime("onnxruntime-cpu") == {"state": "broken", "words": "its process ended with 3"}


def test_a_runtime_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_serve", _sleep)

    assert doctor.try_runtime("onnxruntime-cpu", 0.1) == {"state": "broken", "words": "no answer within 0.1 s"}


def test_a_runtime_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, str]] = []
    monkeypatch.setattr(doctor, "_checked", _refuse)

    class Connected:
        send = staticmethod(sent.append)

    doctor._serve("ncnn-vulkan", Connected())  # type: ignore[arg-type]

    assert sent == [{"state": "broken", "words": "expected a card, found none"}]


def test_every_extra_says_what_it_is_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert doctor.PURPOSES.keys() == project["optional-dependencies"].keys() - {"development", "fuzzing", "pictures"}


def test_an_extra_lacks_what_is_missing_or_too_old_also_through_another_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "numpy>=2",
        'torch>=2; extra == "convert"',
        'aethernet-sr[convert]; extra == "spandrel"',
        'spandrel>=1; extra == "spandrel"',
        'av>=14; extra == "video"',
    ]
    versions = {"torch": "1.13", "spandrel": "1.0", "av": "15.0"}
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(doctor, "package_version", versions.get)

    found = dict(doctor._extras())

    assert found["video"] == found["video"] | {"installed": True, "missing": []}
    assert found["convert"] == found["convert"] | {"installed": False, "missing": ["torch>=2"]}
    assert found["spandrel"]["missing"] == ["torch>=2"]
    assert "aethernet-sr[spandrel]" in found["spandrel"]["add"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"state": "works", "words": "largest error 0"}
    monkeypatch.setattr(doctor, "try_runtime", lambda name: states)


def test_nothing_secret_or_personal_is_told(
    quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_topsecret")
    monkeypatch.setenv("HOME", str(tmp_path / "ada-lovelace"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    command(as_json=True)
    told = capsys.readouterr().out
    command(as_json=False)
    shown = capsys.readouterr().out

    assert json.loads(told)["hub"] == {"token": "from HF_TOKEN"}
    for text in (told, shown):
        assert "topsecret" not in text
        assert "ada-lovelace" not in text


def test_what_is_installed_and_does_not_work_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "try_runtime", lambda name: {"state": "broken", "words": "[odd] words"})

    with pytest.raises(typer.Exit) as ending:
        command(as_json=False)
    told = capsys.readouterr()

    assert ending.value.exit_code == 1
    assert "[odd] words" in told.out
    assert "installed here and not working: " in told.err
    assert "onnxruntime-cpu" in told.err
