"""An engine that is not whole or does not fit is refused before anything loads it, with the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aethernet.engines.backends import Backend, Gpu
from aethernet.engines.identity import SIDECAR, check_engine, engine_name, read_record
from aethernet.engines.profiles import PROFILE_PRESETS, parse_profile
from aethernet.errors import EngineError, EngineMismatchError
from aethernet.records import canonical_json
from tests.support.engines import RTX_VERSION, install, no_gpu, paper_engine, plug_in_gpu
from tests.support.releases import flip_byte

ADA = "NVIDIA GeForce RTX 4090, 8.9, 580.65.06, 24564, GPU-1"


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path / "packages", "tensorrt-rtx", RTX_VERSION)
    no_gpu(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "engines"


def refusal(engine: Path, kind: type[EngineError] = EngineMismatchError, **options: Path) -> EngineError:
    with pytest.raises(kind) as raised:
        check_engine(engine, **options)
    return raised.value


def test_an_engine_that_fits_is_accepted_and_what_was_not_tried_is_said(folder: Path) -> None:
    checked = check_engine(paper_engine(folder))

    assert checked.record.identity.capabilities == ("8.6", "8.9")
    assert checked.notes == ("there is no GPU here, so whether the engine runs was not tried",)


def test_with_a_gpu_it_was_built_for_nothing_is_left_open(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in_gpu(monkeypatch, tmp_path / "bin", ADA)

    assert check_engine(paper_engine(folder)).notes == ()


def test_one_of_another_onnx_file_is_refused_with_the_command_that_rebuilds_it(folder: Path) -> None:
    engine = paper_engine(folder)
    (folder / "net_fp16.onnx").write_bytes(b"another network")

    error = refusal(engine)

    assert str(error).startswith("expected an engine of net_fp16.onnx with sha256 ")
    assert "found one of net_fp16.onnx with sha256 " in str(error)
    assert "aethernet engine build" in error.hint
    assert "--profile tile --capabilities 8.6,8.9" in error.hint


def test_the_onnx_file_is_also_found_in_the_folder_above(folder: Path) -> None:
    engine = paper_engine(folder)
    (folder / "net_fp16.onnx").rename(folder.parent / "net_fp16.onnx")

    assert len(check_engine(engine).notes) == 1
    (folder.parent / "net_fp16.onnx").write_bytes(b"another network")
    refusal(engine)


def test_without_the_onnx_file_that_is_said(folder: Path) -> None:
    engine = paper_engine(folder)
    (folder / "net_fp16.onnx").unlink()

    assert any("net_fp16.onnx does not lie here" in note for note in check_engine(engine).notes)


def test_a_file_given_by_name_is_the_one_that_counts(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"other")

    assert "other.onnx" in str(refusal(paper_engine(folder), onnx=other))


def test_a_truncated_one_is_refused(folder: Path) -> None:
    engine = paper_engine(folder)
    engine.write_bytes(engine.read_bytes()[:100])

    error = refusal(engine, EngineError)

    assert str(error) == f"expected 260 bytes in {engine.name}, found 100: it is cut off or was replaced"
    assert "aethernet engine build" in error.hint


def test_a_changed_byte_is_found(folder: Path) -> None:
    engine = paper_engine(folder)
    flip_byte(engine)

    assert "found other content" in str(refusal(engine, EngineError))


def test_one_of_another_version_is_refused(folder: Path) -> None:
    error = refusal(paper_engine(folder, version="1.6.0.1"))

    assert str(error) == (f"expected an engine for TensorRT-RTX {RTX_VERSION}, found one for TensorRT-RTX 1.6.0.1")
    assert "build it anew: aethernet engine build" in error.hint


def test_one_for_other_cards_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in_gpu(monkeypatch, tmp_path / "bin", ADA.replace("8.9", "12.0").replace("4090", "5090"))

    assert str(refusal(paper_engine(folder))) == (
        "expected an engine for compute capability 12.0 (NVIDIA GeForce RTX 5090), found one for 8.6, 8.9"
    )


def test_one_tuned_on_another_generation_is_refused_and_on_a_sister_card_noted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in_gpu(monkeypatch, tmp_path / "bin", ADA)
    install(monkeypatch, tmp_path / "more", "tensorrt", "11.2.0")
    tuned = {"backend": Backend.TENSORRT, "version": "11.2.0", "capabilities": None}
    hopper = Gpu(name="NVIDIA H200", capability="9.0", driver="580", memory=2**37)
    sister = Gpu(name="NVIDIA L4", capability="8.9", driver="580", memory=2**34)

    assert "found one for 9.0 (NVIDIA H200)" in str(refusal(paper_engine(folder, gpu=hopper, **tuned)))
    assert "tuned on a NVIDIA L4" in check_engine(paper_engine(folder, gpu=sister, **tuned)).notes[0]


def test_only_tensorrts_own_engines_are_bound_to_the_operating_system(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "more", "tensorrt", "11.2.0")
    elsewhere = {"system": "Windows AMD64"}

    check_engine(paper_engine(folder, **elsewhere))
    tuned = paper_engine(folder, backend=Backend.TENSORRT, version="11.2.0", **elsewhere)
    assert "found one for Windows AMD64" in str(refusal(tuned))


def test_an_engine_without_its_identity_is_refused(folder: Path) -> None:
    engine = paper_engine(folder)
    sidecar = engine.with_name(engine.name + SIDECAR)
    sidecar.unlink()

    assert f"expected the engine's identity in {sidecar.name} beside it" in str(refusal(engine, EngineError))
    assert "expected an engine at" in str(refusal(folder / "none.engine", EngineError))


@pytest.mark.parametrize("content", ["{}", "[", '{"schema_version": 9}'])
def test_an_identity_that_is_not_ours_is_refused(folder: Path, content: str) -> None:
    engine = paper_engine(folder)
    engine.with_name(engine.name + SIDECAR).write_text(content)

    refusal(engine, EngineError)


def test_what_is_written_is_read_back(folder: Path) -> None:
    engine = paper_engine(folder)

    record = read_record(engine)

    assert record.messages[0].count == 2
    assert json.loads(engine.with_name(engine.name + SIDECAR).read_text())["identity"]["backend"] == "tensorrt_rtx"


def test_engines_are_named_after_their_file_shapes_and_cards() -> None:
    profiles = (PROFILE_PRESETS["tile"], parse_profile("1x8x8:1x9x9:2x9x9"))

    assert engine_name("a_int8_trt.onnx", Backend.TENSORRT_RTX, ("7.5",), profiles[:1]) == (
        "a_int8_tile_tensorrt_rtx_sm75.engine"
    )
    assert engine_name("a_fp32.onnx", Backend.TENSORRT, ("8.0", "12.1"), profiles) == (
        "a_fp32_tile_1x8x8-1x9x9-2x9x9_tensorrt_sm80-121.engine"
    )


def test_a_build_s_time_is_not_in_the_record_and_is_read_where_earlier_versions_wrote_it(folder: Path) -> None:
    engine = paper_engine(folder)
    sidecar = engine.with_name(engine.name + SIDECAR)
    content = json.loads(sidecar.read_bytes())
    assert "build_seconds" not in content["identity"]

    content["identity"]["build_seconds"] = 12.5
    sidecar.write_bytes(canonical_json(content))

    assert read_record(engine).identity.build_seconds == 12.5
    assert canonical_json(read_record(engine)) == sidecar.read_bytes()
