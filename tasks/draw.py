"""Draw: the pictures a release carries, for people to look at and for ``verify`` to try the network on."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel

from aethernet.artifact import Artifact, atomic_path
from aethernet.comparison import build_cases, outputs_of
from aethernet.images.files import load_picture, save_picture
from aethernet.precision import Precision
from aethernet.release.bundle import CHECK_INPUT, CHECK_OUTPUT
from aethernet.release.sheet import comparison_sheet, versions_of
from aethernet.runtimes.opening import open_runtime
from tasks.benchmark import BenchmarkFile
from tasks.caching import current_store, stage
from tasks.compare import Reference
from tasks.fetch import ValidationImage

__all__ = ["SHEET", "Drawn", "draw"]

SHEET = "images/comparison.png"
_ROWS, _SIDE = 2, 72
_PIECES, _PIECE_SIDE = 4, 320
"""Pictures in the report, and the largest side of each in pixels of the output."""
_CAPTIONS = {Precision.FP32: "fp32", Precision.INT8: "int8"}
"""What is shown; fp16 looks like fp32."""


class Drawn(BaseModel):
    """Pictures of a release."""

    images: dict[str, Artifact]
    """Path in the release -> picture: the check pair and a sheet."""
    pieces: dict[str, dict[str, Artifact]]
    """For the report: picture -> caption -> PNG of the same window, nearest, bicubic, fp32, int8 where it is released,
    original where there is one."""


@stage(host_matters=True)
def draw(reference: Reference, pictures: list[ValidationImage], released: list[BenchmarkFile]) -> Drawn:
    """The sheet and the report's pictures show what released files really make of validation pictures."""
    from safetensors.numpy import load_file

    store, scale = current_store(), reference.scale
    outputs = load_file(store.get(reference.outputs))
    low = {picture.name: store.get(picture.low) for picture in pictures}
    cases = build_cases(low, reference.channels, static=reference.static)
    check = next((case for case in cases if case.name.startswith("batch of 2")), cases[0])
    high = {picture.name: store.get(picture.high) for picture in pictures if picture.high is not None}
    shown = [case for case in cases if case.window is not None][:_PIECES]
    made = {
        _CAPTIONS[one.precision]: outputs_of(open_runtime(store.get(one.file)), shown)
        for one in released
        if one.precision in _CAPTIONS
    }

    def versions(side: int) -> list[list[tuple[str, np.ndarray]]]:
        rows = []
        for case in shown:
            truth = None
            if case.picture in high and case.window is not None:
                y, x, height, width = (number * scale for number in case.window)
                truth = load_picture(high[case.picture], reference.channels)[:, :, y : y + height, x : x + width]
            ours = {caption: found[case.name] for caption, found in made.items()}
            rows.append(versions_of(case.input, ours, truth, scale, side))
        return rows

    with store.scratch() as folder:
        save_picture(check.input[:1], folder / "check_input.png")
        save_picture(outputs[check.name][:1], folder / "check_output.png")
        with atomic_path(folder / "comparison.png") as temporary:
            comparison_sheet(versions(_SIDE)[:_ROWS], zoom=max(1, 4 // scale)).save(temporary, format="PNG")
        pieces: dict[str, dict[str, Artifact]] = {}
        for number, (case, row) in enumerate(zip(shown, versions(_PIECE_SIDE // scale), strict=True)):
            files = pieces.setdefault(case.picture, {})
            for caption, picture in row:
                save_picture(picture, folder / f"{number}_{caption}.png")
                files[caption] = store.put(folder / f"{number}_{caption}.png")
        return Drawn(
            images={
                CHECK_INPUT: store.put(folder / "check_input.png"),
                CHECK_OUTPUT: store.put(folder / "check_output.png"),
                SHEET: store.put(folder / "comparison.png"),
            },
            pieces=pieces,
        )
