"""The page in headless Chromium: what it computes, what it refuses, and how it is used."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aethernet.errors import WebError
from aethernet.upscale.tiles import FEATHER, UNKNOWN_RADIUS, Cut, size_tiles, spans
from aethernet.upscale.upscaler import Upscaler
from aethernet.web.onnxruntime_web import onnxruntime_web
from aethernet.web.site import SITE, write_site
from tests.support import browser
from tests.support.images import natural_image
from tests.support.releases import flip_byte
from tests.support.site_server import ISOLATION, SiteServer, serve
from tests.support.web_page import Page, requested_addresses

pytest.importorskip("selenium", reason="needs selenium (the extra 'development')")
from selenium.webdriver.common.keys import Keys

# Of the driver's own sockets.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="session")
def runtime_files() -> Path:
    try:
        return onnxruntime_web()
    except WebError as error:
        pytest.skip(f"needs the files of onnxruntime-web: {error}")


@pytest.fixture(scope="module")
def site(finished_release: Path, runtime_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(finished_release, tmp_path_factory.mktemp("web") / "site", runtime_files).root


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[SiteServer]:
    with serve(site) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser.chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def page(chromium: Any, server: SiteServer) -> Page:
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.get_log("performance")
    chromium.get_log("browser")
    return Page(chromium, server.address).open()


@pytest.fixture(scope="module")
def upscaler(finished_release: Path) -> Iterator[Upscaler]:
    with Upscaler(finished_release, "fp32", "onnxruntime-cpu") as opened:
        yield opened


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    picture = natural_image(height, width, channels=channels, seed=seed)[0].numpy().transpose(1, 2, 0)
    return np.rint(picture * 255).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    Image.fromarray(array.squeeze()).save(path, **options)
    return path


def difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


# --- what it computes ------------------------------------------------------------------------------------------------


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


# --- what it refuses -------------------------------------------------------------------------------------------------


def test_an_altered_model_is_not_used(chromium: Any, site: Path, tmp_path: Path) -> None:
    altered = shutil.copytree(site, tmp_path / "altered")
    for path in (altered / "models").iterdir():
        flip_byte(path)

    with serve(altered) as other:
        page = Page(chromium, other.address).open()
        state = page.enlarge(save(tmp_path / "source.png", pixels(20, 30)))

        assert state == "failed"
        assert "is not the file of this release" in page.text("error")
        assert "It was not used" in page.text("error")


def test_altered_webassembly_is_not_used(chromium: Any, site: Path, tmp_path: Path) -> None:
    altered = shutil.copytree(site, tmp_path / "altered")
    facts = json.loads((altered / SITE).read_text())
    facts["runtime"]["wasm"]["binary"]["sha256"] = "0" * 64
    (altered / SITE).write_text(json.dumps(facts))

    with serve(altered) as other:
        page = Page(chromium, other.address).open("?run=wasm-fp32")

        assert page.enlarge(save(tmp_path / "source.png", pixels(20, 30))) == "failed"
        assert "ort-wasm-simd-threaded.wasm.gz is not the file of this release" in page.text("error")


def test_what_is_no_image_is_refused_with_advice(page: Page, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("not an image")

    assert page.enlarge(tmp_path / "words.png") == "failed"
    assert "cannot open the file as an image. Try" in page.text("error")
    assert page.driver.find_element("id", "choose").is_enabled()


def test_it_verifies_itself_and_gives_a_line_to_report(page: Page) -> None:
    assert page.verify() == "verified", page.text("status")

    line = page.text("report-line")
    assert line.startswith("tiny_2x@1.0.0 ")
    assert re.search(r"\| Chromium \d+, Linux \|", line)
    assert re.search(r"WebAssembly, fp32 \(WebAssembly, \d+ threads?\): correct, largest difference [01] of 255", line)
    assert re.search(r"\d ms$", line)
    assert "WebGPU, fp16: not run" in line


def test_a_network_that_computes_something_else_is_found_and_not_used(
    chromium: Any, site: Path, tmp_path: Path
) -> None:
    other_site = shutil.copytree(site, tmp_path / "other")
    facts = json.loads((other_site / SITE).read_text())
    output = other_site / facts["check"]["output"]["path"]
    with Image.open(output) as image:
        save(output, np.roll(np.asarray(image), 3, axis=0))
    import hashlib

    facts["check"]["output"]["sha256"] = hashlib.sha256(output.read_bytes()).hexdigest()
    (other_site / SITE).write_text(json.dumps(facts))

    with serve(other_site) as other:
        page = Page(chromium, other.address).open()
        assert page.verify() == "wrong"
        assert "WRONG" in page.text("report-line")
        assert page.enlarge(save(tmp_path / "source.png", pixels(20, 30))) == "failed"
        assert "computes another image here" in page.text("error")


def test_cancel_stops_it_and_another_image_can_follow(page: Page, tmp_path: Path) -> None:
    page.open("?run=wasm-fp32&tile=64")
    page.choose(save(tmp_path / "large.png", pixels(1200, 1200)))
    page.wait({"working"})
    script = "return document.getElementById('status').innerText.startsWith('Tile')"
    while not page.driver.execute_script(script):
        assert page.driver.execute_script("return document.body.dataset.state") == "working", page.text("error")
    page.click("cancel")

    assert page.wait() == "cancelled"
    assert "Cancelled" in page.text("status")
    assert not page.driver.find_element("id", "result").is_displayed()
    assert page.enlarge(save(tmp_path / "small.png", pixels(20, 30))) == "done", page.text("error")


# --- how it is used --------------------------------------------------------------------------------------------------


def test_only_its_own_server_is_asked_by_the_page_and_its_workers(
    server: SiteServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("network")
    other = server.address.replace("localhost", "127.0.0.1") + SITE
    asking = "new Worker(URL.createObjectURL(new Blob([`fetch('${arguments[0]}', {mode: 'no-cors'})`])))"
    with browser.chromium(folder / "profile", f"log-net-log={folder / 'log.json'}") as driver:
        page = Page(driver, server.address).open()
        assert page.enlarge(save(folder / "source.png", pixels(20, 30))) == "done", page.text("error")
        assert page.verify() == "verified"
    with browser.chromium(folder / "again", f"log-net-log={folder / 'spoiled.json'}") as driver:
        driver.get(server.address + "style.css")
        driver.execute_async_script(f"{asking}; setTimeout(arguments[1], 3000)", other)

    asked = logged_requests(folder / "log.json", server.address)
    assert any(address.endswith(".onnx") for address in asked)
    assert [address for address in asked if not address.startswith(server.address)] == []
    assert other in logged_requests(folder / "spoiled.json", server.address)


def logged_requests(log: Path, origin: str) -> list[str]:
    """Addresses that pages and workers of one origin asked for, from the browser's own network log."""
    text = log.read_text()
    content = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}")
    kind = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    requests = [one.get("params", {}) for one in content["events"] if one["type"] == kind]
    return [one["url"] for one in requests if one.get("initiator", "").rstrip("/") == origin.rstrip("/")]


def test_a_page_that_asks_another_host_is_noticed(page: Page, server: SiteServer) -> None:
    script = "fetch(arguments[0]).then(() => arguments[1](1), (error) => arguments[1](String(error)))"
    other = server.address.replace("localhost", "127.0.0.1") + SITE
    image = "const one = new Image(); one.onerror = () => arguments[1](0); one.src = arguments[0]"

    assert "Failed to fetch" in page.driver.execute_async_script(script, other)
    page.driver.execute_async_script(image, other)

    assert any("Content Security Policy" in entry["message"] for entry in page.driver.get_log("browser"))
    assert other in requested_addresses(page.driver)


@pytest.mark.parametrize("headers", [{}, ISOLATION], ids=["service worker", "headers"])
def test_several_threads_are_used_where_the_page_is_isolated(
    chromium: Any, site: Path, headers: dict[str, str]
) -> None:
    with serve(site, headers) as other:
        page = Page(chromium, other.address).open()

        assert chromium.execute_script("return crossOriginIsolated") is True
        assert ("/isolation.js" in other.asked) == (not headers)
        assert re.search(r"Processor: \d+ threads?\.", page.text("choice"))


def test_one_thread_is_used_where_the_page_is_not_isolated(chromium: Any, site: Path, tmp_path: Path) -> None:
    without = shutil.copytree(site, tmp_path / "without")
    (without / "isolation.js").unlink()

    with serve(without) as other:
        page = Page(chromium, other.address).open()
        assert chromium.execute_script("return crossOriginIsolated") is False
        assert "1 thread, because this page is not isolated" in page.text("choice")
        assert page.enlarge(save(tmp_path / "source.png", pixels(20, 30))) == "done", page.text("error")
        assert "one thread, because the page is not isolated" in page.text("choice")


def test_samples_pasted_and_dropped_files_are_taken(page: Page) -> None:
    page.forget()
    page.driver.find_element("css selector", "[data-sample]").click()
    assert page.wait() == "done", page.text("error")
    drop = """
        const [kind, done] = arguments;
        const canvas = document.createElement('canvas');
        canvas.width = 21; canvas.height = 17;
        canvas.getContext('2d').fillRect(3, 3, 9, 9);
        canvas.toBlob((blob) => {
          const data = new DataTransfer();
          data.items.add(new File([blob], `${kind}.png`, { type: 'image/png' }));
          document.dispatchEvent(kind === 'paste'
            ? new ClipboardEvent('paste', { clipboardData: data })
            : new DragEvent('drop', { dataTransfer: data, cancelable: true }));
          done();
        });
    """
    for kind in ("paste", "drop"):
        page.forget()
        page.driver.execute_async_script(drop, kind)
        assert page.wait() == "done", page.text("error")
        assert page.driver.find_element("id", "download").get_attribute("download") == f"{kind}_2x.png"
        assert page.result().shape == (34, 42, 2)  # grey and alpha


def test_a_frame_of_a_video_is_taken(page: Page, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="needs PyAV (the extra 'video')")
    path = tmp_path / "video.webm"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels(48, 64, seed=index), format="rgb24")))
        container.mux(stream.encode())

    page.choose(path)
    assert page.wait({"video", "failed"}) == "video"
    page.driver.execute_async_script(
        "const [done] = arguments; const one = document.getElementById('player');"
        "one.readyState >= 2 ? done() : one.addEventListener('loadeddata', () => done())"
    )
    page.click("use-frame")

    assert page.wait({"done", "failed"}) == "done", page.text("error")
    assert page.result().shape == (96, 128, 3)


def test_result_is_compared_zoomed_and_reached_by_keyboard(page: Page, tmp_path: Path) -> None:
    driver = page.driver
    assert page.enlarge(save(tmp_path / "source.png", pixels(60, 90))) == "done", page.text("error")
    line = driver.find_element("id", "line")
    clip = driver.find_element("id", "after").value_of_css_property("clip-path")

    line.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)

    assert line.get_attribute("value") == "52"
    assert driver.find_element("id", "after").value_of_css_property("clip-path") != clip
    left_alone = driver.find_element("id", "stack").screenshot_as_png
    line.send_keys(Keys.HOME)
    assert driver.find_element("id", "stack").screenshot_as_png != left_alone
    fit = driver.find_element("id", "stack").size["width"]
    driver.find_element("id", "frame").send_keys("+", "+", "+")
    assert page.text("zoom") == "4"
    assert driver.find_element("id", "stack").size["width"] == 4 * 180
    assert driver.find_element("id", "stack").size["width"] != fit
    reached = []
    driver.execute_script("document.activeElement.blur()")
    for _ in range(30):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(driver.switch_to.active_element.get_attribute("id"))
    assert {"choose", "zoom", "closer", "farther", "download", "line", "frame", "way", "verify"} <= set(reached)


@pytest.mark.parametrize("width", [360, 414, 1280])
def test_nothing_sticks_out_of_a_narrow_screen(page: Page, tmp_path: Path, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": width < 1000}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert page.enlarge(save(tmp_path / "source.png", pixels(60, 300))) == "done", page.text("error")
    page.verify()

    wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    content, screen = page.driver.execute_script(wide)
    assert content <= screen
    small = page.driver.execute_script(
        "return [...document.querySelectorAll('button, select, .button')].filter((one) => one.offsetParent && "
        "one.getBoundingClientRect().height < 44).map((one) => one.id)"
    )
    assert small == []
    if width < 400:
        page.driver.execute_script("document.getElementById('frame').style.overflow = 'visible'")
        page.driver.execute_script("document.getElementById('stack').style.width = '900px'")
        content, screen = page.driver.execute_script(wide)
        assert content > screen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_accessibility_error(page: Page, tmp_path: Path, axe: str, scheme: str) -> None:
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    check = "axe.run(document).then((found) => arguments[0](found.violations.map((one) => one.id)))"
    page.driver.execute_script(axe)
    empty = page.driver.execute_async_script(check)
    assert page.enlarge(save(tmp_path / "source.png", pixels(60, 90))) == "done", page.text("error")
    page.verify()

    assert empty == []
    assert page.driver.execute_async_script(check) == []
    page.driver.execute_script("document.getElementById('line').removeAttribute('aria-label')")
    assert page.driver.execute_async_script(check) == ["label"]


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core, by npm: a tool of these tests alone."""
    import hashlib
    import subprocess
    import tarfile

    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm to fetch axe-core")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "pack", "axe-core@4.14.1", "--ignore-scripts", "--pack-destination", str(folder)]
    if subprocess.run(command, capture_output=True, cwd=folder, timeout=300).returncode:
        pytest.skip("needs a registry where npm can fetch axe-core 4.14.1")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        content = file.read()
    assert hashlib.sha256(content).hexdigest() == AXE
    return content.decode()


AXE = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"


# --- WebGPU, on an adapter in software -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_webgpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    switches = (
        *("enable-unsafe-webgpu", "use-webgpu-adapter=swiftshader", "enable-features=Vulkan,WebGPU"),
        "use-vulkan=swiftshader",
    )
    with browser.chromium(tmp_path_factory.mktemp("webgpu"), *switches) as driver:
        yield driver


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
