"""The estimate follows from shapes alone, and what cannot fit is refused before a build."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from aethernet.engines.backends import Gpu
from aethernet.engines.memory import LARGEST_CARD, estimate_memory, require_memory
from aethernet.engines.profiles import parse_profile
from aethernet.errors import UsageError
from aethernet.precision import Precision
from tests.support.engines import small_model

PIXELS = 100 * 80


def test_the_estimate_is_the_most_that_is_alive_at_once(tmp_path: Path) -> None:
    model = onnx.load(small_model(tmp_path / "net.onnx"))
    weights = sum(tensor.ByteSize() for tensor in model.graph.initializer)

    found = estimate_memory(model, parse_profile("1x100x80"))

    # In the second convolution: 16 channels in, 12 out, float32.
    assert found == (16 + 12) * 4 * PIXELS + weights


def test_batch_and_half_precision_count(tmp_path: Path) -> None:
    single, half = (
        onnx.load(small_model(tmp_path / f"{precision}.onnx", precision))
        for precision in (Precision.FP32, Precision.FP16)
    )
    weights = sum(tensor.ByteSize() for tensor in half.graph.initializer)

    assert estimate_memory(half, parse_profile("1x100x80")) - weights == (16 + 12) * 2 * PIXELS
    assert estimate_memory(half, parse_profile("3x100x80")) - weights == 3 * (16 + 12) * 2 * PIXELS
    assert estimate_memory(single, parse_profile("1x8x8:1x8x8:1x100x80")) > 2 * (16 + 12) * 2 * PIXELS


def test_what_fits_passes_and_what_does_not_is_refused_with_both_figures() -> None:
    card = Gpu(name="RTX 3060", capability="8.6", driver="580", memory=12 * 2**30)

    require_memory({"tile": 11 * 2**30}, card, None)
    with pytest.raises(
        UsageError, match=r"fit into the 12\.0 GiB that RTX 3060 has, found: image needs about 13\.0 GiB"
    ):
        require_memory({"tile": 11 * 2**30, "image": 13 * 2**30}, card, None)


def test_without_a_card_the_largest_one_decides_or_what_is_allowed() -> None:
    require_memory({"image": LARGEST_CARD}, None, None)
    with pytest.raises(UsageError, match="largest card has"):
        require_memory({"image": LARGEST_CARD + 1}, None, None)
    with pytest.raises(UsageError, match=r"1\.0 GiB that were allowed"):
        require_memory({"image": 2**31}, None, 2**30)
