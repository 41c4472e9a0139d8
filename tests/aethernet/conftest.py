"""Fixtures for the library's tests."""

from __future__ import annotations

from tests.support.hub_server import hub_server
from tests.support.releases import finished_release, release

__all__ = ["finished_release", "hub_server", "release"]
