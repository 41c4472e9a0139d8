"""Videos: decode, upscale and encode side by side, everything else in the file copied.

The image stream is encoded in segments of a few seconds that start from nothing, and put together with the copied
streams at the end. So what a run did before it was killed is not lost, and the video that comes out is the same however
often it was interrupted.
"""

from __future__ import annotations

from aethernet.upscale.video.conversion import animation_to_video, video_to_animation
from aethernet.upscale.video.options import ENCODER_PRESETS, VideoOptions
from aethernet.upscale.video.run import is_finished, remembered_choice, upscale_video

__all__ = [
    "ENCODER_PRESETS",
    "VideoOptions",
    "animation_to_video",
    "is_finished",
    "remembered_choice",
    "upscale_video",
    "video_to_animation",
]
