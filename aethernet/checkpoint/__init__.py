"""Checkpoints in and out: read safely, understand completely, save with the config beside the weights.

Saying what a file is (:mod:`aethernet.checkpoint.header`) needs no PyTorch; what is named here loads it on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aethernet.checkpoint.loaded import LoadedNetwork
    from aethernet.checkpoint.loading import hold_same_tensors, load
    from aethernet.checkpoint.saving import save_finetuned, save_pth, save_safetensors
    from aethernet.quantization.finetuned import FinetunedInt8

__all__ = [
    "FinetunedInt8",
    "LoadedNetwork",
    "hold_same_tensors",
    "load",
    "save_finetuned",
    "save_pth",
    "save_safetensors",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'aethernet.checkpoint' has no attribute '{name}'")
    # Written out, because caches of stages follow imports.
    from aethernet.checkpoint import loaded, loading, saving
    from aethernet.quantization import finetuned

    (module,) = [one for one in (loaded, loading, saving, finetuned) if name in one.__all__]
    return getattr(module, name)
