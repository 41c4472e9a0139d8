"""Names of the kernels that low-resolution images are made with; needs nothing."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["KERNELS", "Kernel"]

Kernel = Literal["matlab-bicubic", "bicubic", "box", "dpid"]
"""See :mod:`aethernet.images.downscaling`."""

KERNELS: tuple[Kernel, ...] = get_args(Kernel)
