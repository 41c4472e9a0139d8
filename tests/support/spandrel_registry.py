"""spandrel's registry of architectures, which is one per process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["registry_as_it_was"]


@contextmanager
def registry_as_it_was() -> Iterator[None]:
    """Whatever is registered inside is gone afterwards: the next test of this process meets spandrel as it comes.

    Where spandrel cannot be imported there is nothing to restore.
    """
    try:
        from spandrel import MAIN_REGISTRY
    except ImportError:
        yield
        return
    before = MAIN_REGISTRY.copy()
    try:
        yield
    finally:
        MAIN_REGISTRY._architectures, MAIN_REGISTRY._ordered, MAIN_REGISTRY._by_id = (
            before._architectures,
            before._ordered,
            before._by_id,
        )
