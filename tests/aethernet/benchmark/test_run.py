"""Forms in processes of their own: what is compared, in which order, and what becomes of those that fail."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from aethernet.benchmark.process import RuntimeLibrary, VariantProcess
from aethernet.benchmark.run import (
    BenchmarkResult,
    Candidate,
    CandidateResult,
    Floor,
    _affordable,
    entries_of,
    run_benchmark,
    third_party_candidate,
)
from aethernet.errors import BenchmarkError, UsageError
from aethernet.precision import Precision
from aethernet.release.bundle import open_bundle
from tests.support.images import natural_image

IMAGES = [natural_image(16, 12).numpy(), natural_image(8, 8).numpy()]


def third_party_file(path: Path, side: int | None = None) -> Path:
    """Somebody else's ONNX file: other names, four times as large, of any size or of one."""
    before = [1, 3, side or "height", side or "width"]
    after = [1, 3, side * 4 if side else "out_height", side * 4 if side else "out_width"]
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 4, 4], np.float32), "scales")
    graph = helper.make_graph(
        [helper.make_node("Resize", ["pixels", "", "scales"], ["enlarged"], mode="nearest")],
        "foreign",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, before)],
        [helper.make_tensor_value_info("enlarged", TensorProto.FLOAT, after)],
        [scales],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def entries(finished_release: Path) -> dict[str, Candidate]:
    return {entry.name: entry for entry in entries_of(open_bundle(finished_release))}


def test_a_release_s_forms_are_all_there_and_the_training_form_is_first(entries: dict[str, Candidate]) -> None:
    assert [(name, entry.engine.value, entry.path.name) for name, entry in entries.items()][:5] == [
        ("torch-unfused", "pytorch", "tiny_2x_notfused.safetensors"),
        ("torch-fused", "pytorch", "tiny_2x_fp32.safetensors"),
        ("fp32", "onnxruntime", "tiny_2x_fp32.onnx"),
        ("fp16", "onnxruntime", "tiny_2x_fp16.onnx"),
        ("openvino-fp32", "openvino", "tiny_2x_fp32.onnx"),
    ]


@pytest.mark.skipif(importlib.util.find_spec("ncnn") is None, reason="needs ncnn: the extra 'ncnn'")
def test_ncnn_files_join_and_so_do_those_put_beside(entries: dict[str, Candidate]) -> None:
    own = entries["ncnn"]
    beside = third_party_candidate(own.path, entries)

    done = run_benchmark([own, beside], IMAGES, runs=1, threads=1)

    assert (own.engine.value, own.path.name) == ("ncnn", "tiny_2x_ncnn.param")
    assert (done.skipped, [one.runtime for _, results in done.sizes for one in results]) == ((), ["ncnn-cpu"] * 4)


@pytest.mark.skipif(importlib.util.find_spec("ncnn") is None, reason="needs ncnn: the extra 'ncnn'")
def test_without_ncnn_its_files_are_skipped_with_the_reason(
    entries: dict[str, Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ncnn" else find(name))

    done = run_benchmark([entries["ncnn"]], [])

    assert done.skipped == (("ncnn", "cannot run here: ncnn is not installed"),)


def test_int8_joins_in_pytorch_onnx_runtime_and_openvino_but_not_tensorrt_s_file(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)
    files = [entry for entry in bundle.manifest.files if entry.precision is not Precision.INT8]
    for path, role in (("a_int8.onnx", "onnx"), ("a_int8_trt.onnx", "onnx"), ("a_int8.safetensors", "weights")):
        change = {"path": path, "role": role, "precision": Precision.INT8, "form": "fused"}
        files.append(files[0].model_copy(update=change))
    manifest = bundle.manifest.model_copy(update={"files": tuple(files)})

    found = [entry.name for entry in entries_of(dataclasses.replace(bundle, manifest=manifest))]

    assert found == [
        *("torch-unfused", "torch-fused", "torch-int8"),
        *("fp32", "fp16", "int8"),
        *("openvino-fp32", "openvino-int8"),
        *(["ncnn"] if importlib.util.find_spec("ncnn") else []),
    ]


def test_a_foreign_file_gets_a_name_of_its_own(tmp_path: Path) -> None:
    file = third_party_file(tmp_path / "fp32.onnx")

    first, second = (third_party_candidate(file, taken) for taken in (["fp32"], ["fp32", "fp32-2"]))

    assert (first.name, first.engine, first.required) == ("fp32-2", RuntimeLibrary.ONNXRUNTIME, True)
    assert second.name == "fp32-3"


def test_a_foreign_file_that_is_none_is_misuse(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("text")

    with pytest.raises(UsageError, match="found nothing"):
        third_party_candidate(tmp_path / "nowhere.onnx", [])
    with pytest.raises(UsageError, match=r"found text\.txt"):
        third_party_candidate(tmp_path / "text.txt", [])


# --- a whole benchmark ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held(entries: dict[str, Candidate], tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchmarkResult, list[str]]:
    """A benchmark of four, one of them foreign, one broken; and who ran when."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "broken.onnx").write_bytes(b"not a model")
    chosen = [
        entries["torch-unfused"],
        entries["fp32"],
        Candidate(name="broken", path=folder / "broken.onnx", engine=RuntimeLibrary.ONNXRUNTIME),
        third_party_candidate(third_party_file(folder / "other.onnx"), entries),
    ]
    record: list[str] = []
    run = VariantProcess.run

    def recorded(process: VariantProcess) -> float:
        record.append(process.loaded.runtime + f" {id(process)}")
        return run(process)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VariantProcess, "run", recorded)
        benchmark = run_benchmark(chosen, IMAGES, runs=3, threads=1)
    return benchmark, record


def test_every_form_is_measured_at_every_size(held: tuple[BenchmarkResult, list[str]]) -> None:
    benchmark, _ = held

    assert [shape for shape, _ in benchmark.sizes] == [(1, 3, 16, 12), (1, 3, 8, 8)]
    for shape, results in benchmark.sizes:
        assert [one.name for one in results] == ["torch-unfused", "fp32", "other"]
        assert [one.runtime for one in results] == ["pytorch-cpu", "onnxruntime-cpu", "onnxruntime-cpu"]
        for one in results:
            assert 0 < one.fastest_ms <= one.median_ms <= one.slowest_ms
            assert min(one.first_ms, one.load_ms) > 0
            assert one.megapixels_per_second == pytest.approx(shape[2] * shape[3] / one.median_ms / 1000)
    assert (benchmark.runs, benchmark.threads) == (3, 1)


def test_forms_take_turns(held: tuple[BenchmarkResult, list[str]]) -> None:
    _, record = held
    once = record[:3]

    assert len(set(once)) == 3
    assert record == once * 8  # two sizes, each with one turn that is not counted and three that are


def test_one_that_cannot_be_loaded_is_named_and_the_others_go_on(held: tuple[BenchmarkResult, list[str]]) -> None:
    ((name, reason),) = held[0].skipped

    assert name == "broken"
    assert "cannot load broken.onnx" in reason


def test_memory_is_that_of_one_form_alone(held: tuple[BenchmarkResult, list[str]]) -> None:
    results = {one.name: one for one in held[0].sizes[0][1]}
    if results["fp32"].network_memory_mb is None:
        pytest.skip("this system does not say how much memory a process holds")

    for one in results.values():
        assert one.peak_memory_mb is not None
        assert one.network_memory_mb is not None
        assert 0 < one.network_memory_mb < one.peak_memory_mb
    # PyTorch alone takes hundreds of megabytes; neither it nor this process counts for ONNX Runtime's.
    assert results["fp32"].peak_memory_mb < results["torch-unfused"].peak_memory_mb


def test_a_file_asked_for_that_cannot_take_the_size_is_an_error_which_says_so(tmp_path: Path) -> None:
    fixed = third_party_candidate(third_party_file(tmp_path / "fixed.onnx", side=8), [])

    with pytest.raises(BenchmarkError, match=r"fixed\.onnx cannot run here at 16x12"):
        run_benchmark([fixed], IMAGES[:1], runs=1, threads=1)


def test_one_of_our_own_that_cannot_take_a_size_is_left_out_there_alone(tmp_path: Path) -> None:
    fixed = Candidate(
        name="fixed", path=third_party_file(tmp_path / "a.onnx", side=8), engine=RuntimeLibrary.ONNXRUNTIME
    )

    benchmark = run_benchmark([fixed], IMAGES, runs=1, threads=1)

    assert [[one.name for one in results] for _, results in benchmark.sizes] == [[], ["fixed"]]
    assert [name for name, _ in benchmark.skipped] == ["fixed"]
    assert "at 16x12" in benchmark.skipped[0][1]


def test_a_process_that_dies_is_an_error_not_a_hang(tmp_path: Path) -> None:
    with VariantProcess(third_party_file(tmp_path / "a.onnx"), RuntimeLibrary.ONNXRUNTIME, 1) as process:
        process.show(IMAGES[0])
        assert process.run() > 0
        process._child._process.kill()
        process._child._process.join()

        with pytest.raises(BenchmarkError, match="its process"):
            process.run()


@pytest.mark.slow
def test_a_network_of_another_kind_runs_where_spandrel_knows_it(tmp_path: Path) -> None:
    pytest.importorskip("spandrel")
    compact = importlib.import_module("spandrel.architectures.Compact.__arch.SRVGG").SRVGGNetCompact
    network = compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=2, act_type="prelu")
    torch.save(network.state_dict(), tmp_path / "compact.pth")

    benchmark = run_benchmark([third_party_candidate(tmp_path / "compact.pth", [])], IMAGES[:1], runs=1, threads=1)

    ((_, (result,)),) = benchmark.sizes
    assert (result.name, result.runtime) == ("compact", "pytorch-cpu")


# --- floors ----------------------------------------------------------------------------------------------------------


def result(name: str, milliseconds: float) -> CandidateResult:
    return CandidateResult(
        name=name,
        file=name,
        precision=None,
        runtime="none",
        runs=1,
        median_ms=milliseconds,
        fastest_ms=milliseconds,
        slowest_ms=milliseconds,
        first_ms=milliseconds,
        megapixels_per_second=1.0,
        load_ms=1.0,
        peak_memory_mb=None,
        network_memory_mb=None,
    )


def benchmark_of(*sizes: dict[str, float]) -> BenchmarkResult:
    results = [tuple(result(name, taken) for name, taken in one.items()) for one in sizes]
    return BenchmarkResult(
        sizes=tuple(((1, 3, 8, 8), one) for one in results), skipped=(), runs=1, threads=1, seconds=None
    )


def test_a_floor_holds_only_where_it_is_reached_at_every_size() -> None:
    floor = Floor.parse("int8/fp32=1.5", ["int8", "fp32"])
    fast, slow = {"int8": 10, "fp32": 20}, {"int8": 10, "fp32": 14}

    assert floor.ratios(benchmark_of(fast, slow)) == pytest.approx([2, 1.4])
    assert floor.holds(benchmark_of(fast, fast))
    assert floor.holds(benchmark_of({"int8": 10, "fp32": 15}))
    assert not floor.holds(benchmark_of(fast, slow))


def test_a_floor_for_a_form_that_did_not_run_does_not_hold() -> None:
    floor = Floor.parse("int8/fp32=1", ["int8", "fp32"])

    assert floor.ratios(benchmark_of({"fp32": 10})) == [None]
    assert not floor.holds(benchmark_of({"fp32": 10}))


@pytest.mark.parametrize("text", ["int8", "int8/fp32", "int8=2", "int8/fp32=fast", "int9/fp32=1.5"])
def test_a_floor_that_cannot_be_read_is_misuse(text: str) -> None:
    with pytest.raises(UsageError, match="floor"):
        Floor.parse(text, ["int8", "fp32"])


# --- bounded time ----------------------------------------------------------------------------------------------------


def entry(name: str, *, required: bool = False) -> Candidate:
    return Candidate(name=name, path=Path(f"{name}.onnx"), engine=RuntimeLibrary.ONNXRUNTIME, required=required)


FIRST = {"torch-unfused": 30_000.0, "fp32": 2_000.0, "int8": 1_000.0, "other": 4_000.0}


@pytest.mark.parametrize(
    ("seconds", "runs", "left_out"),
    [
        (None, 7, []),
        (1000, 7, []),
        (150, 4, []),  # a turn of all takes 37 s
        (111, 3, []),
        (110, 7, ["torch-unfused"]),
        (36, 5, ["torch-unfused"]),
        (19, 3, ["torch-unfused", "int8"]),  # what was asked for stays, and so does fp32
        (1, 3, ["torch-unfused", "int8"]),
    ],
)
def test_where_time_is_short_there_are_fewer_runs_then_fewer_forms(
    seconds: float | None, runs: int, left_out: list[str]
) -> None:
    entries = [entry("torch-unfused"), entry("fp32"), entry("int8"), entry("other", required=True)]

    fitting, slow = _affordable(entries, FIRST, 7, seconds)

    assert (fitting, [one.name for one in slow]) == (runs, left_out)


@pytest.mark.slow
def test_a_contest_keeps_to_its_time_and_says_what_it_left_out(
    entries: dict[str, Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One form answers as slowly as a large network on a busy machine does."""
    run = VariantProcess.run

    def slowly(process: VariantProcess) -> float:
        return 60_000.0 if process.loaded.runtime == "pytorch-cpu" else run(process)

    monkeypatch.setattr(VariantProcess, "run", slowly)
    told: list[str] = []

    benchmark = run_benchmark(
        [entries["torch-unfused"], entries["fp32"]], IMAGES[:1], runs=5, threads=1, seconds=60, progress=told.append
    )

    ((_, results),) = benchmark.sizes
    assert [(one.name, one.runs) for one in results] == [("fp32", 5)]
    ((name, reason),) = benchmark.skipped
    assert name == "torch-unfused"
    assert "one run takes 60.0 s" in reason
    assert any(words.startswith("5 runs of each at 16x12, about 0 s") for words in told)
