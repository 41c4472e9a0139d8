"""Fixtures for the library's tests."""

from __future__ import annotations

from tests.support.commands import call

__all__ = ["call"]
