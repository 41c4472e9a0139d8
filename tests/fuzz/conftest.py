"""Fixtures for fuzzing."""

from __future__ import annotations

from tests.support.hub_server import hub_server
from tests.support.keys import keys
from tests.support.releases import finished_release, release, slim_release

__all__ = ["finished_release", "hub_server", "keys", "release", "slim_release"]
