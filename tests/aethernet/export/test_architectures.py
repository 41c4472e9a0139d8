"""The support table's fast part: these architectures make every form that is promised for them."""

from __future__ import annotations

import pytest

from benchmarks.architectures import FAST, NETWORKS, Row, judge_architecture, table
from tests.support.third_party import spandrel


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long if number else pytest.mark.slow) for number, name in enumerate(FAST)],
)
def test_an_architecture_is_released_with_an_fp32_onnx_file(name: str) -> None:
    row = judge_architecture(name, engines=False)

    assert row.forms["fp32"].startswith("yes"), row.forms
    assert row.forms["fp16"].startswith("yes"), row.forms
    assert row.shapes == "free, opset 17"


def test_every_architecture_that_spandrel_ships_is_in_the_table() -> None:
    known = {str(one.architecture.id) for one in spandrel.MAIN_REGISTRY} - {"AetherNet"}

    assert {name.split(" ")[0] for name in NETWORKS} == known


def test_the_table_gives_the_reason_of_every_failure() -> None:
    rows = [Row(name="Good", forms={"fp32": "yes, 1e-06"}), Row(name="Bad", forms={"fp32": "no: it is | odd"})]

    text = table(rows, {"spandrel": "1", "torch": "2"})

    assert "**1 of 2 release" in text
    assert "- **Bad, fp32:** it is / odd" in text
