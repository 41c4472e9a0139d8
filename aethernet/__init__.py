"""aethernet: from a trained super-resolution checkpoint to a release people can trust.

Importing this package is light; the names below load what they need when first used::

    import aethernet

    network = aethernet.load("net_g.pth")          # any AetherNet checkpoint, nothing in it is executed
    fused = aethernet.fuse(network.model)          # same image, fewer operations
    aethernet.export_onnx(fused, "net.onnx")       # contract-checked ONNX
    bundle = aethernet.open_bundle("out/net_2x")   # a release folder
    upscaler = aethernet.Upscaler(bundle)          # enlarges arrays and files
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aethernet.install import require_own_package
from aethernet.version import __version__

if TYPE_CHECKING:
    from aethernet.checkpoint import load
    from aethernet.export import export_onnx
    from aethernet.networks.fusion import fuse
    from aethernet.release.bundle import open_bundle
    from aethernet.release.verification import verify_bundle
    from aethernet.upscale import Upscaler

__all__ = ["Upscaler", "__version__", "export_onnx", "fuse", "load", "open_bundle", "verify_bundle"]

_HOMES = {
    "Upscaler": "aethernet.upscale",
    "load": "aethernet.checkpoint",
    "fuse": "aethernet.networks.fusion",
    "export_onnx": "aethernet.export",
    "open_bundle": "aethernet.release.bundle",
    "verify_bundle": "aethernet.release.verification",
}


require_own_package()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aethernet' has no attribute '{name}'")
    from importlib import import_module

    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from aethernet.errors import named_extra

        raise named_extra(error) from error
