"""Draw: the pictures a release carries, for people to look at and for ``verify`` to try the network on."""

from __future__ import annotations

from aethernet.artifact import Artifact, atomic_path
from aethernet.bundle import CHECK_INPUT, CHECK_OUTPUT
from aethernet.comparison import bicubic, build_cases
from aethernet.pictures import load_picture, save_picture
from aethernet.sheet import comparison_sheet, liveliest_window
from tasks._caching import current_store, stage
from tasks.compare import Reference
from tasks.fetch import Picture

__all__ = ["SHEET", "draw"]

SHEET = "images/comparison.png"
_ROWS, _SIDE = 2, 72


@stage()
def draw(reference: Reference, pictures: list[Picture]) -> dict[str, Artifact]:
    """Path in the release -> picture: the check pair, and a sheet of nearest, bicubic, the network, and HR where
    given.
    """
    import numpy as np
    from safetensors.numpy import load_file

    store, scale = current_store(), reference.scale
    outputs = load_file(store.get(reference.outputs))
    low = {picture.name: store.get(picture.low) for picture in pictures}
    cases = build_cases(low, reference.channels, static=reference.static)
    check = next((case for case in cases if case.name.startswith("batch of 2")), cases[0])
    high = {picture.name: picture.high for picture in pictures if picture.high is not None}
    rows = []
    for case in [case for case in cases if case.window is not None][:_ROWS]:
        top, left, height, width = liveliest_window(case.input, _SIDE)
        window = np.s_[:, :, top * scale : (top + height) * scale, left * scale : (left + width) * scale]
        low = case.input[:, :, top : top + height, left : left + width]
        versions = [
            ("nearest", low.repeat(scale, axis=2).repeat(scale, axis=3)),
            ("bicubic", bicubic(case.input, scale)[window]),
            ("this network", outputs[case.name][window]),
        ]
        if case.picture in high and case.window is not None:
            y, x = case.window[0] * scale, case.window[1] * scale
            truth = load_picture(store.get(high[case.picture]), reference.channels)
            versions.append(("original (HR)", truth[:, :, y:, x:][window]))
        rows.append(versions)
    with store.scratch() as folder:
        save_picture(check.input[:1], folder / "check_input.png")
        save_picture(outputs[check.name][:1], folder / "check_output.png")
        with atomic_path(folder / "comparison.png") as temporary:
            comparison_sheet(rows, zoom=max(1, 4 // scale)).save(temporary, format="PNG")
        return {
            CHECK_INPUT: store.put(folder / "check_input.png"),
            CHECK_OUTPUT: store.put(folder / "check_output.png"),
            SHEET: store.put(folder / "comparison.png"),
        }
