"""Every command that looks at a release or a file knows the ncnn form."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aethernet.release.bundle import open_bundle
from tests.support.commands import Call
from tests.support.releases import NAME, flip_byte

pytest.importorskip("ncnn", reason="needs ncnn: the extra 'ncnn'")


def double_first_kernel(weights: Path) -> None:
    """The first layer's kernel, fp16 after its tag, times two; the file stays as long as it was."""
    data = bytearray(weights.read_bytes())
    assert struct.unpack_from("<I", data)[0] == 0x01306B47
    kernel = np.frombuffer(data, "<f2", 200, 4) * 2
    data[4 : 4 + kernel.nbytes] = kernel.astype("<f2").tobytes()
    weights.write_bytes(data)


def test_info_says_what_a_parameter_file_is_and_what_runs_it(call: Call, finished_release: Path) -> None:
    found = json.loads(call("info", finished_release / f"{NAME}_ncnn.param", "--json").out)

    assert (found["kind"], found["inputs"], found["outputs"]) == ("ncnn", ["data"], ["output"])
    assert found["weights"].startswith(f"{NAME}_ncnn.bin, ")
    assert "Upscayl" in found["programs"]
    assert "realesrgan-ncnn-vulkan" not in found["programs"]


def test_info_says_what_became_of_the_form_in_a_release(call: Call, finished_release: Path) -> None:
    found = json.loads(call("info", finished_release, "--json").out)

    assert found["ncnn"] in ("released", "made, not run with Vulkan")
    assert f"{NAME}_ncnn.param" in found["files"]


def test_lint_says_for_every_program_whether_it_runs_the_file(call: Call, finished_release: Path) -> None:
    told = call("lint", finished_release / f"{NAME}_ncnn.param")

    assert told.code == 0
    assert "Upscayl: yes" in told.out
    assert "realesrgan-ncnn-vulkan: no, lacks ConvolutionDepthWise" in told.out


def test_lint_and_info_refuse_what_is_no_parameter_file(call: Call, tmp_path: Path) -> None:
    (tmp_path / "a.param").write_text("something else")

    for command in ("lint", "info"):
        told = call(command, tmp_path / "a.param")
        assert told.code == 1
        assert "expected a.param to start with 7767517" in told.err


def test_upscale_takes_the_files_and_gives_the_same_image(call: Call, finished_release: Path, tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(60, 190, (24, 31, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    for runtime in ("ncnn-cpu", "onnxruntime-cpu"):
        options = ["--runtime", runtime, "--precision", "fp16" if runtime == "ncnn-cpu" else "fp32", "--json"]
        told = call(
            "upscale", tmp_path / "a.png", "-o", tmp_path / f"{runtime}.png", "--bundle", finished_release, *options
        )
        assert told.code == 0, told.err
        assert f'"{runtime}"' in told.out
    ours, theirs = (
        np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("ncnn-cpu", "onnxruntime-cpu")
    )
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours[..., ::-1] - theirs).max() > 1


@pytest.mark.slow
def test_compare_measures_the_files_and_finds_a_doubled_weight(call: Call, release: Path) -> None:
    def of_ncnn(told: str) -> list[dict[str, float]]:
        return [one for one in json.loads(told)["measurements"] if one["form"]["runtime"] == "ncnn-cpu"]

    told = call("compare", release, "--json")
    assert told.code == 0
    assert min(one["psnr"] for one in of_ncnn(told.out)) > 60

    double_first_kernel(release / f"{NAME}_ncnn.bin")
    from aethernet.comparison.gate import failures_of, limits_for
    from aethernet.images.files import sample_images
    from aethernet.release.again import compare_again

    again = compare_again(open_bundle(release), {path.stem: path for path in sample_images()}, {})
    spoilt = [one for one in again.measurements if one.form.runtime == "ncnn-cpu"]
    assert spoilt
    assert any(failures_of(one, limits_for(one, {})) for one in spoilt)


def test_verify_finds_a_changed_file(call: Call, release: Path) -> None:
    assert call("verify", release, "--json").code == 0
    flip_byte(release / f"{NAME}_ncnn.bin")

    told = call("verify", release, "--json")

    assert told.code == 1
    assert f"{NAME}_ncnn.bin" in json.loads(told.out)["problems"][0]
