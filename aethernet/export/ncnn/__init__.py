"""ncnn: one form for Vulkan on every make of card, written from the ONNX graph with the layers that programs have."""

from __future__ import annotations

from aethernet.export.ncnn.proof import NcnnFiles, export_ncnn

__all__ = ["NcnnFiles", "export_ncnn"]
