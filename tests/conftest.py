"""Fixtures for all tests."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Read when the client is imported: no hub but the loopback one, plain large files, nothing of the user's own.
os.environ.pop("HF_TOKEN", None)
os.environ.update(
    HF_ENDPOINT="http://127.0.0.1:1",
    HF_HOME=tempfile.gettempdir() + "/no-hugging-face-home",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_UPDATE_CHECK="1",
    HF_HUB_DISABLE_XET="1",
    NO_PROXY="127.0.0.1",
)

from tests.support.hub_server import hub_server  # noqa: E402
from tests.support.keys import keys  # noqa: E402
from tests.support.releases import finished_release, release, slim_release  # noqa: E402

__all__ = ["finished_release", "hub_server", "keys", "release", "slim_release"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests come first, so that several processes end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real checkpoints and images that lies beside a development checkout."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the example checkpoints and images in shared/data beside the repository")
    return folder


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        # Tiny networks lose more to waiting for a second thread than they gain: a hundredfold on a busy machine.
        torch.set_num_threads(1)
