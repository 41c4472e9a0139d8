"""Profiles are data, and are held against the file before anything is built."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from aethernet.engines.profiles import PROFILE_PRESETS, Profile, check_profiles, parse_profile
from aethernet.errors import EngineError, UsageError
from aethernet.export import describe_onnx
from tests.support.engines import small_model


def test_the_presets_are_what_they_are_called() -> None:
    assert (PROFILE_PRESETS["image"].minimum, PROFILE_PRESETS["image"].optimum, PROFILE_PRESETS["image"].maximum) == (
        (1, 32, 32),
        (1, 256, 256),
        (16, 1080, 1920),
    )
    assert (
        PROFILE_PRESETS["tile"].minimum[1],
        PROFILE_PRESETS["tile"].optimum[1],
        PROFILE_PRESETS["tile"].maximum[1],
    ) == (16, 512, 640)
    assert PROFILE_PRESETS["video_720p"].minimum == PROFILE_PRESETS["video_720p"].maximum == (1, 720, 1280)
    assert PROFILE_PRESETS["video_1080p"].fixed
    assert not PROFILE_PRESETS["tile"].fixed


def test_a_profile_is_a_preset_one_shape_or_three() -> None:
    assert parse_profile("tile") is PROFILE_PRESETS["tile"]
    assert parse_profile("1x480x640").fixed
    free = parse_profile("1x32x32:2x64x48:4x128x96")
    assert (free.minimum, free.optimum, free.maximum) == ((1, 32, 32), (2, 64, 48), (4, 128, 96))


@pytest.mark.parametrize("text", ["tiles", "1x2", "1x2x3:4x5x6", "1x8x8:1x4x4:1x9x9", "0x8x8", "1x8x8:", "1x8x99999"])
def test_anything_else_is_refused_with_what_is_known(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_profile(text)


def test_a_profile_knows_what_it_holds() -> None:
    tile = PROFILE_PRESETS["tile"]

    assert tile.holds((1, 16, 640))
    assert not tile.holds((1, 15, 640))
    assert not tile.holds((2, 16, 640))


def test_a_file_with_free_axes_takes_every_profile(tmp_path: Path) -> None:
    check_profiles(describe_onnx(onnx.load(small_model(tmp_path / "net.onnx"))), list(PROFILE_PRESETS.values()))


def test_a_file_of_one_size_takes_that_size_only(tmp_path: Path) -> None:
    model = onnx.load(small_model(tmp_path / "net.onnx"))
    for axis, size in zip((0, 2, 3), (1, 720, 1280), strict=True):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size

    check_profiles(describe_onnx(model), [PROFILE_PRESETS["video_720p"]])
    with pytest.raises(EngineError, match=r"one size that the ONNX file takes \(H = 720\), found tile with H from 16"):
        check_profiles(describe_onnx(model), [PROFILE_PRESETS["tile"]])


def test_a_file_that_is_not_ours_is_refused_by_its_contract(tmp_path: Path) -> None:
    model = onnx.load(small_model(tmp_path / "net.onnx"))
    model.graph.input[0].name = "x"

    with pytest.raises(EngineError, match="one input 'input'"):
        check_profiles(describe_onnx(model), [PROFILE_PRESETS["tile"]])


def test_no_profile_or_one_twice_is_misuse(tmp_path: Path) -> None:
    model = onnx.load(small_model(tmp_path / "net.onnx"))

    for profiles in ([], [PROFILE_PRESETS["tile"], PROFILE_PRESETS["tile"]]):
        with pytest.raises(UsageError):
            check_profiles(describe_onnx(model), profiles)


def test_sides_must_grow() -> None:
    with pytest.raises(ValueError, match="min <= opt"):
        Profile(name="x", minimum=(1, 9, 9), optimum=(1, 8, 8), maximum=(1, 9, 9))
