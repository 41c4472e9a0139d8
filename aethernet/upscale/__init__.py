"""From a release to larger pictures and films.

:class:`Upscaler` is the whole of it for arrays and single files; :mod:`aethernet.upscale.files` does folders,
:mod:`aethernet.upscale.video` films. ``aethernet upscale`` is these two on the command line.
"""

from __future__ import annotations

from aethernet.upscale.statistics import Tally
from aethernet.upscale.upscaler import Upscaler

__all__ = ["Tally", "Upscaler"]
