"""Fixtures for the tests of stages."""

from __future__ import annotations

from tests.support.engine import engine
from tests.support.storage import bucket, s3

__all__ = ["bucket", "engine", "s3"]
