"""What is respelled for TensorRT-RTX computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from aethernet.engines.profiles import PROFILE_PRESETS, parse_profile
from aethernet.engines.rewriting import loosen, products_to_convolutions
from tests.support.engines import linear_model


def run(model: onnx.ModelProto, picture: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": picture})[0]


def test_products_over_channels_become_convolutions_with_the_same_answer(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weight, picture = rng.standard_normal((3, 12), np.float32), rng.standard_normal((2, 3, 6, 5), np.float32)
    model = onnx.load(linear_model(tmp_path / "net.onnx", weight))
    wanted = run(model, picture)

    assert products_to_convolutions(model) == 1

    onnx.checker.check_model(model, full_check=True)
    assert "MatMul" not in [node.op_type for node in model.graph.node]
    np.testing.assert_allclose(run(model, picture), wanted, rtol=1e-5, atol=1e-5)
    other = onnx.load(linear_model(tmp_path / "other.onnx", weight[::-1].copy()))
    assert np.abs(run(other, picture) - wanted).max() > 0.1  # the control


def test_a_product_of_two_pictures_stays_one(tmp_path: Path) -> None:
    model = onnx.load(linear_model(tmp_path / "net.onnx"))
    next(node for node in model.graph.node if node.op_type == "MatMul").input[1] = "last"

    assert products_to_convolutions(model) == 0
    assert "MatMul" in [node.op_type for node in model.graph.node]


def test_only_fixed_profiles_are_loosened_and_by_one_pixel_only() -> None:
    fixed, free = loosen([PROFILE_PRESETS["video_720p"], PROFILE_PRESETS["tile"]])

    assert (fixed.minimum, fixed.optimum, fixed.maximum) == ((1, 720, 1279), (1, 720, 1280), (1, 720, 1280))
    assert free == PROFILE_PRESETS["tile"]
    assert loosen([parse_profile("1x1x1")])[0].minimum == (1, 1, 1)
