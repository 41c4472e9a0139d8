"""Real-ESRGAN's own checkpoint: its fp32 ONNX file computes what spandrel computes, on real pictures of five sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import aethernet
from aethernet.images.files import load_picture
from aethernet.runtimes.onnxruntime import OnnxRuntime
from tests.support.foreign import spandrel

pytestmark = pytest.mark.slow

SIZES = [(64, 64), (17, 31), (128, 96), (1, 1), (255, 257)]


@pytest.fixture(scope="module")
def checkpoint(shared_data: Path) -> Path:
    path = shared_data / "realesrgan" / "realesr-animevideov3.pth"
    if not path.is_file():
        pytest.skip("needs realesrgan/realesr-animevideov3.pth in the shared data")
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "net_fp32.onnx"
    aethernet.export_onnx(aethernet.load(checkpoint).folded, path)
    return path


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_onnx_file_gives_the_picture_spandrel_gives(
    height: int, width: int, checkpoint: Path, exported: Path, shared_data: Path
) -> None:
    network = spandrel.ModelLoader().load_from_file(checkpoint)

    for path in sorted((shared_data / "images" / "lr").iterdir()):
        picture = load_picture(path, 3)
        picture = np.pad(picture, ((0, 0), (0, 0), (0, 256), (0, 256)), mode="reflect")[:, :, 5:, 7:]
        picture = np.ascontiguousarray(picture[:, :, :height, :width])
        with OnnxRuntime(exported) as runtime:
            found = runtime.infer(picture)
        wanted = network(torch.from_numpy(picture)).numpy()
        assert np.abs(found.clip(0, 1) - wanted).max() <= 1e-4
        # Another picture, a flipped one, is told apart.
        assert height == 1 or np.abs(found[..., ::-1].clip(0, 1) - wanted).max() > 1e-2


def test_it_is_what_its_authors_say_and_its_tiles_leave_no_trace(checkpoint: Path) -> None:
    from aethernet.networks.receptive_field import receptive_radius

    loaded = aethernet.load(checkpoint)

    assert (loaded.config.architecture, loaded.config.variant, loaded.config.scale) == ("Compact", "64nf 16nc", 4)
    assert sum(one.numel() for one in loaded.model.parameters()) == 621424
    assert receptive_radius(loaded.folded) == 18
