"""Names of what our own files say beside their tensors."""

from __future__ import annotations

__all__ = ["METADATA_KEY", "RECORD"]

METADATA_KEY = "aethernet"
"""The one key of the safetensors metadata; its value is JSON."""
RECORD = "aethernet.record"
"""Entry of a ``.pth`` that holds what safetensors files have in their metadata."""
