"""INT8: one grid for every runtime, found from records of training or from images.

:mod:`~aethernet.quantization.scheme` says what is quantised and how, :mod:`~aethernet.quantization.post_training` makes
the int8 network of a float one.
"""
