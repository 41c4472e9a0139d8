"""The page in headless Chromium: what it computes, held against ``aethernet upscale``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aethernet.upscale.tiles import FEATHER, UNKNOWN_RADIUS, Cut, size_tiles, spans
from aethernet.upscale.upscaler import Upscaler
from tests.support.site_server import SiteServer, serve
from tests.support.web_fixtures import chromium, page, runtime_files, server, site, stand_in, upscaler, with_webgpu
from tests.support.web_page import Page, difference, pixels, save

__all__ = ["chromium", "page", "runtime_files", "server", "site", "upscaler", "with_webgpu"]

# Of the driver's own sockets.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_a_whole_image_is_what_aethernet_upscale_makes(page: Page, upscaler: Upscaler, tmp_path: Path) -> None:
    source = save(tmp_path / "source.png", pixels(61, 75))

    page.open("?run=wasm-fp32")
    assert page.enlarge(source) == "done", page.text("error")

    found = page.result()
    assert difference(found, upscaler.upscale(source)) <= 1
    assert difference(np.roll(found, 1, axis=1), upscaler.upscale(source)) > 1
    assert "WebAssembly, fp32" in page.text("choice")
    assert page.driver.find_element("id", "download").get_attribute("download") == "source_2x.png"


def test_the_best_way_is_chosen_by_itself_and_named_with_its_reason(page: Page, tmp_path: Path) -> None:
    assert page.enlarge(save(tmp_path / "source.png", pixels(20, 30))) == "done", page.text("error")

    assert re.search(r"Runs with WebAssembly, (fp32|int8) .* because it runs on your processor", page.text("choice"))
    assert "WebGPU, fp32 is not used" in page.text("choice-notes")


def test_tiles_leave_no_trace(page: Page, upscaler: Upscaler, tmp_path: Path) -> None:
    margin = upscaler.cut.margin
    source = save(tmp_path / "source.png", pixels(48, 4 * margin + 60))

    page.open("?run=wasm-fp32")
    assert page.enlarge(source) == "done", page.text("error")
    whole, alone = page.result(), page.tiles()
    page.open(f"?run=wasm-fp32&tile={2 * margin + 40}")
    assert page.enlarge(source) == "done", page.text("error")

    assert alone == 1
    assert page.tiles() >= 2
    assert difference(page.result(), whole) <= 1


def test_tiles_are_cut_as_in_python(page: Page) -> None:
    cases = [
        (height, width, budget, margin, feather)
        for height, width in [(40, 50), (300, 211), (1080, 1920), (37, 5000)]
        for budget in [3000, 70_000, 400_000]
        for margin, feather in [(0, 0), (7, 0), (50, 0), (48, 16)]
    ]
    script = """
        const done = arguments[arguments.length - 1];
        import('./tiles.js').then(({ FEATHER, UNKNOWN_RADIUS, sizeTiles, spans }) => done([FEATHER, UNKNOWN_RADIUS,
          arguments[0].map(([height, width, pixels, margin, feather]) => {
            const size = sizeTiles(height, width, pixels, { margin, feather }, feather ? Infinity : 1.4);
            const cut = (length, side) => spans(length, side, margin).map((one) => Object.values(one));
            return [size.height, size.width, cut(height, size.height), cut(width, size.width)];
          })]), (error) => done(String(error)));
    """

    feather, unknown, found = page.driver.execute_async_script(script, cases)

    assert (feather, unknown) == (FEATHER, UNKNOWN_RADIUS)
    for (height, width, budget, margin, fading), one in zip(cases, found, strict=True):
        cost = float("inf") if fading else 1.4
        size = size_tiles(height, width, budget, Cut(margin=margin, feather=fading), cost)
        rows, columns = (
            [[span.start, span.stop, span.first, span.last] for span in spans(length, side, margin)]
            for length, side in ((height, size.height), (width, size.width))
        )
        assert one == [size.height, size.width, rows, columns]


def test_networks_that_look_at_the_whole_image_are_faded_as_in_python(page: Page) -> None:
    from aethernet.upscale.tiles import TileSize, rows

    height, width, cut = 150, 170, Cut(margin=20, feather=4)
    values = (np.arange(height * width, dtype=np.float32) % 97 / 97).reshape(1, 1, height, width)

    def infer(part: np.ndarray) -> np.ndarray:
        return np.clip(part.repeat(2, axis=2).repeat(2, axis=3) * 0.5 + part.mean() * 0.4, 0, 1)

    expected = np.concatenate(
        list(
            rows(
                (height, width),
                lambda down, across: values[:, :, down, across],
                infer,
                lambda part: np.rint(np.clip(part, 0, 1) * 255).astype(np.uint8),
                scale=2,
                cut=cut,
                size=TileSize(height=80, width=90),
            )
        ),
        axis=1,
    )
    script = """
        const [height, width, done] = arguments;
        const infer = async (top, bottom, left, right) => {
          const [tall, wide] = [bottom - top, right - left];
          let sum = 0;
          for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) sum += ((y * width + x) % 97) / 97;
          return Float32Array.from({ length: 4 * tall * wide }, (_, at) => {
            const [y, x] = [top + Math.floor(at / (2 * wide) / 2), left + Math.floor((at % (2 * wide)) / 2)];
            return Math.min(1, (((y * width + x) % 97) / 97) * 0.5 + (sum / tall / wide) * 0.4);
          });
        };
        (async () => {
          const { bands } = await import('./tiles.js');
          const options = { scale: 2, cut: { margin: 20, feather: 4 }, size: { height: 80, width: 90 } };
          const found = [];
          for await (const band of bands({ height, width, channels: 1 }, infer, options)) found.push(...band.planes);
          done(found);
        })().catch((error) => done(String(error)));
    """

    found = np.array(page.driver.execute_async_script(script, height, width), dtype=int).reshape(expected.shape)

    assert difference(found, expected) <= 1


def test_alpha_and_colours_under_it_are_treated_as_in_python(page: Page, upscaler: Upscaler, tmp_path: Path) -> None:
    array = np.concatenate([pixels(40, 52), np.zeros((40, 52, 1), np.uint8)], axis=2)
    array[:, :, 3] = np.linspace(0, 255, 52, dtype=np.uint8)
    array[5:20, 8:30, 3] = 0
    array[5:20, 8:30, :3] = 0
    source = save(tmp_path / "alpha.png", array)

    page.open("?run=wasm-fp32")
    assert page.enlarge(source) == "done", page.text("error")

    found = page.result()
    assert found.shape == (80, 104, 4)
    assert difference(found, upscaler.upscale(source)) <= 1


def test_grey_images_stay_grey(page: Page, upscaler: Upscaler, tmp_path: Path) -> None:
    source = save(tmp_path / "grey.png", pixels(33, 41, channels=1))

    page.open("?run=wasm-fp32")
    assert page.enlarge(source) == "done", page.text("error")

    assert difference(page.result(), upscaler.upscale(source)) <= 1


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_is_applied(page: Page, upscaler: Upscaler, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0, "exif": exif}
    source = save(tmp_path / "turned.jpg", pixels(32, 56, seed=orientation), **options)

    page.open("?run=wasm-fp32")
    assert page.enlarge(source) == "done", page.text("error")

    found, expected = page.result(), upscaler.upscale(source)
    assert found.shape == ((112, 64, 3) if orientation == 6 else (64, 112, 3))
    # Two JPEG decoders may differ by a level before the network, which may make a few of it.
    assert np.abs(found.astype(int) - expected.astype(int)).mean() < 1
    assert difference(found, expected) <= 6


# --- WebGPU, on an adapter in software -------------------------------------------------------------------------------


def test_webgpu_computes_what_aethernet_upscale_does(
    with_webgpu: Any, server: SiteServer, upscaler: Upscaler, tmp_path: Path
) -> None:
    source = save(tmp_path / "source.png", pixels(24, 32))
    page = Page(with_webgpu, server.address).open("?run=webgpu-fp32")

    assert page.enlarge(source) == "done", page.text("error")
    assert "WebGPU, fp32" in page.text("choice")
    assert difference(page.result(), upscaler.upscale(source)) <= 1


def test_fp16_is_refused_on_a_card_that_cannot_compute_it(with_webgpu: Any, server: SiteServer, tmp_path: Path) -> None:
    page = Page(with_webgpu, server.address).open("?run=webgpu-fp16")

    assert "WebGPU, fp16 cannot be used: this graphics card cannot compute in fp16" in page.text("choice")
    option = with_webgpu.find_element("css selector", "option[value=webgpu-fp16]")
    assert not option.is_enabled()
    with_webgpu.execute_script("arguments[0].disabled = false; arguments[0].selected = true", option)
    assert page.enlarge(save(tmp_path / "source.png", pixels(20, 30))) == "failed"
    assert "WebGPU, fp16 cannot be used" in page.text("error")


def test_a_card_imitated_in_software_is_not_taken_unasked(with_webgpu: Any, server: SiteServer, tmp_path: Path) -> None:
    page = Page(with_webgpu, server.address).open()

    assert page.enlarge(save(tmp_path / "source.png", pixels(20, 30))) == "done", page.text("error")
    assert "WebGPU, fp32 is not used: its graphics card is imitated in software" in page.text("choice-notes")
    assert "Runs with WebAssembly" in page.text("choice")


def test_int8_is_taken_where_it_is_quicker(chromium: Any, site: Path, tmp_path: Path) -> None:
    with serve(stand_in(site, tmp_path / "quick", slow_fp32=True)) as other:
        page = Page(chromium, other.address).open()
        assert page.enlarge(save(tmp_path / "source.png", pixels(20, 30))) == "done", page.text("error")
        assert re.search(r"Runs with WebAssembly, int8 .*: a \d+×\d+ image took \d+ ms, fp32 took", page.text("choice"))
