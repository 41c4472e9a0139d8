"""Fixtures for the tests of whole flows."""

from __future__ import annotations

from tests.support.engine import engine, server
from tests.support.workplace import command_line, first_release, prefect_home, workplace

__all__ = ["command_line", "engine", "first_release", "prefect_home", "server", "workplace"]
