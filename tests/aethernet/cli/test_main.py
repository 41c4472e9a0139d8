"""The commands, as a user calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import aethernet
from tests.support.releases import flip_byte, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_help_and_version_answer(call) -> None:
    assert "verify" in call("--help").out
    assert call("--version").out.strip() == aethernet.__version__


def test_info_says_what_a_checkpoint_is(call, checkpoint: Path) -> None:
    found = json.loads(call("info", checkpoint, "--json").out)

    assert found["kind"] == "checkpoint"
    assert found["form"] == "training"
    assert found["scale"] == 2


def test_info_says_what_a_release_and_its_onnx_file_are(call, finished_release: Path) -> None:
    release = json.loads(call("info", finished_release, "--json").out)
    model = json.loads(call("info", finished_release / "tiny_2x_fp16.onnx", "--json").out)

    assert release["kind"] == "release"
    assert release["forms"]["fp16"] == "released"
    assert model["inputs"] == {"input": "float16 ['n', 3, 'h', 'w']"}
    assert model["metadata"]["precision"] == "fp16"


def test_info_for_people_is_a_table_on_stdout(call, checkpoint: Path) -> None:
    found = call("info", checkpoint)

    assert found.code == 0
    assert found.out.startswith("kind ")
    assert found.err == ""


def test_fuse_folds_and_a_fused_network_comes_back_equal(call, checkpoint: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"

    assert call("fuse", checkpoint, once).code == 0
    assert call("fuse", once, twice).code == 0

    assert once.read_bytes() == twice.read_bytes()
    x = torch.rand(1, 3, 9, 11)
    with torch.inference_mode():
        wanted, found = aethernet.load(checkpoint).model(x), aethernet.load(once).model(x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_fuse_writes_half_precision_pth(call, checkpoint: Path, tmp_path: Path) -> None:
    assert call("fuse", checkpoint, tmp_path / "half.pth", "--half").code == 0

    assert json.loads(call("info", tmp_path / "half.pth", "--json").out)["stored_as"] == "float16"


@pytest.mark.slow
def test_export_takes_every_option(call, checkpoint: Path, tmp_path: Path) -> None:
    options = ["--precision", "fp32", "--opset", 18, "--min", "1x8x8", "--opt", "1x16x16", "--max", "2x32x32"]

    found = call("export", checkpoint, tmp_path / "net.onnx", *options, "--verify", "--rtol", 1e-5, "--json")

    facts = json.loads(found.out)
    assert found.code == 0
    assert facts["opset"] == 18
    assert facts["verified"]["passes"]
    assert json.loads(call("info", tmp_path / "net.onnx", "--json").out)["metadata"]["maximum_shape"] == "2x32x32"


def test_export_with_a_fixed_size_and_without_folding(call, checkpoint: Path, tmp_path: Path) -> None:
    fused = json.loads(call("export", checkpoint, tmp_path / "a.onnx", "--static", "24x16", "--json").out)
    plain = json.loads(call("export", checkpoint, tmp_path / "b.onnx", "--static", "24x16", "--no-fold", "--json").out)

    assert fused["inputs"] == {"input": "float [1, 3, 24, 16]"}
    assert fused["nodes"] < plain["nodes"]


@pytest.mark.slow
def test_a_tolerance_nothing_can_keep_fails_the_export(call, checkpoint: Path, tmp_path: Path) -> None:
    found = call(
        "export", checkpoint, tmp_path / "n.onnx", "--precision", "fp16", "--static", "9x9", "--verify", "--atol", 0
    )

    assert found.code == 1
    assert "within the tolerances" in found.err


@pytest.mark.slow
def test_compare_measures_again_and_writes_images(call, finished_release: Path, tmp_path: Path) -> None:
    found = call("compare", finished_release, "--write", tmp_path / "made", "--json")

    assert found.code == 0
    assert json.loads(found.out)["passes"]
    written = {path.name for path in (tmp_path / "made" / "cat_eye").iterdir()}
    assert {"reference.png", "bicubic.png", "tiny_2x_fp32.onnx.png", "tiny_2x_fp16.pth.png"} <= written


def test_verify_accepts_a_release_and_says_that_it_is_not_signed(call, finished_release: Path) -> None:
    found = call("verify", finished_release)

    assert found.code == 0
    assert "as released" in found.out
    assert "not signed" in found.err


def test_verify_names_a_changed_file_and_exits_with_1(call, release: Path) -> None:
    flip_byte(release / "tiny_2x_fp16.onnx")

    found = call("verify", release, "--json")

    assert found.code == 1
    assert "tiny_2x_fp16.onnx" in json.loads(found.out)["problems"][0]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["info", "nowhere"], 2, "found nothing"),
        (["info", __file__], 1, "expected a PyTorch or safetensors checkpoint"),
        (["export", "CHECKPOINT", "out.onnx", "--static", "24"], 2, "expected --static HxW"),
        (["export", "CHECKPOINT", "out.onnx", "--precision", "int4"], 2, "expected --precision"),
        (["export", "CHECKPOINT", "out.onnx", "--opset", "11"], 2, "expected an opset from 17 to 21"),
        (["export", "CHECKPOINT", "out.onnx", "--min", "2x8x8", "--max", "1x9x9"], 2, "expected min <= opt <= max"),
        (["fuse", "CHECKPOINT", "out.zip"], 2, "expected an output called .safetensors or .pth"),
        (["compare", "nowhere"], 1, "expected a release folder"),
        (["compare", "RELEASE", "--images", "nowhere"], 2, "expected a folder of images"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_misuse_is_told_in_words(
    call, checkpoint: Path, finished_release: Path, arguments: list[str], code: int, told: str
) -> None:
    places = {"CHECKPOINT": checkpoint, "RELEASE": finished_release}

    found = call(*(places.get(word, word) for word in arguments))

    assert found.code == code
    assert told in found.err
    assert "Traceback" not in found.err
    assert found.out == ""


def test_debug_shows_where() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "from aethernet.cli.main import main; main()", "info", "nowhere", "--debug"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.returncode == 2
    assert "Traceback" in found.stderr
