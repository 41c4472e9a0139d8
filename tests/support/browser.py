"""A real browser, without a window."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["chromium", "forget"]


@contextmanager
def chromium(profile: Path, *switches: str) -> Iterator[Any]:
    """Selenium's driver of a headless Chromium with a profile of its own; skips the test where there is none.

    Args:
        profile: An empty folder.
        switches: Further ones, without dashes.
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (aethernet-sr[development])")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip("needs Chromium and its driver (apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for word in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", f"user-data-dir={profile}", *switches),
    ):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield opened
    finally:
        opened.quit()


def forget(driver: Any) -> None:
    """Make the driver as new: the window's own size, nothing logged yet."""
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    for log in ("performance", "browser"):
        driver.get_log(log)
