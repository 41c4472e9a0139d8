"""The page of ``aethernet web`` in a browser, driven as a visitor would drive it."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ENDED", "Page", "difference", "pixels", "requested_addresses", "save"]

ENDED = {"ready", "done", "failed", "cancelled", "verified", "wrong", "video"}
"""What ``data-state`` of the page's body says when nothing is going on."""


class Page:
    """The page in one driver.

    Args:
        driver: Selenium's.
        address: Of the site, with a slash at its end.
    """

    def __init__(self, driver: Any, address: str) -> None:
        self.driver, self.address = driver, address
        driver.set_script_timeout(120)

    def open(self, query: str = "") -> Page:
        """Load it anew and wait until it is ready, or says why not; its first visit loads it twice."""
        self.driver.get(self.address + query)
        self.wait({"ready", "failed"})
        return self

    def wait(self, states: set[str] = ENDED, seconds: float = 180) -> str:
        """The state once it is one of those that are waited for."""
        from selenium.webdriver.support.ui import WebDriverWait

        script = "return document.body && document.body.dataset.state"
        return str(
            WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(
                lambda one: state if (state := one.execute_script(script)) in states else False
            )
        )

    def state(self) -> str:
        """The state as it is."""
        return str(self.driver.execute_script("return document.body.dataset.state"))

    def forget(self) -> None:
        """Let :meth:`wait` not take the state before something is asked for for the one after it."""
        self.driver.execute_script("document.body.dataset.state = 'asked'")

    def text(self, name: str) -> str:
        """What an element says, or holds if it is a field."""
        script = "const one = document.getElementById(arguments[0]); return one.value || one.innerText"
        return str(self.driver.execute_script(script, name))

    def choose(self, file: Path) -> None:
        """A file through the file chooser."""
        self.forget()
        self.driver.find_element("id", "file").send_keys(str(file))

    def enlarge(self, file: Path) -> str:
        """Choose a file and wait for the end."""
        self.choose(file)
        return self.wait()

    def click(self, name: str) -> None:
        """Press a button, wherever the page is scrolled to."""
        self.driver.execute_script("document.getElementById(arguments[0]).click()", name)

    def verify(self) -> str:
        """Press "Verify" and wait for the end."""
        self.forget()
        self.click("verify")
        return self.wait()

    def result(self) -> np.ndarray:
        """The downloaded file, as [H, W, channels] uint8."""
        from PIL import Image

        name = self.driver.find_element("id", "download").get_attribute("download")
        with tempfile.TemporaryDirectory() as folder:
            behaviour = {"behavior": "allow", "downloadPath": folder, "eventsEnabled": False}
            self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
            self.click("download")
            end = time.monotonic() + 60
            while not (Path(folder) / name).is_file():  # it gets its name once it is whole
                if time.monotonic() > end:
                    raise TimeoutError(f"{name} was not downloaded")
                time.sleep(0.05)
            with Image.open(Path(folder) / name) as image:
                array = np.asarray(image)
        return array[..., None] if array.ndim == 2 else array

    def tiles(self) -> int:
        """How many the last image took, as the page says."""
        return int(self.text("status").split(" pixels, ")[1].split()[0])


def requested_addresses(driver: Any) -> set[str]:
    """Every address that the page and its workers asked for over a network, since this was asked last."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    addresses = {one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"}
    return {address for address in addresses if not address.startswith(("data:", "blob:"))}


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """[H, W, channels] uint8, of what images have."""
    from tests.support.images import natural_image

    picture = natural_image(height, width, channels=channels, seed=seed)[0].numpy().transpose(1, 2, 0)
    return np.rint(picture * 255).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    """An image file of [H, W, channels]."""
    from PIL import Image

    Image.fromarray(array.squeeze()).save(path, **options)
    return path


def difference(a: np.ndarray, b: np.ndarray) -> int:
    """The largest, in levels."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())
