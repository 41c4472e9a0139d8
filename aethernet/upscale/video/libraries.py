"""PyAV, and files opened with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aethernet.errors import MissingDependencyError

__all__ = ["library", "url"]


def library() -> Any:
    """PyAV. Its logging stays off: with it on, a decoding thread may wait for ever for the interpreter's lock."""
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("av", extra="video") from error
    return av


def url(path: Path) -> str:
    """A file as FFmpeg takes it: a colon in its name makes no protocol."""
    return f"file:{path}"
