"""``python -m flows status`` and ``gc``, on the store of a real release."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from aethernet.store.collection import DAY
from aethernet.store.store import Store
from tests.support.releases import NAME
from tests.support.workplace import CommandLine, Finished, Workplace

pytestmark = pytest.mark.slow


def _age(root: Path, days: float) -> None:
    for path in root.rglob("*"):
        os.utime(path, (time.time() - days * DAY,) * 2)


def test_status_lists_what_was_released_and_what_failed(
    workplace: Workplace, command_line: CommandLine, first_release: tuple[Workplace, Finished]
) -> None:
    (workplace.root / "spec" / "tiny.safetensors").write_bytes(b"spoilt")
    assert command_line(workplace.release).code == 1

    told = command_line(["status", "--store", str(workplace.store), "--json"])
    shown = command_line(["status", "--store", str(workplace.store)])

    failed, *others = json.loads(told.out)  # other tests may have released it before
    released = others[-1]
    assert (failed["name"], failed["outcome"]) == (NAME, "failed")
    assert {(one["name"], one["outcome"]) for one in others} == {(NAME, "released")}
    assert released["identity"] == first_release[1].summary["identity"]
    assert released["published"] == first_release[1].summary["published"]
    assert "expected a PyTorch or safetensors checkpoint" in failed["error"]
    assert [word for word in ("failed", "released", "expected a PyTorch") if word not in shown.out] == []


def test_gc_keeps_what_the_last_release_needs_and_removes_the_rest(
    workplace: Workplace, command_line: CommandLine
) -> None:
    (workplace.root / "stray").write_bytes(b"of a release nobody makes any more")
    stray = Store(workplace.store).put(workplace.root / "stray")
    (workplace.store / "scratch" / "killed").mkdir()
    _age(workplace.store, 60)
    assert command_line(workplace.release).ran == [f"assemble {NAME}", f"publish {NAME}"]

    options = ["gc", "--keep-days", "30", "--store", str(workplace.store), "--json"]
    planned = command_line([*options, "--dry-run"])
    assert Store(workplace.store).problem(stray) is None
    _age(workplace.store / "objects" / stray.sha256[:2], 60)
    collected = command_line(options)

    assert planned.code == collected.code == 0
    assert json.loads(collected.out)["removed"]["objects"] == 1
    assert {**json.loads(planned.out), "dry_run": False} == json.loads(collected.out)
    assert Store(workplace.store).problem(stray) is not None
    assert command_line(workplace.release).ran == []
