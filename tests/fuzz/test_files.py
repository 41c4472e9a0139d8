"""Bent image files and wrappers of checkpoints, for a few seconds; ``python -m tests.fuzz.files`` runs for longer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fuzz import files


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "rounds"), [("metadata", 40), ("damage", 150), ("wrappers", 300)])
def test_nothing_bent_gives_a_wrong_result_or_a_defect(tmp_path: Path, name: str, rounds: int) -> None:
    for seed in range(rounds):
        try:
            files.ROUNDS[name](np.random.default_rng(seed), tmp_path)
        except BaseException as error:
            raise AssertionError(f"python -m tests.fuzz.files {name} --seed {seed}") from error


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_rounds_notice_pixels_that_are_not_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.ImageOps, "exif_transpose", lambda image: image.transpose(Image.Transpose.ROTATE_180))

    with pytest.raises(AssertionError, match="other pixels"):
        _run("metadata", 5, tmp_path)


def test_the_rounds_notice_tensors_of_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_again", lambda content, state, averaged: dict(content))  # not averaged at all

    with pytest.raises(AssertionError, match="other tensors"):
        _run("wrappers", 60, tmp_path)


def _run(name: str, rounds: int, folder: Path) -> None:
    for seed in range(rounds):
        files.ROUNDS[name](np.random.default_rng(seed), folder)
