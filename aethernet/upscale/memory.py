"""How much memory there is, and how much a network will take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aethernet.networks.config import NetworkConfig
from aethernet.networks.descriptor import Descriptor

__all__ = ["bytes_per_pixel", "free_gpu_memory", "free_memory", "return_freed_memory"]

_UNKNOWN_FLOATS = 1024
_ALLOCATOR = 1.3
"""Memory a runtime holds over what its tensors need at one time. Measured with generation 2's sample and generation 1
small: ONNX Runtime 1.05 and 1.23, OpenVINO 1.30 and 1.09."""


def free_memory() -> int:
    """Bytes this process can still take: free memory of the machine, or of its container where that is less."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        lines = Path("/sys/fs/cgroup/memory.stat").read_text(encoding="ascii").splitlines()
        stat = dict(line.split() for line in lines)
    except (OSError, ValueError):  # no control group, or no limit ("max")
        return available
    # What the container holds as a cache of files gives way.
    return min(available, max(0, limit - used + int(stat.get("inactive_file", 0))))


def return_freed_memory() -> None:
    """Give back to the system what was freed.

    glibc keeps blocks of up to 32 MB once it has seen such a one freed, and Pillow decodes into blocks of 16: after a
    picture of 12,000x8,000 there were 350 MB of them.
    """
    import ctypes
    import sys

    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


def free_gpu_memory() -> int | None:
    """Free bytes of the first CUDA device, or None where that cannot be asked."""
    try:
        import torch
    except ImportError:
        return None
    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else None


def bytes_per_pixel(config: Mapping[str, Any], *, half: bool = False) -> int:
    """Estimated memory of one forward pass per input pixel, of the network that the manifest describes.

    The most that is alive at one time is either a gated feed-forward (three tensors of its hidden width beside three of
    the body's) or a step of the upsampler (input, output and shuffled output at the higher resolution).
    """
    if "library" in config:
        # Measured: what the largest layer takes and gives, and as much again for what waits beside it.
        held = 2 * (Descriptor.from_json(config).floats_per_pixel or _UNKNOWN_FLOATS)
        return int((2 if half else 4) * held * _ALLOCATOR)
    network = NetworkConfig.from_json(config)
    body = 3 * network.hidden_channels + 3 * network.embed_dim
    finest = network.upsampled_channels * network.scale**2
    return int((2 if half else 4) * max(body, 3 * finest) * _ALLOCATOR)
