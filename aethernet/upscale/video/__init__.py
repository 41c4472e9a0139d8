"""Films: decode, upscale and encode side by side, everything else in the file copied.

The picture stream is encoded in segments of a few seconds that start from nothing, and put together with the copied
streams at the end. So what a run did before it was killed is not lost, and the film that comes out is the same however
often it was interrupted.
"""

from __future__ import annotations

from aethernet.upscale.video.options import ENCODER_PRESETS, FilmOptions
from aethernet.upscale.video.run import is_finished, remembered_choice, upscale_film

__all__ = ["ENCODER_PRESETS", "FilmOptions", "is_finished", "remembered_choice", "upscale_film"]
