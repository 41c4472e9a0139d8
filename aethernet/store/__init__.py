"""The content-addressed store that stages keep their files in, local or shared."""

from __future__ import annotations

from aethernet.store.store import Store, default_store

__all__ = ["Store", "default_store"]
