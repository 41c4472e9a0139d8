"""ncnn's parameter and weight files: equal models, equal bytes; what is written is read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aethernet.errors import ExportError
from aethernet.graphs.ncnn import Layer, NcnnModel, Weights, read_param, render_param, write_ncnn


def small_model(value: float = 0.5, count: int = 6) -> NcnnModel:
    weight = np.full(count, value, np.float32)
    layers = [
        Layer("Input", "data", [], ["data"]),
        Layer(
            "Convolution",
            "convolution_1",
            ["data"],
            ["output"],
            {0: 2, 1: 1, 5: 1, 6: count, 9: 2, 10: (0.25,)},
            [Weights(weight, tagged=True), Weights(np.zeros(2, np.float32), tagged=False)],
        ),
    ]
    return NcnnModel(layers)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_ncnn(small_model(), tmp_path / "a.param", tmp_path / "a.bin")
    found = read_param(tmp_path / "a.param")
    assert render_param(found) == (tmp_path / "a.param").read_text()
    assert found.layers[1].parameters == {0: 2, 1: 1, 5: 1, 6: 6, 9: 2, 10: (0.25,)}
    assert (found.inputs, found.outputs) == (["data"], ["output"])


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_ncnn(small_model(), tmp_path / f"{name}.param", tmp_path / f"{name}.bin")
    for suffix in (".param", ".bin"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("half", "count", "size"), [(True, 6, 4 + 12 + 8), (False, 6, 4 + 24 + 8), (True, 7, 4 + 28 + 8)]
)
def test_kernels_are_halves_unless_their_number_is_odd(tmp_path: Path, half: bool, count: int, size: int) -> None:
    write_ncnn(small_model(count=count), tmp_path / "a.param", tmp_path / "a.bin", half=half)
    assert (tmp_path / "a.bin").stat().st_size == size


def test_a_weight_too_large_for_fp16_is_an_error_and_not_infinity(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"expected weights up to 65504 for fp16, found 7e\+04 in layer convolution_1"
    ):
        write_ncnn(small_model(7e4), tmp_path / "a.param", tmp_path / "a.bin")
    write_ncnn(small_model(7e4), tmp_path / "a.param", tmp_path / "a.bin", half=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("7767516\n1 1\n", "expected a.param to start with 7767517"),
        ("7767517\n2 1\nInput data 0 1 data\n", "expected 2 layers in a.param, as it says, found 1"),
        ("7767517\n1 1\nInput data 0 2 data\n", "says 0 inputs and 2 outputs and names 1 blobs"),
        ("7767517\n1 1\nInput data 0 1 data 0:3\n", "'0:3' is not a parameter"),
        (
            "7767517\n2 2\nInput data 0 1 data\nReLU r 1 1 other output\n",
            "r reads other, which no layer before it gives",
        ),
    ],
)
def test_a_damaged_parameter_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.param").write_text(text)
    with pytest.raises(ExportError, match=message):
        read_param(tmp_path / "a.param")


def test_sizes_that_another_tool_computes_while_running_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.param").write_text('7767517\n2 2\nInput in0 0 1 in0\nReshape r 1 1 in0 out0 6="0w,-1"\n')
    assert read_param(tmp_path / "a.param").layers[1].parameters == {6: '"0w,-1"'}
