"""Networks that attend within windows, made fit for tracing.

They put windows back into a picture with the batch as ``int(windows.shape[0] / (h * w / side / side))``. PyTorch's
exporter takes that number, made by floating point, for a constant: the one it was traced with. A file with free shapes
then mixes up channels for any other batch, and says nothing. Here the batch follows from the other sizes instead.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

__all__ = ["traceable_windows"]

_LIBRARY = "spandrel.architectures."


@contextmanager
def traceable_windows() -> Iterator[list[str]]:
    """Within the block, architectures that are loaded put windows back in a way that can be traced.

    The results are the same, bit by bit: only the batch is computed otherwise. Yields the modules concerned.
    """
    replaced: list[tuple[Any, str, Callable[..., Tensor]]] = []
    for module in [loaded for name, loaded in sys.modules.items() if name.startswith(_LIBRARY)]:
        for name, ours in (("window_reverse", _window_reverse), ("windows2img", _windows_to_picture)):
            theirs = vars(module).get(name)
            if callable(theirs):
                replaced.append((module, name, theirs))
                setattr(module, name, functools.partial(ours, theirs))
    try:
        yield [module.__name__ for module, _, _ in replaced]
    finally:
        for module, name, theirs in replaced:
            setattr(module, name, theirs)


def _window_reverse(theirs: Callable[..., Tensor], windows: Tensor, window: Any, *size: Any, **others: Any) -> Tensor:
    """``(windows, side or sides, h, w)`` or ``(windows, sides, (h, w))``; what else there may be goes to ``theirs``."""
    sides = (window, window) if isinstance(window, int) else tuple(window)
    picture = size[0] if len(size) == 1 and not others else size
    if others or len(picture) != 2:
        return theirs(windows, window, *size, **others)
    return _windows_to_picture(theirs, windows, *sides, *picture)


def _windows_to_picture(
    _: Callable[..., Tensor], windows: Tensor, window_height: int, window_width: int, height: int, width: int
) -> Tensor:
    """[N * windows, window_height, window_width, C], the middle axes together or apart -> [N, height, width, C]."""
    channels = windows.shape[-1]
    rows, columns = height // window_height, width // window_width
    tiled = windows.reshape(-1, rows, columns, window_height, window_width, channels)
    return tiled.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)
