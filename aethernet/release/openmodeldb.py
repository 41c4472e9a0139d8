"""An entry for OpenModelDB (https://openmodeldb.info), by the types in its repository's ``src/lib/schema.ts`` and the
checks of its ``npm run validate-db``.

The file is a patch to that repository's ``data`` folder: ``models`` are files of their own there, ``architectures``
and ``users`` are merged into the file of that name.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from aethernet.precision import Precision

if TYPE_CHECKING:
    from aethernet.release.manifest import BuildRecord, FileEntry, Manifest
    from aethernet.release.spec import OpenModelDbSpec

__all__ = ["ARCHITECTURES", "database_patch", "formatted", "model_id"]

ARCHITECTURES = {
    "aethernet": {"name": "AetherNet", "input": "image", "compatiblePlatforms": ["pytorch", "onnx", "ncnn"]}
}
"""What the database does not know yet; it takes an architecture's id for granted everywhere else."""

_KINDS = {
    ".pth": ("pytorch", "pth"),
    ".safetensors": ("pytorch", "safetensors"),
    ".onnx": ("onnx", "onnx"),
}
_LISTED = ("_fp32.pth", "_fp32.safetensors", "_fp32.onnx", "_fp16.onnx", "_int8.onnx")
"""Files that become resources. ncnn is a platform there, but no type of file (``enum`` of a resource's ``type`` in
``src/lib/model-props.ts``), and an entry with another type is refused as a whole: the description names those files."""


def database_patch(manifest: Manifest, build: BuildRecord, spec: OpenModelDbSpec) -> dict[str, Any]:
    """``models``, ``architectures`` and ``users`` to add to the database.

    Without an address of the published files (``url`` in the spec), theirs are relative to it.
    """
    config = manifest.network.config
    authors = spec.authors or tuple(dict.fromkeys(filter(None, (_dashes(one.lower()) for one in manifest.authors))))
    names = {} if spec.authors else {_dashes(one.lower()): one for one in manifest.authors if _dashes(one.lower())}
    architecture = _dashes(manifest.network.family.lower())
    entry: dict[str, Any] = {
        "name": spec.name or _shown_name(manifest),
        "author": (list(authors) if len(authors) > 1 else authors[0]) if authors else "unknown",
        "license": None if manifest.license == "unknown" else manifest.license,
        "tags": sorted(spec.tags),
        "description": _description(manifest, spec),
        "date": build.created[:10],
        "architecture": architecture,
        "size": [manifest.network.preset],
        "scale": config["scale"],
        "inputChannels": config["in_channels"],
        "outputChannels": config["in_channels"],
        "resources": [
            _resource(one, spec) for ending in _LISTED for one in manifest.files if one.path.endswith(ending)
        ],
        "images": [],
    }
    if spec.url is not None:
        entry["images"] = [{"type": "standalone", "url": _address(spec, "images/comparison.png")}]
    return {
        "models": {model_id(entry["name"], config["scale"]): entry},
        "architectures": {architecture: ARCHITECTURES[architecture]} if architecture in ARCHITECTURES else {},
        "users": {one: {"name": name} for one, name in sorted(names.items())}
        or ({} if authors else {"unknown": {"name": "unknown"}}),
    }


def formatted(patch: dict[str, Any]) -> bytes:
    """As the database's files are: four spaces, no newline at the end."""
    return json.dumps(patch, indent=4, ensure_ascii=False, allow_nan=False).encode()


def model_id(name: str, scale: int) -> str:
    """The database's canonical id: the scale first and only there."""
    found = _dashes(f"{scale}x-{name}")
    found = re.sub(rf"^{scale}x-(?:{scale}x|x{scale})-?", f"{scale}x-", found, flags=re.IGNORECASE)
    return re.sub(rf"-(?:x{scale}|{scale}x)$", "", found, flags=re.IGNORECASE)


def _dashes(text: str) -> str:
    return re.sub(r"^-|-$", "", re.sub(r"[^a-z0-9]+", "-", text.strip(), flags=re.IGNORECASE))


def _shown_name(manifest: Manifest) -> str:
    """``aether_tiny_2x`` -> ``Aether Tiny``: the scale is a fact of its own there."""
    words = re.sub(
        rf"[_-](x{manifest.network.config['scale']}|{manifest.network.config['scale']}x)$", "", manifest.name
    )
    return " ".join(word[:1].upper() + word[1:] for word in re.split(r"[_\s-]+", words) if word)


def _description(manifest: Manifest, spec: OpenModelDbSpec) -> str:
    parts = [manifest.description.strip()]
    precisions = [form.precision.value for form in manifest.forms if form.status == "released"]
    parts.append(
        f"Version {manifest.version}. Forms: {', '.join(precisions)}; each was compared with the trained network on "
        "images before it was released, see the release's README.md."
    )
    ncnn = [one for one in manifest.files if one.role == "ncnn"]
    if ncnn:
        files = " and ".join(f"[{one.path}]({_address(spec, one.path)}) ({one.size} bytes)" for one in ncnn)
        parts.append(f"Platform ncnn (Vulkan; Upscayl and its like): {files}.")
    own = [one for one in manifest.quality if one.precision is Precision.FP32 and one.form.endswith(".onnx")]
    base = [one for one in manifest.quality if one.form == "bicubic"]
    values = [[one.psnr_rgb for one in many if one.psnr_rgb is not None] for many in (own, base)]
    if all(values):
        ours, theirs = (sum(many) / len(many) for many in values)
        parts.append(
            f"PSNR (RGB) {ours:.2f} dB, bicubic {theirs:.2f} dB, mean of {len(own)} images"
            + (f" (LR: {manifest.conditions.kernel})" if manifest.conditions.kernel else "")
            + "."
        )
    if manifest.trained_on:
        parts.append(manifest.trained_on.strip())
    return "\n\n".join(part for part in parts if part).strip()


def _resource(entry: FileEntry, spec: OpenModelDbSpec) -> dict[str, Any]:
    platform, kind = _KINDS["." + entry.path.rpartition(".")[2]]
    urls = [_address(spec, entry.path)]
    return {"platform": platform, "type": kind, "size": entry.size, "sha256": entry.sha256, "urls": urls}


def _address(spec: OpenModelDbSpec, path: str) -> str:
    return path if spec.url is None else f"{spec.url.rstrip('/')}/{path}"
