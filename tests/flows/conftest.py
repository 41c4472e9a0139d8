"""Fixtures for the tests of whole flows."""

from __future__ import annotations

from tests.support.engine import engine

__all__ = ["engine"]
