"""What earlier versions released is verified, loaded and run by this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import aethernet
from aethernet.precision import Precision
from aethernet.release.bundle import open_bundle
from aethernet.release.signing import Trust
from aethernet.release.verification import verify_bundle
from aethernet.runtimes.opening import open_runtime
from tests.support.pictures import natural_picture
from tests.support.releases import flip_byte

KEPT = sorted(path.parent for path in Path(__file__).parent.glob("*/release.json"))
LARGEST_DIFFERENCE = {Precision.FP32: 1e-4, Precision.FP16: 0.01, Precision.INT8: 0.1}

every_kept = pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name)


def _trust(kept: Path) -> Trust:
    return Trust(public_key=kept.with_suffix(".pub").read_text())


def test_something_is_kept() -> None:
    assert KEPT


@every_kept
def test_a_kept_release_verifies_with_its_signature_and_its_picture(kept: Path) -> None:
    found = verify_bundle(kept, trust=_trust(kept))

    assert found.problems == ()
    assert found.signature.startswith("signed by the key")
    assert found.picture is not None


@every_kept
def test_a_kept_release_that_was_changed_does_not_verify(kept: Path, tmp_path: Path) -> None:
    spoilt = Path(shutil.copytree(kept, tmp_path / kept.name))
    flip_byte(spoilt / open_bundle(kept).manifest.files[0].path)

    assert not verify_bundle(spoilt, run=False, trust=_trust(kept)).ok


@every_kept
def test_every_file_of_a_kept_release_computes_its_picture(kept: Path) -> None:
    manifest = open_bundle(kept).manifest
    picture = natural_picture(24, 20).numpy()
    reference = manifest.file("onnx", Precision.FP32, ".onnx")
    assert reference is not None
    with open_runtime(kept / reference.path) as runtime:
        wanted = runtime.infer(picture)

    ran = set()
    for entry in manifest.files:
        if entry.role not in ("onnx", "weights"):
            continue
        assert entry.precision is not None
        with open_runtime(kept / entry.path) as runtime:
            found = runtime.infer(picture)
        assert np.abs(found - wanted).max() < LARGEST_DIFFERENCE[entry.precision], entry.path
        ran.add((entry.precision, entry.role))

    assert ran == {(precision, role) for precision in Precision for role in ("onnx", "weights")}


@every_kept
def test_a_kept_release_upscales(kept: Path) -> None:
    with aethernet.Upscaler(kept) as upscaler:
        assert upscaler.upscale(np.zeros((8, 8, 3), np.uint8)).shape == (16, 16, 3)
