"""Fixtures for all tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real checkpoints and pictures that lies beside a development checkout."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the example checkpoints and pictures in shared/data beside the repository")
    return folder


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        # Tiny networks lose more to waiting for a second thread than they gain: a hundredfold on a busy machine.
        torch.set_num_threads(1)
