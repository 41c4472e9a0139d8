"""From a release to larger pictures and films.

:class:`Upscaler` is the whole of it for arrays and single files; :mod:`aethernet.upscale.files` does folders,
:mod:`aethernet.upscale.film` films. ``aethernet upscale`` is these two on the command line.
"""

from __future__ import annotations

from aethernet.upscale.upscaler import Tally, Upscaler

__all__ = ["Tally", "Upscaler"]
