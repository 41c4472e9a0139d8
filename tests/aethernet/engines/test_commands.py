"""The commands in the card are right for the version they are for."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aethernet.engines.commands import build_commands
from aethernet.engines.profiles import PROFILE_PRESETS, parse_profile
from aethernet.precision import Precision
from tests.support.engines import needs_rtx, small_model

REMOVED = {"--fp16", "--int8", "--fp8", "--bf16", "--best", "--calib"}


@pytest.mark.parametrize("precision", Precision)
def test_no_command_names_a_precision(precision: Precision) -> None:
    commands = build_commands("net_x.onnx", precision, (PROFILE_PRESETS["tile"],), 3)

    for command in commands.values():
        assert not REMOVED & set(shlex.split(command)), command
        assert "net_x.engine" in command


def test_strong_typing_is_asked_for_where_it_is_a_choice() -> None:
    commands = build_commands("net.onnx", Precision.INT8, (PROFILE_PRESETS["tile"],), 3)

    assert "--stronglyTyped" in shlex.split(commands["TensorRT 10.12 or newer"])
    assert "--stronglyTyped" not in shlex.split(commands["TensorRT 11"])
    assert "--minShapes=input:1x3x16x16" in shlex.split(commands["TensorRT 11"])
    assert "--strongly-typed" in shlex.split(commands["TensorRT 10.12 or 11, Polygraphy"])


def test_only_fp32_switches_tf32_off() -> None:
    switched = {
        one: "--noTF32" in build_commands("net.onnx", one, (PROFILE_PRESETS["tile"],), 3)["TensorRT 11"]
        for one in Precision
    }

    assert switched == {Precision.FP32: True, Precision.FP16: False, Precision.INT8: False}


def test_several_profiles_are_numbered() -> None:
    words = shlex.split(
        build_commands("n.onnx", Precision.FP16, (PROFILE_PRESETS["tile"], PROFILE_PRESETS["video_720p"]), 1)[
            "TensorRT 11"
        ]
    )

    assert [word for word in words if word.startswith(("--profile", "--optShapes"))] == [
        "--profile=0",
        "--optShapes=input:1x1x512x512",
        "--profile=1",
        "--optShapes=input:1x1x720x1280",
    ]


def test_the_command_that_can_be_run_here_builds_an_engine(tmp_path: Path) -> None:
    needs_rtx()
    small_model(tmp_path / "net.onnx", Precision.FP16)
    commands = build_commands("net.onnx", Precision.FP16, (parse_profile("1x16x16:1x32x32:1x64x64"),), 3)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    subprocess.run(
        commands["TensorRT-RTX, Polygraphy"], shell=True, cwd=tmp_path, env=environment, check=True, capture_output=True
    )

    assert (tmp_path / "net.engine").stat().st_size > 10_000
