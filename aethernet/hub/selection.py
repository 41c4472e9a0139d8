"""Which files of a release somebody needs."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

from aethernet.errors import UsageError
from aethernet.hub.address import printable
from aethernet.precision import Precision
from aethernet.release.manifest import FileEntry, Manifest

__all__ = ["RUNTIMES", "require_known", "select_files"]

RUNTIMES = {
    "onnxruntime": (".onnx",),
    "openvino": (".onnx",),
    "directml": (".onnx",),
    "pytorch": (".safetensors", ".pth"),
    "tensorrt": (".onnx", "_tensorrt_sm*.engine*"),
    "tensorrt_rtx": (".onnx", "_tensorrt_rtx_sm*.engine*"),
}
"""Runtime -> how names of files end that it can use; engines come with the record of their identity."""


def select_files(manifest: Manifest, only: Collection[str], runtime: str | None) -> list[FileEntry]:
    """The files of a release that somebody needs.

    Args:
        manifest: Of the release.
        only: Forms, such as ``fp16``, and ``reference`` for the trained weights before folding; all without.
        runtime: One of :data:`RUNTIMES`, or None for any.

    Raises:
        UsageError: The release has no such form.
    """
    require_known(only, runtime)
    released = {entry.precision.value for entry in manifest.files if entry.precision} | {"reference"}
    if unknown := sorted(set(only) - released):
        raise UsageError(
            f"expected forms that this release has ({', '.join(sorted(released))}), found {', '.join(unknown)}"
        )
    return [entry for entry in manifest.files if _wanted(entry, manifest, only, runtime)]


def _wanted(entry: FileEntry, manifest: Manifest, only: Collection[str], runtime: str | None) -> bool:
    if entry == manifest.reference:
        return "reference" in only or not (only or runtime)
    if entry.precision is None and not entry.path.endswith(".engine"):
        return True  # what every part needs: configuration, images, papers
    if only and entry.precision is not None and entry.precision.value not in only:
        return False
    if runtime is None:
        return True
    if entry.path.endswith("_trt.onnx"):
        return runtime.startswith("tensorrt")
    return any(fnmatchcase(entry.path, f"*{ending}") for ending in RUNTIMES[runtime])


def require_known(only: Collection[str], runtime: str | None) -> None:
    """Refuse words that no release knows, before a hub is asked.

    Raises:
        UsageError: No such form or runtime.
    """
    known = [precision.value for precision in Precision] + ["reference"]
    if unknown := sorted(set(only) - set(known)):
        raise UsageError(f"expected forms among {', '.join(known)}, found {', '.join(unknown)}")
    if runtime is not None and runtime not in RUNTIMES:
        raise UsageError(f"expected a runtime among {', '.join(RUNTIMES)}, found {printable(runtime)}")
