"""The page in headless Chromium: how it is used, by whom, and what it asks of a network."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from aethernet.web.site import SITE
from tests.support import browser
from tests.support.site_server import ISOLATION, SiteServer, serve
from tests.support.web_fixtures import axe, chromium, page, runtime_files, server, site
from tests.support.web_page import Page, pixels, requested_addresses, save

pytest.importorskip("selenium", reason="needs selenium (the extra 'development')")
from selenium.webdriver.common.keys import Keys

__all__ = ["axe", "chromium", "page", "runtime_files", "server", "site"]

# Of the driver's own sockets.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


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
