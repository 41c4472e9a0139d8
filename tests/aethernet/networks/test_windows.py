"""Networks that attend within windows can be exported for every batch and size."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aethernet.export.attempts import export_freely
from aethernet.export.onnx import ExportConfig, ShapeRange
from aethernet.networks.sizes import SizeRequirements
from aethernet.networks.windows import traceable_windows
from aethernet.runtimes.opening import open_runtime
from aethernet.runtimes.pytorch import TorchRuntime
from tests.support.foreign import around, spandrel

assert spandrel

WINDOWS = torch.arange(2 * 6 * 8 * 4 * 5.0).reshape(12, 8, 4, 5)
"""Two pictures of 16 x 12 with five channels, in windows of 8 x 4."""
SQUARE = torch.arange(2 * 6 * 4 * 4 * 5.0).reshape(12, 4, 4, 5)

CALLS: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "one side": ("SwinIR.__arch.SwinIR", "window_reverse", (SQUARE, 4, 8, 12)),
    "two sides": ("GRL.__arch.ops", "window_reverse", (WINDOWS, (8, 4), (16, 12))),
    "imported elsewhere": ("GRL.__arch.mixed_attn_block_efficient", "window_reverse", (WINDOWS, [8, 4], (16, 12))),
    "an option": ("Uformer.__arch.Uformer", "window_reverse", (SQUARE, 4, 8, 12)),
    "tokens": ("DAT.__arch.DAT", "windows2img", (WINDOWS.flatten(1, 2), 8, 4, 16, 12)),
}


@pytest.mark.parametrize(("module", "name", "arguments"), CALLS.values(), ids=CALLS.keys())
def test_windows_are_put_back_as_the_architecture_does(module: str, name: str, arguments: tuple[Any, ...]) -> None:
    loaded = importlib.import_module(f"spandrel.architectures.{module}")
    theirs = getattr(loaded, name)
    wanted = theirs(*arguments)

    with traceable_windows() as concerned:
        ours = getattr(loaded, name)
        found = ours(*arguments)

    assert torch.equal(found, wanted)
    assert loaded.__name__ in concerned
    assert ours is not theirs
    assert getattr(loaded, name) is theirs, "and afterwards all is as it was"


def test_what_another_function_of_that_name_takes_goes_to_it() -> None:
    loaded = importlib.import_module("spandrel.architectures.Uformer.__arch.Uformer")

    with traceable_windows(), pytest.raises((RuntimeError, ValueError)):
        loaded.window_reverse(SQUARE, 4, 8, 12, dilation_rate=2)  # theirs fails with it, whatever the windows


class Windowed(nn.Module):
    """Looks at windows of 8 x 8 as SwinIR does."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        from spandrel.architectures.SwinIR.__arch import SwinIR

        height, width = x.shape[2:]
        windows = SwinIR.window_partition(self.first(x).permute(0, 2, 3, 1), 8)
        mixed = self.mix(windows) + windows.mean(dim=(1, 2), keepdim=True)
        y: Tensor = self.last(SwinIR.window_reverse(mixed, 8, height, width).permute(0, 3, 1, 2))
        return y


def test_a_network_with_windows_is_exported_for_every_batch_and_size(tmp_path: Path) -> None:
    model = around(Windowed(), size=SizeRequirements(multiple=8))
    shapes = ShapeRange(optimum=(1, 64, 64), maximum=(2, 128, 128))

    path, description = export_freely(model, tmp_path, "windowed", ExportConfig(shapes=shapes), {})

    assert next(iter(description.inputs.values()))[1] == ("n", 3, "h", "w")
    picture = np.random.default_rng(0).random((1, 3, 48, 72), dtype=np.float32)
    with open_runtime(path) as runtime, TorchRuntime(model) as reference:
        np.testing.assert_allclose(runtime.infer(picture), reference.infer(picture), atol=1e-5)


def test_a_batch_that_was_baked_in_is_found_and_the_shape_fixed(tmp_path: Path, monkeypatch: Any) -> None:
    """The control: without our way of putting windows back."""
    monkeypatch.setattr("aethernet.networks.windows.traceable_windows", nullcontext)
    model = around(Windowed(), size=SizeRequirements(multiple=8))
    shapes = ShapeRange(optimum=(1, 64, 64), maximum=(2, 128, 128))

    path, _ = export_freely(model, tmp_path, "windowed", ExportConfig(shapes=shapes), {})

    assert path.name == "windowed_64x64_fp32.onnx"
