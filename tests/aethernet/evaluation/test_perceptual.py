"""LPIPS and DISTS beside PSNR and SSIM. pyiqa is a heavy extra: what needs it skips where it is missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aethernet.errors import MissingDependencyError, UsageError
from aethernet.evaluation import evaluate, find_sets
from aethernet.evaluation.perceptual import perceptual_metrics
from aethernet.images.files import save_picture
from aethernet.release.bundle import open_bundle
from tests.support.pictures import natural_picture

HAS_PYIQA = importlib.util.find_spec("pyiqa") is not None


def test_unknown_measures_are_refused() -> None:
    with pytest.raises(UsageError, match="expected lpips or dists, found nice"):
        perceptual_metrics(["lpips", "nice"])


def test_nothing_is_imported_for_nothing() -> None:
    assert perceptual_metrics([]) == {}


@pytest.mark.skipif(HAS_PYIQA, reason="pyiqa is installed")
def test_a_missing_pyiqa_is_named_with_its_extra() -> None:
    with pytest.raises(MissingDependencyError, match="pyiqa"):
        perceptual_metrics(["dists"])

    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_every_form_and_picture_gets_a_distance(finished_release: Path, tmp_path: Path) -> None:
    bundle = open_bundle(finished_release)
    for seed, side in enumerate((32, 48)):
        save_picture(natural_picture(side, 40, seed=seed).numpy(), tmp_path / f"{seed}.png")
    metric = lambda output, truth: None if truth.shape[2] == 32 else float(np.abs(output - truth).mean())  # noqa: E731

    found = evaluate(bundle, find_sets(tmp_path, None, 2), only=["bicubic", "fp32"], perceptual={"lpips": metric})

    told = [one.to_json() for one in found.results]
    assert [one["form"] for one in told] == ["bicubic", "fp32"]
    for one in told:
        first, second = one["pictures"]
        assert first["lpips"] is None
        assert second["lpips"] > 0
        assert one["lpips"] == second["lpips"]
    assert told[0]["lpips"] != told[1]["lpips"]
    assert "dists" not in told[0]


_WEIGHTS = """
import os, sys, torch, torchvision
from pathlib import Path
torch.manual_seed(0)
hub = Path(torch.hub.get_dir())
(hub / "checkpoints").mkdir(parents=True), (hub / "pyiqa").mkdir()
torch.save(torchvision.models.alexnet().state_dict(), hub / "checkpoints" / "alexnet-owt-7be5be79.pth")
lins = {f"lin{n}.model.1.weight": torch.rand(1, c, 1, 1) for n, c in enumerate((64, 192, 384, 256, 256))}
if sys.argv[1] == "evil":
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(hub / "owned"),)
    lins["evil"] = Evil()
torch.save(lins, hub / "pyiqa" / "LPIPS_v0.1_alex-df73285e.pth")
from aethernet.errors import AethernetError
from aethernet.evaluation.perceptual import perceptual_metrics
try:
    metric = perceptual_metrics(["lpips"])["lpips"]
except AethernetError as error:
    print("refused", (hub / "owned").exists())
else:
    one, other = torch.rand(2, 1, 1, 80, 72).numpy()
    print(metric(one, one), metric(one, other) > 0.01, metric(one[:, :, :40], one[:, :, :40]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PYIQA, reason="needs pyiqa (aethernet-sr[perceptual])")
@pytest.mark.parametrize(("weights", "told"), [("honest", "0.0 True None"), ("evil", "refused False")])
def test_pyiqa_measures_and_its_files_are_not_unpickled(tmp_path: Path, weights: str, told: str) -> None:
    """Its own code on weights made here; those it would fetch are not at hand offline."""
    finished = subprocess.run(
        [sys.executable, "-c", _WEIGHTS, weights],
        env={**os.environ, "TORCH_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.stdout.strip() == told, finished.stderr
