"""Fixtures for the library's tests."""

from __future__ import annotations

from tests.support.commands import call
from tests.support.exports import export

__all__ = ["call", "export"]
