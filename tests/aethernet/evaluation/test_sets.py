"""Layouts that standard sets come in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from aethernet.errors import UsageError
from aethernet.evaluation import find_sets
from aethernet.images.files import save_picture
from tests.support.pictures import natural_picture


def laid_out(root: Path, files: Mapping[str, int]) -> Path:
    """Path -> scale: pictures of 8 pixels times scale."""
    for path, scale in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        save_picture(natural_picture(8 * scale, 6 * scale, seed=len(path)).numpy(), root / path)
    return root


LAYOUTS = {
    "HR and LR/x2": {"HR/baby.png": 2, "LR/x2/baby.png": 1, "LR/x3/baby.png": 1},
    "EDSR's": {"HR/baby.png": 2, "LR_bicubic/X2/babyx2.png": 1, "LR_bicubic/X4/babyx4.png": 1},
    "BasicSR's": {"GTmod12/baby.png": 2, "LRbicx2/baby.png": 1, "LRbicx4/baby.png": 1},
    "RCAN's": {"HR/baby_HR_x2.png": 2, "LRBI_x4/baby_LRBI_x4.png": 1, "LR/baby_LRBI_x2.png": 1},
    "DIV2K's": {"DIV2K_valid_HR/baby.png": 2, "DIV2K_valid_LR_bicubic/X2/babyx2.png": 1},
    "SelfExSR's": {"image_SRF_2/baby_SRF_2_HR.png": 2, "image_SRF_2/baby_SRF_2_LR.png": 1},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_recognised(tmp_path: Path, layout: str) -> None:
    files = LAYOUTS[layout]
    root = laid_out(tmp_path / "Set5", files)
    if layout.startswith("SelfExSR"):
        root /= "image_SRF_2"

    (found,) = find_sets(root, None, 2)

    (pair,) = found.pairs
    assert (found.name, pair.name) == ("Set5", "baby")
    assert files[pair.high.relative_to(tmp_path / "Set5").as_posix()] == 2
    assert pair.low is not None
    assert files[pair.low.relative_to(tmp_path / "Set5").as_posix()] == 1
    assert "4" not in pair.low.as_posix().removeprefix(str(tmp_path))
    assert found.kernel.startswith("not stated")


def test_a_folder_of_sets_is_all_of_them(tmp_path: Path) -> None:
    laid_out(tmp_path, {"Set5/HR/a.png": 2, "Set14/HR/b.png": 2, "Set14/LR/x2/b.png": 1, "notes/readme.png": 1})

    found = find_sets(tmp_path, None, 2)

    assert [(one.name, one.kernel, one.pairs[0].low is None) for one in found] == [
        ("Set14", "not stated", False),
        ("Set5", "matlab-bicubic", True),
    ]


def test_low_resolution_pictures_of_other_scales_are_not_taken(tmp_path: Path) -> None:
    root = laid_out(tmp_path / "Set5", {"HR/a.png": 4, "LR_bicubic/X4/ax4.png": 1})

    (found,) = find_sets(root, None, 2)

    assert found.pairs[0].low is None


def test_partners_that_are_named_win(tmp_path: Path) -> None:
    root = laid_out(tmp_path, {"HR/a.png": 2, "LR/x2/a.png": 1, "mine/a.png": 1})

    (found,) = find_sets(root / "HR", root / "mine", 2, "a blur of my own")

    assert found.pairs[0].low == root / "mine" / "a.png"
    assert found.kernel == "a blur of my own"


def test_digest_is_over_contents_and_partners(tmp_path: Path) -> None:
    first = laid_out(tmp_path / "first", {"HR/a.png": 2, "LR/x2/a.png": 1})
    moved = laid_out(tmp_path / "moved", {"HR/a.png": 2})
    (tmp_path / "moved" / "LR" / "x2").mkdir(parents=True)
    (moved / "LR" / "x2" / "ax2.png").write_bytes((first / "LR" / "x2" / "a.png").read_bytes())

    (one,), (same,) = find_sets(first, None, 2), find_sets(moved, None, 2)
    laid_out(first, {"LR/x2/a.png": 2})
    (other,) = find_sets(first, None, 2)
    (alone,) = find_sets(first / "HR", None, 2)

    assert one.digest == same.digest
    assert len({one.digest, other.digest, alone.digest}) == 3


@pytest.mark.parametrize(
    ("files", "kernel", "words"),
    [
        ({"HR/a.png": 2, "HR/b.png": 2, "LR/x2/a.png": 1}, None, "partner for every picture of .*found none for b"),
        ({"HR/a.png": 2, "LR/x2/a.png": 1, "LR_bicubic/X2/a.png": 1}, None, "LR/x2, LR_bicubic/X2"),
        ({"HR/a.png": 2, "GTmod12/a.png": 2}, None, "GTmod12, HR"),
        ({"a.png": 2}, "lanczos", "matlab-bicubic, bicubic, box, dpid, found 'lanczos'"),
        ({"deep/deeper/deepest/a.png": 2}, None, "found neither"),
    ],
)
def test_what_is_not_clear_is_said(tmp_path: Path, files: dict[str, int], kernel: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        find_sets(laid_out(tmp_path, files), None, 2, kernel)


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found nothing"):
        find_sets(tmp_path / "nowhere", None, 2)
