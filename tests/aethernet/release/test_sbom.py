"""The bill of materials: valid CycloneDX that says what the manifest says."""

from __future__ import annotations

import json
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from aethernet.release.bundle import open_bundle
from aethernet.release.sbom import BOM, bill_of_materials

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def test_bill_follows_the_official_schema(finished_release: Path) -> None:
    assert VALIDATOR.validate_str((finished_release / BOM).read_text()) is None


def test_bill_with_a_foreign_field_does_not(finished_release: Path) -> None:
    bill = json.loads((finished_release / BOM).read_text()) | {"surprise": 1}

    assert VALIDATOR.validate_str(json.dumps(bill)) is not None


def test_bill_names_every_file_the_checkpoint_the_tools_and_the_quality(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest
    bill = json.loads((finished_release / BOM).read_text())
    model = bill["metadata"]["component"]

    assert {item["name"]: item["hashes"][0]["content"] for item in bill["components"]} == {
        entry.path: entry.sha256 for entry in manifest.files if entry.path != BOM
    }
    assert model["pedigree"]["ancestors"][0]["hashes"][0]["content"] == manifest.checkpoint.sha256
    assert {tool["name"]: tool["version"] for tool in bill["metadata"]["tools"]["components"]} == manifest.toolchain
    values = {metric["value"] for metric in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    assert {str(item.psnr_rgb) for item in manifest.quality if item.psnr_rgb is not None} <= values


def test_same_release_has_the_same_bill_and_another_one_another_serial_number(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest
    other = bill_of_materials(manifest.model_copy(update={"identity": "0" * 64}))

    assert bill_of_materials(manifest) == json.loads((finished_release / BOM).read_text())
    assert other["serialNumber"] != bill_of_materials(manifest)["serialNumber"]
