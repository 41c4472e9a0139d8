"""Quality of every form of a release against high-resolution pictures, by the field's definitions.

- PSNR and SSIM of the output rounded to 8 bits, on RGB without cropping, and on Y with the border cropped.
- Y is BT.601 in studio range as MATLAB's ``rgb2ycbcr`` computes it, not rounded (as in BasicSR and its descendants).
- SSIM is Wang et al. 2004 (doi:10.1109/TIP.2003.819861): Gaussian window of 11, sigma 1.5, mean over the places where
  the window fits, mean over channels.
- A mean over a set is the mean of its pictures' values.
"""

from __future__ import annotations

from aethernet.evaluation.evaluate import Evaluation, FormQuality, evaluate
from aethernet.evaluation.sets import ImagePair, ImageSet, find_sets
from aethernet.images.downscaling import downscale
from aethernet.images.kernels import KERNELS

__all__ = ["KERNELS", "Evaluation", "FormQuality", "ImagePair", "ImageSet", "downscale", "evaluate", "find_sets"]
