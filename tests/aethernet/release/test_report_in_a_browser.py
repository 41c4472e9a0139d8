"""``report.html`` in headless Chromium: used by keyboard, on a phone, and without a single request."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aethernet.images.files import save_image
from aethernet.release.bundle import open_bundle
from aethernet.release.report import Piece, render_report
from tests.support import browser
from tests.support.images import natural_image

pytest.importorskip("selenium", reason="needs selenium (aethernet-sr[development])")
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

# Of the driver's own sockets.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
IMAGES = {name: natural_image(48, 64, seed=seed).numpy() for seed, name in enumerate(("first", "second"))}
ERRORS = {"bicubic": 0.09, "fp32": 0.03, "int8": 0.05, "original": 0.0}


def version(name: str, caption: str) -> np.ndarray:
    noise = np.random.default_rng(len(caption)).standard_normal(IMAGES[name].shape, dtype=np.float32)
    return np.clip(IMAGES[name] + np.float32(ERRORS[caption]) * noise, 0, 1)


@pytest.fixture(scope="module")
def page(finished_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two images, as a file that belongs to nobody."""
    folder, bundle = tmp_path_factory.mktemp("report"), open_bundle(finished_release)
    pieces = []
    for name in IMAGES:
        files = [(caption, folder / f"{name}_{caption}.png") for caption in ERRORS]
        for caption, path in files:
            save_image(version(name, caption), path)
        pieces.append(Piece(name=name, versions=files))
    path = folder / "report.html"
    path.write_text(render_report(bundle.manifest, bundle.build, pieces), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser.chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def opened(chromium: Any, page: Path) -> Any:
    browser.forget(chromium)
    chromium.get(page.as_uri())
    heat_words(chromium)
    return chromium


def heat_words(driver: Any) -> str:
    return str(WebDriverWait(driver, 30).until(lambda one: one.find_element("id", "heat-words").text))


def requested(driver: Any) -> set[str]:
    """Every address the page asked for, without those inside itself."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    addresses = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
    return {address for address in addresses if not address.startswith("data:")}


def test_it_works_without_a_request_or_a_complaint(opened: Any, page: Path) -> None:
    assert requested(opened) == {page.as_uri()}
    assert opened.get_log("browser") == []


def test_a_page_that_asks_for_more_would_be_noticed(chromium: Any, page: Path) -> None:
    asking = page.with_name("asking.html")
    text = page.read_text(encoding="utf-8").replace("<h1>", '<img src="http://127.0.0.1:9/a.png" alt=""><h1>')
    asking.write_text(text, encoding="utf-8")
    chromium.get_log("performance")
    chromium.get_log("browser")
    chromium.get(asking.as_uri())
    heat_words(chromium)

    assert requested(chromium) == {asking.as_uri(), "http://127.0.0.1:9/a.png"}
    assert any("Content Security Policy" in entry["message"] for entry in chromium.get_log("browser"))


def test_the_line_moves_by_keyboard(opened: Any) -> None:
    slider, right = opened.find_element("id", "at"), opened.find_element("id", "right-image")
    before = right.value_of_css_property("clip-path")
    reached = opened.find_element("tag name", "body")
    for _ in range(30):
        reached.send_keys(Keys.TAB)
        reached = opened.switch_to.active_element
        if reached == slider:
            break

    assert reached == slider
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert slider.get_attribute("value") == "52"
    assert right.value_of_css_property("clip-path") != before
    assert "52%" in right.value_of_css_property("clip-path")
    slider.send_keys(Keys.END)
    left_alone = opened.find_element("id", "stack").screenshot_as_png
    slider.send_keys(Keys.HOME)
    assert opened.find_element("id", "stack").screenshot_as_png != left_alone


def test_images_and_versions_are_chosen_by_keyboard(opened: Any) -> None:
    image = opened.find_element("id", "left-image")
    assert image.get_attribute("alt") == "first, bicubic"

    opened.find_element("id", "piece").send_keys("second")
    opened.find_element("id", "left").send_keys("fp32")

    assert image.get_attribute("alt") == "second, fp32"
    assert opened.find_element("id", "left-tag").text == "fp32"
    assert opened.find_element("id", "right-tag").text == "int8"


@pytest.mark.parametrize(("shown", "base"), [("int8", "original"), ("fp32", "bicubic")])
def test_errors_are_computed_as_everywhere(opened: Any, shown: str, base: str) -> None:
    opened.find_element("id", "right").send_keys(shown)
    opened.find_element("id", "base").send_keys(base)
    words = WebDriverWait(opened, 30).until(
        lambda one: (told := one.find_element("id", "heat-words").text).startswith(f"{shown} against {base}") and told
    )

    a, b = (np.rint(version("first", one) * 255).astype(int) for one in (shown, base))
    wanted = 10 * math.log10(255**2 / np.mean((a - b) ** 2))
    assert f"PSNR {wanted:.2f} dB" in words
    assert f"mean error {np.abs(a - b).mean():.2f} levels" in words
    assert f"largest {np.abs(a - b).max()}." in words


def test_a_version_against_itself_is_identical_and_black(opened: Any) -> None:
    opened.find_element("id", "base").send_keys("int8")
    WebDriverWait(opened, 30).until(lambda one: "identical" in one.find_element("id", "heat-words").text)

    script = "const c = arguments[0]; return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    pixels = np.array(opened.execute_script(script, opened.find_element("id", "heat"))).reshape(48, 64, 4)
    assert pixels[..., :3].max() == 4


@pytest.mark.parametrize("width", [360, 414, 1280])
def test_nothing_sticks_out_of_a_narrow_screen(opened: Any, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": width < 1000}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    content, screen = opened.execute_script(wide)
    assert content <= screen
    tables = opened.execute_script("return [...document.querySelectorAll('.scroll')].map((one) => one.tabIndex)")
    assert tables
    assert set(tables) == {0}  # what scrolls sideways can be reached by keyboard
    if width < 400:
        opened.execute_script("for (const one of document.querySelectorAll('.scroll')) one.style.overflow = 'visible'")
        content, screen = opened.execute_script(wide)
        assert content > screen


def test_everything_that_is_used_has_a_name(opened: Any) -> None:
    """As a screen reader gets it."""
    opened.execute_cdp_cmd("Accessibility.enable", {})
    nodes = opened.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    used = [
        one for one in nodes if one.get("role", {}).get("value") in ("combobox", "slider", "image", "region", "link")
    ]

    assert len(used) >= 12
    assert [one["role"]["value"] for one in used if not one.get("name", {}).get("value")] == []
