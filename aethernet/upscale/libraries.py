"""Libraries that only some kinds of image files need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from aethernet.errors import MissingDependencyError

__all__ = ["require"]


def require(module: str, extra: str = "images") -> Any:
    """The library.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(module, extra=extra) from error
