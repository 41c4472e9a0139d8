"""Names of what our own files say beside their tensors."""

from __future__ import annotations

__all__ = ["DESCRIPTION_KEY", "METADATA_KEY", "PREFIX", "RECORD"]

METADATA_KEY = "aethernet"
"""The one key of the safetensors metadata; its value is JSON."""
RECORD = "aethernet.record"
"""Entry of a ``.pth`` that holds what safetensors files have in their metadata."""
DESCRIPTION_KEY = "quantized"
"""Of what our metadata says about an int8 network beside the float one."""
PREFIX = "quantized."
"""Before the name of each of its tensors."""
