"""What the card and the report say in short."""

from __future__ import annotations

from pathlib import Path

from aethernet.release.bundle import open_bundle
from aethernet.release.manifest import Manifest
from aethernet.release.summary import worst_measurements


def _with(manifest: Manifest, file: str, smallest: int, **changes: object) -> Manifest:
    """The manifest with other numbers for one file on inputs whose smaller side has that many pixels or more."""
    measurements = tuple(
        item.model_copy(update=changes) if item.form.file == file and min(item.shape[1:]) >= smallest else item
        for item in manifest.measurements
    )
    return manifest.model_copy(update={"measurements": measurements})


def test_means_are_of_pictures_and_extremes_of_every_input(finished_release: Path) -> None:
    """A single pixel that is off by three levels is no tint of three levels."""
    manifest = open_bundle(finished_release).manifest
    file = worst_measurements(manifest)[0]["file"]
    bad = {"psnr": 12.0, "max_abs": 0.7, "levels_largest": 99, "signed_mean": (0.1, 0.0, 0.0)}
    good = {"psnr": 61.0, "max_abs": 0.1, "levels_largest": 2, "signed_mean": (0.001, 0.0, -0.002)}

    small = _with(_with(manifest, file, 0, **bad), file, 32, **good)
    (row,) = [row for row in worst_measurements(small) if row["file"] == file]
    every = _with(manifest, file, 0, **bad)
    (worse,) = [row for row in worst_measurements(every) if row["file"] == file]

    assert row == {**row, "inputs": 7, "psnr": 61.0, "max_abs": 0.7, "level": 99, "shift": 0.002 * 255}
    assert worse == {**worse, "psnr": 12.0, "shift": 0.1 * 255}


def test_where_all_inputs_are_small_their_means_are_shown(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest
    few = tuple(item for item in manifest.measurements if min(item.shape[1:]) < 32)

    rows = worst_measurements(manifest.model_copy(update={"measurements": few}))

    assert rows
    assert all(row["shift"] is not None for row in rows)
