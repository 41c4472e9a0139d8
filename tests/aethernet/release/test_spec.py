"""Release specs: strict, helpful, relative to their own file."""

from __future__ import annotations

from pathlib import Path

import pytest

from aethernet.errors import SpecError
from aethernet.precision import Precision
from aethernet.release.spec import make_spec, read_spec

GOOD = 'name = "net_2x"\ncheckpoint = "net.pth"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "release.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_relative_to_the_spec_itself(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, GOOD + 'images = "lr"\nhr = "../hr"\n'))

    assert spec.checkpoint == tmp_path / "net.pth"
    assert spec.images == tmp_path / "lr"
    assert spec.hr == tmp_path / ".." / "hr"


def test_a_folder_stands_for_the_spec_inside_it(tmp_path: Path) -> None:
    write(tmp_path, GOOD)

    assert read_spec(tmp_path).name == "net_2x"


def test_every_form_is_tried_and_only_fp32_required_by_default() -> None:
    spec = make_spec({"name": "a", "checkpoint": "b"})

    assert spec.wanted == tuple(Precision)
    assert spec.required == (Precision.FP32,)


def test_forms_asked_for_are_required_and_fp32_always_is() -> None:
    spec = make_spec({"name": "a", "checkpoint": "b", "precisions": ["fp16"]})

    assert spec.wanted == spec.required == (Precision.FP32, Precision.FP16)


def test_ncnn_files_are_made_in_fp16_unless_the_spec_says_otherwise() -> None:
    plain = make_spec({"name": "a", "checkpoint": "b"}).ncnn
    said = make_spec({"name": "a", "checkpoint": "b", "ncnn": {"weights": "fp32"}}).ncnn

    assert (plain.include, plain.weights, said.weights) == (True, "fp16", "fp32")
    assert not make_spec({"name": "a", "checkpoint": "b", "ncnn": {"include": False}}).ncnn.include
    with pytest.raises(SpecError, match=r"'ncnn\.weights'"):
        make_spec({"name": "a", "checkpoint": "b", "ncnn": {"weights": "int8"}})
    with pytest.raises(SpecError, match="did you mean 'include'"):
        make_spec({"name": "a", "checkpoint": "b", "ncnn": {"included": False}})


def test_limits_override_field_by_field() -> None:
    spec = make_spec({"name": "a", "checkpoint": "b", "limits": {"fp16": {"min_psnr": 70}}})

    assert spec.limits_of(Precision.FP16).min_psnr == 70
    assert spec.limits_of(Precision.FP16).max_level == 2
    assert spec.limits_of(Precision.FP32).min_psnr == 80


def test_engines_are_tried_for_every_form_with_one_profile_by_default() -> None:
    spec = make_spec({"name": "a", "checkpoint": "b"}).engines

    assert (spec.backends, spec.precisions, spec.capabilities) == (None, None, None)
    assert [profile.name for profile in spec.parsed_profiles] == ["tile"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD + 'licence = "MIT"\n', "unknown key 'licence' (did you mean 'license'?)"),
        (GOOD + "[export]\nopsett = 17\n", "unknown key 'export.opsett' (did you mean 'opset'?)"),
        (GOOD + "[limits.fp32]\nmin_psn = 17\n", "unknown key 'limits.fp32.min_psn' (did you mean 'min_psnr'?)"),
        (GOOD + "zzz = 1\n", "unknown key 'zzz' (known: name, version"),
        ('checkpoint = "net.pth"\n', "'name' is missing"),
        (GOOD + 'version = "1"\n', "a semantic version such as 1.0.0, found '1'"),
        ('name = "../up"\ncheckpoint = "a"\n', "found '../up'"),
        ('name = ""\ncheckpoint = "a"\n', "found ''"),
        ('name = "CON"\ncheckpoint = "a"\n', "can have on Windows"),
        ('name = "lpt1.x"\ncheckpoint = "a"\n', "can have on Windows"),
        ('name = "net."\ncheckpoint = "a"\n', "can have on Windows"),
        (GOOD + 'precisions = ["fp31"]\n', "found 'fp31'"),
        (GOOD + "[export]\nopset = 16\n", "greater than or equal to 17, found 16"),
        (GOOD + "[limits.fp32]\nmin_psnr = -1\n", "greater than 0, found -1"),
        (GOOD + "[engines]\nprofile = 1\n", "unknown key 'engines.profile' (did you mean 'profiles'?)"),
        (GOOD + '[engines]\nprofiles = ["tiles"]\n', "expected a profile (image, tile, video_720p, video_1080p)"),
        (GOOD + '[engines]\ncapabilities = ["ada"]\n', "expected compute capabilities such as 8.9"),
        (GOOD + '[engines]\nbackends = ["openvino"]\n', "found 'openvino'"),
        (
            GOOD + '[web]\npage = "javascript:alert(1)"\n',
            "owner/name on the Hub, or an address that begins with https://",
        ),
        ("name = [", "is not TOML"),
    ],
)
def test_mistakes_are_named_with_what_was_expected(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_spec(write(tmp_path, text))

    assert told in str(caught.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read_spec(write(tmp_path, GOOD + 'version = "1"\nlicence = "MIT"\n'))

    assert "version" in str(caught.value)
    assert "licence" in str(caught.value)


def test_names_that_only_begin_like_a_device_are_names() -> None:
    assert make_spec({"name": "console_2x", "checkpoint": "b"}).name == "console_2x"


def test_a_spec_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"release\.toml, found nothing"):
        read_spec(tmp_path / "release.toml")


def test_the_shipped_specs_are_valid() -> None:
    releases = Path(__file__).resolve().parents[3] / "releases"

    specs = [read_spec(path) for path in sorted(releases.glob("*/release.toml"))]

    assert specs
    assert all(spec.checkpoint.is_file() for spec in specs)
