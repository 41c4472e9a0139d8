"""The ncnn form in a release: left out, with fp32 weights, and what becomes of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from aethernet.artifact import Artifact
from aethernet.precision import Precision
from aethernet.release.bundle import open_bundle
from aethernet.release.manifest import CARD
from aethernet.release.spec import NcnnSpec, read_spec
from aethernet.release.verification import require_accepted
from tasks.ncnn import ncnn_outcome
from tests.support.releases import NAME, make_release, small_spec


def test_a_form_the_spec_leaves_out_is_not_made_and_named(tmp_path: Path) -> None:
    spec = read_spec(small_spec(tmp_path / "spec")).model_copy(update={"ncnn": NcnnSpec(include=False)})
    nothing = Artifact(name="network.safetensors", sha256="0" * 64, size=0)

    made = ncnn_outcome(nothing, nothing, spec, None, [])  # type: ignore[arg-type]

    assert (made.facts.status, made.facts.reason, made.files) == ("skipped", "left out by the spec", [])


@pytest.mark.slow
def test_kernels_in_fp32_are_released_as_such(tmp_path: Path, finished_release: Path) -> None:
    pytest.importorskip("ncnn", reason="needs ncnn: the extra 'ncnn'")
    path = small_spec(tmp_path / "spec", leave_out=("fp16", "int8"))
    with path.open("a") as file:
        file.write('\n[ncnn]\nweights = "fp32"\n')

    root = make_release(read_spec(path), tmp_path)

    manifest = open_bundle(root).manifest
    assert {entry.precision for entry in manifest.files if entry.role == "ncnn"} == {Precision.FP32}
    measured = [one for one in manifest.measurements if one.form.runtime == "ncnn-cpu"]
    assert measured
    assert min(one.psnr or 999 for one in measured) > 90  # with fp16 kernels it would be less
    assert "kernels in fp32." in (root / CARD).read_text(encoding="utf-8")
    assert (root / f"{NAME}_ncnn.bin").stat().st_size > 1.5 * (finished_release / f"{NAME}_ncnn.bin").stat().st_size
    require_accepted(manifest)
