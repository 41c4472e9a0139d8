"""Fixtures for the tests of stages."""

from __future__ import annotations

from tests.support.engine import engine

__all__ = ["engine"]
