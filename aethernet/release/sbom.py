"""The release as a bill of materials for machines: CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json), kind ML-BOM."""

from __future__ import annotations

import uuid
from typing import Any

from aethernet.release.manifest import Manifest

__all__ = ["BOM", "bill_of_materials"]

BOM = "bom.cdx.json"


def bill_of_materials(manifest: Manifest) -> dict[str, Any]:
    """What the release consists of and comes from: files, checkpoint, tools, measured quality.

    The same release has the same bill: there is no time in it, and its serial number follows from the identity.

    Args:
        manifest: Of the release; the bill itself need not be in it.
    """
    network, checkpoint = manifest.network, manifest.checkpoint
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"release:{manifest.name}@{manifest.version}",
        "name": manifest.name,
        "version": manifest.version,
        "description": manifest.description,
        "authors": [{"name": author} for author in manifest.authors],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "image super-resolution",
                "architectureFamily": network.family,
                "modelArchitecture": f"{network.family} {network.preset}",
                "datasets": [{"type": "dataset", "name": "training pictures", "description": manifest.trained_on}],
                "inputs": [{"format": "picture, NCHW, values in [0, 1]"}],
                "outputs": [{"format": f"picture, {network.config.get('scale')} times as wide and as high"}],
            },
            "quantitativeAnalysis": {
                "performanceMetrics": [
                    {"type": kind, "value": str(value), "slice": f"{item.form}, {item.picture}"}
                    for item in manifest.quality
                    for kind, value in (("PSNR RGB, dB", item.psnr_rgb), ("SSIM RGB", item.ssim_rgb))
                    if value is not None
                ]
            },
        },
        "pedigree": {
            "ancestors": [
                {
                    "type": "machine-learning-model",
                    "name": checkpoint.file,
                    "description": checkpoint.origin or "the checkpoint this was made from",
                    "hashes": [{"alg": "SHA-256", "content": checkpoint.sha256}],
                }
            ]
        },
        "properties": [{"name": "aethernet:identity", "value": manifest.identity}],
    }
    if manifest.license != "unknown":
        model["licenses"] = [{"license": {"name": manifest.license}}]
    files = [
        {
            "type": "file",
            "bom-ref": f"file:{entry.path}",
            "name": entry.path,
            "hashes": [{"alg": "SHA-256", "content": entry.sha256}],
        }
        for entry in manifest.files
        if entry.path != BOM
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, manifest.identity)}",
        "version": 1,
        "metadata": {
            "component": model,
            "tools": {
                "components": [
                    {"type": "library", "name": name, "version": version}
                    for name, version in sorted(manifest.toolchain.items())
                ]
            },
        },
        "components": files,
        "dependencies": [{"ref": model["bom-ref"], "dependsOn": [file["bom-ref"] for file in files]}],
    }
