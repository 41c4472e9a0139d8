"""Ways to run a network, behind one small protocol.

A runtime takes and gives float32 pictures whatever its own precision, touches its device only between ``__enter__`` and
``__exit__``, and is opened by :func:`open_runtime` from a released file.
"""

from __future__ import annotations

from aethernet.runtimes.opening import RUNTIMES, open_runtime, runtimes_here
from aethernet.runtimes.protocol import Runtime, ShapeLimits

__all__ = ["RUNTIMES", "Runtime", "ShapeLimits", "open_runtime", "runtimes_here"]
