"""What the tables about ncnn are made with: fp16 without ncnn, and a column that is put into a table."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / name), run_name="script")


def test_sums_of_a_convolution_are_rounded_one_after_the_other() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)
    image = torch.rand(1, 4, 5, 7)
    with torch.no_grad():
        found = script("ncnn_forms.py")["in_halves"](conv)(image)[0, 4, 2, 3].item()
        exact = conv(image)[0, 4, 2, 3].item()

    products = (conv.weight[4].detach().numpy().astype(np.float16) * image[0, 2:, 1:4, 2:5].numpy()).reshape(-1)
    total = np.float16(conv.bias[4].item())  # type: ignore[index]
    for product in products:
        total = np.float16(np.float32(total) + np.float32(np.float16(product)))
    assert found == float(total)
    assert found != exact
    assert abs(found - exact) < 0.01


def test_a_column_goes_into_a_table_once_and_reasons_below_it() -> None:
    with_ncnn = script("architectures.py")["with_ncnn"]
    page = "# A\n\n| architecture | fp32 | RTX |\n|---|---|---|\n| B | yes | no |\n| C | no | yes |\n\n"
    page += "## Why not\n\n- **B, RTX:** x\n"

    once = with_ncnn(page, {"B": "no: no layer for it", "C": "yes"})

    assert (
        "| architecture | fp32 | ncnn | RTX |\n|---|---|---|---|\n| B | yes | no | no |\n| C | no | yes | yes |\n"
        in once
    )
    assert once.endswith("- **B, ncnn:** no layer for it\n- **B, RTX:** x\n")
    assert with_ncnn(once, {"B": "no: no layer for it", "C": "yes"}) == once
