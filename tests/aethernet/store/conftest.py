"""Fixtures for the tests of the store."""

from __future__ import annotations

from tests.support.storage import bucket, s3

__all__ = ["bucket", "s3"]
