"""The page in headless Chromium: what it refuses, what goes wrong, and what it says then."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aethernet.web.site import SITE
from tests.support import browser
from tests.support.releases import flip_byte
from tests.support.site_server import SiteServer, serve
from tests.support.web_fixtures import chromium, page, runtime_files, server, site, stand_in
from tests.support.web_page import Page, pixels, save

__all__ = ["chromium", "page", "runtime_files", "server", "site"]

# Of the driver's own sockets.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


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


def test_escape_cancels_also_in_the_middle_of_a_tile_that_takes_long(page: Page, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    page.open("?run=wasm-fp32")
    assert page.enlarge(save(tmp_path / "small.png", pixels(20, 30))) == "done", page.text("error")
    page.choose(save(tmp_path / "large.png", pixels(700, 700)))
    page.wait({"working"})
    page.driver.find_element("tag name", "body").send_keys(Keys.ESCAPE)

    assert page.wait(seconds=20) == "cancelled"
    assert page.enlarge(tmp_path / "small.png") == "done", page.text("error")


def test_a_page_without_its_worker_says_so_once(chromium: Any, site: Path, tmp_path: Path) -> None:
    without = shutil.copytree(site, tmp_path / "without")
    (without / "worker.js").unlink()

    with serve(without) as other:
        page = Page(chromium, other.address).open()
        chromium.execute_async_script("setTimeout(arguments[0], 1000)")

        assert page.state() == "failed"
        assert "The page's worker stopped" in page.text("error")
        assert "Reload the page" in page.text("error")
        assert other.asked.count("/worker.js") <= 3  # with the visit that isolates the page


def test_a_network_that_stops_is_named_with_the_way_out(chromium: Any, site: Path, tmp_path: Path) -> None:
    with serve(stand_in(site, tmp_path / "stopping", at_one_size_only=True)) as other:
        page = Page(chromium, other.address).open()
        assert page.verify() == "verified", page.text("status")

        assert page.enlarge(save(tmp_path / "source.png", pixels(20, 30))) == "failed"
        assert page.text("error").startswith("WebAssembly, fp32 stopped (")
        assert "Choose another way under" in page.text("error")


def test_a_file_that_the_server_lost_is_named(chromium: Any, site: Path, tmp_path: Path) -> None:
    without = shutil.copytree(site, tmp_path / "without")
    shutil.rmtree(without / "models")
    for sample in (without / "images").iterdir():
        sample.unlink()

    with serve(without) as other:
        page = Page(chromium, other.address).open()
        assert page.enlarge(save(tmp_path / "source.png", pixels(20, 30))) == "failed"
        assert re.search(r"models/\S+\.onnx could not be loaded|images/\S+ could not be loaded", page.text("error"))
        assert "(404). Check your connection and reload the page." in page.text("error")
        page.forget()
        chromium.find_element("css selector", "[data-sample]").click()
        assert page.wait() == "failed"
        assert "The sample could not be loaded (404)" in page.text("error")


def test_an_image_that_is_too_large_is_refused_before_it_fills_the_memory(page: Page, tmp_path: Path) -> None:
    Image.new("1", (9000, 8000)).save(tmp_path / "huge.png")

    assert page.enlarge(tmp_path / "huge.png") == "failed"
    assert "The image has 72 megapixels; this page takes up to 64. Make it smaller" in page.text("error")


def test_what_is_no_video_is_refused_with_advice(page: Page, tmp_path: Path) -> None:
    (tmp_path / "words.mp4").write_text("not a video")

    page.choose(tmp_path / "words.mp4")

    assert page.wait({"failed"}) == "failed"
    assert "cannot play the video. Try an MP4 (H.264) or WebM file" in page.text("error")
    assert not page.driver.find_element("id", "video").is_displayed()


def test_what_is_dropped_and_no_file_is_refused_with_advice(page: Page) -> None:
    page.driver.execute_script(
        "const data = new DataTransfer(); data.setData('text/plain', 'words');"
        "document.dispatchEvent(new DragEvent('drop', { dataTransfer: data, cancelable: true }))"
    )

    assert page.state() == "failed"
    assert "Save the image first" in page.text("error")


def test_an_insecure_address_is_named_because_files_cannot_be_checked_there(
    server: SiteServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("insecure")
    with browser.chromium(folder / "profile", "host-resolver-rules=MAP example.test 127.0.0.1") as driver:
        page = Page(driver, server.address.replace("localhost", "example.test")).open()

        assert page.enlarge(save(folder / "source.png", pixels(20, 30))) == "failed"
        assert "Open this page through https:// or on http://localhost" in page.text("error")


def test_a_page_that_is_opened_as_a_file_says_how_to_serve_it(chromium: Any, site: Path, server: SiteServer) -> None:
    late = "const one = document.getElementById('late'); return one && getComputedStyle(one).visibility"

    chromium.get((site / "index.html").as_uri())
    assert chromium.execute_script(late) == "hidden"
    chromium.execute_async_script("setTimeout(arguments[0], 9000)")
    assert chromium.execute_script(late) == "visible"
    assert "python -m http.server" in chromium.find_element("id", "late").text
    Page(chromium, server.address).open()
    assert chromium.execute_script(late) is None
