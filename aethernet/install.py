"""How aethernet is installed: the one place that hints, cards and documentation take it from.

The distribution is called ``aethernet-sr``. In the Python registry the name ``aethernet`` belongs to another project,
and ``aethernet-sr`` is not registered yet, so nobody is told to install either by its bare name: a hint names the place
that this copy came from, a card the wheel on the release page.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["DISTRIBUTION", "EXTRAS", "public_requirement", "require_own_package", "requirement"]

DISTRIBUTION = "aethernet-sr"
"""Name of the distribution; the import name stays ``aethernet``."""

EXTRAS = {
    "cuda": "tensorrt",
    "huggingface_hub": "hub",
    "imagecodecs": "images",
    "av": "video",
    "model_signing": "signing",
    "ncnn": "ncnn",
    "onnx_ir": "convert",
    "onnxscript": "convert",
    "OpenSSL": "signing",
    "openvino": "openvino",
    "polygraphy": "convert",
    "prefect": "flows",
    "prefect_dask": "cluster",
    "pyiqa": "perceptual",
    "s3fs": "cluster",
    "skimage": "convert",
    "spandrel": "spandrel",
    "sympy": "convert",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "tifffile": "images",
    "torch": "convert",
    "torchvision": "spandrel",
    "yaml": "flows",
}
"""Package that is not part of every installation -> extra that brings it."""

WHEEL = "WHEEL"
"""Stands for the address of the wheel on the release page, for as long as the distribution is in no registry."""


def requirement(extra: str = "") -> str:
    """What to give to ``pip install`` to add an extra to this copy, such as ``aethernet-sr[video] @ file:///clone``.

    The place is the one that pip recorded when it installed this copy (PEP 610: a clone, a repository or a wheel).
    """
    return _requirement(extra, _origin() or WHEEL)


def public_requirement(extra: str = "") -> str:
    """The same for texts that other people read, such as a model card: it names nothing of this machine."""
    return _requirement(extra, WHEEL)


def _requirement(extra: str, place: str) -> str:
    return f"{DISTRIBUTION}{f'[{extra}]' if extra else ''} @ {place}"


def _origin() -> str | None:
    import json
    from importlib import metadata

    # A clone may hold metadata of its own (``*.egg-info``), which says nothing about where it came from.
    for found in metadata.distributions(name=DISTRIBUTION):
        if text := found.read_text("direct_url.json"):
            recorded = json.loads(text)
            revision = recorded.get("vcs_info")
            return f"{revision['vcs']}+{recorded['url']}@{revision['commit_id']}" if revision else str(recorded["url"])
    return None


def require_own_package() -> None:
    """Refuse to run where another distribution owns the folder that this package is installed in.

    The registry's ``aethernet`` installs into the same folder: whichever came second has overwritten the other's files.

    Raises:
        ImportError: A distribution ``aethernet`` is installed beside this one.
    """
    # Looking for the folder is a hundred times quicker than importlib.metadata, and every import pays for it.
    place = Path(__file__).resolve().parents[1]
    other = next((found for found in place.glob("aethernet-*.dist-info") if (found / "RECORD").is_file()), None)
    if other is not None and "aethernet/__init__.py" in (other / "RECORD").read_text(encoding="utf-8"):
        raise ImportError(
            f"expected the package folder {place / 'aethernet'} to belong to {DISTRIBUTION} alone, found "
            f"another project of the registry in it ({other.stem}), whose files overwrite those of this one; "
            f"pip uninstall aethernet {DISTRIBUTION}, then: pip install '{public_requirement()}'"
        )
