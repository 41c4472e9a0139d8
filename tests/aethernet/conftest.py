"""Fixtures for the library's tests."""

from __future__ import annotations

from tests.support.releases import finished_release, release

__all__ = ["finished_release", "release"]
