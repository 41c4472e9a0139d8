"""What is said about a file without PyTorch is what PyTorch's way says, or nothing; and no file can misuse it."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import pickle
import pickletools
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from aethernet.checkpoint import header, load, save_pth, save_safetensors
from aethernet.checkpoint.header import read_facts
from aethernet.checkpoint.pickled import Doubt, read_torch_zip
from aethernet.checkpoint.saving import config_metadata
from aethernet.cli.inspection import inspect_path
from aethernet.errors import AethernetError
from aethernet.networks import FoldState, NetworkConfig, Norm, build_network
from aethernet.networks.fusion import fuse, merge_kernels
from tests.support.networks import (
    FILES,
    ONE_OF_EACH_GENERATION,
    SELECTED_CONFIGS,
    WRAPPERS,
    tiny_config,
    tiny_network,
)

each_generation = pytest.mark.parametrize("config", ONE_OF_EACH_GENERATION.values(), ids=ONE_OF_EACH_GENERATION.keys())


def by_pytorch(path: Path, weights: str | None = None) -> str:
    """What ``info --json`` prints where PyTorch reads the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(header, "read_facts", lambda *_: None)
        return json.dumps(inspect_path(path, weights))


def without_pytorch(path: Path, weights: str | None = None) -> str:
    """What it prints where PyTorch must not be asked."""
    assert read_facts(path, weights) is not None, "expected an answer, found none"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aethernet.cli.inspection._loaded_facts", None)
        return json.dumps(inspect_path(path, weights))


def written(folder: Path, content: Mapping[str, Any], kind: str = "zip.pth") -> Path:
    """The path of a new file."""
    path = folder / kind
    FILES[kind](content, path)
    return path


def saved(content: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


# --- the same answer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FoldState)
@pytest.mark.parametrize("config", SELECTED_CONFIGS.values(), ids=SELECTED_CONFIGS.keys())
def test_every_network_in_every_form_is_described_alike(tmp_path: Path, config: NetworkConfig, form: FoldState) -> None:
    network = build_network(config, form)
    # Files and networks are independent of each other: one kind of file for each form will do.
    match form:
        case FoldState.TRAINING:
            path = written(tmp_path, network.state_dict())
        case FoldState.MERGED:
            path = save_safetensors(network, tmp_path / "own.safetensors")
        case FoldState.FUSED:
            path = save_pth(network, tmp_path / "own.pth")

    assert without_pytorch(path) == by_pytorch(path)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_every_wrapper_is_taken_off_alike(tmp_path: Path, wrap: Any) -> None:
    path = written(tmp_path, wrap(build_network(tiny_config(3)).state_dict()))

    assert without_pytorch(path) == by_pytorch(path)


WILD: dict[str, Any] = {
    "parameters, not tensors": lambda state: {
        name: torch.nn.Parameter(one) if one.is_floating_point() else one for name, one in state.items()
    },
    "compiled and parallel": lambda state: {f"module._orig_mod.{name}": one for name, one in state.items()},
    "averaged, with a counter": lambda state: {
        "n_averaged": torch.tensor(3),
        **{f"module.{name}": one for name, one in state.items()},
    },
    "one prefix per network": lambda state: {
        **{f"generator.{name}": one for name, one in state.items()},
        **{f"generator_ema.{name}": one for name, one in state.items()},
    },
    "a trainer's whole state": lambda state: {
        "state_dict": {f"net.{name}": one for name, one in state.items()},
        "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}],
        "hyper_parameters": {"scale": 2, "img_range": 1.0, "name": "net", "betas": (0.9, 0.99), "none": None},
        "epoch": 3,
    },
    "an ordered dictionary with versions": lambda state: _with_versions(state),
    "numbers in another order": lambda state: {
        name: one.to(memory_format=torch.channels_last) if one.ndim == 4 else one for name, one in state.items()
    },
    "pieces of one large tensor": lambda state: _in_one_buffer(state),
    "large numbers and texts": lambda state: {"params": dict(state), "step": 1 << 40, "ratio": -0.5, "who": "Ä"},
    "sizes that are written": lambda state: {"params": dict(state), "arch_config": {"depths": [1, 2], "img_range": 2}},
}
"""name -> more of what trainers do to a state dict."""


def _with_versions(state: Mapping[str, Any]) -> Any:
    found: Any = OrderedDict(state)
    found._metadata = OrderedDict({"": {"version": 1}})
    return found


def _in_one_buffer(state: Mapping[str, Any]) -> dict[str, Any]:
    floats = {name: one for name, one in state.items() if one.is_floating_point()}
    parts = torch.cat([one.reshape(-1) for one in floats.values()]).split([one.numel() for one in floats.values()])
    return {**state, **{name: part.view(state[name].shape) for name, part in zip(floats, parts, strict=True)}}


@pytest.mark.parametrize("wrap", WILD.values(), ids=WILD.keys())
def test_what_trainers_do_to_a_file_changes_no_word(tmp_path: Path, wrap: Any) -> None:
    (tmp_path / "net.pth").write_bytes(saved(wrap(build_network(tiny_config(2)).state_dict())))

    assert without_pytorch(tmp_path / "net.pth") == by_pytorch(tmp_path / "net.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["zip.pth", "bare.safetensors"])
@each_generation
def test_every_precision_is_described_alike(
    tmp_path: Path, config: NetworkConfig, kind: str, dtype: torch.dtype
) -> None:
    state = {name: one.to(dtype) if one.ndim else one for name, one in build_network(config).state_dict().items()}
    path = written(tmp_path, state, kind)

    assert without_pytorch(path) == by_pytorch(path)
    assert str(dtype).removeprefix("torch.") in without_pytorch(path)


def test_notes_are_said_as_loading_says_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, build_network(tiny_config(3)).state_dict())

    read_facts(path)
    described = [record.getMessage() for record in caplog.records]
    caplog.clear()
    load(path)

    assert described == [record.getMessage() for record in caplog.records] != []


def test_a_network_of_several_is_chosen_alike(tmp_path: Path) -> None:
    small, large = (build_network(tiny_config(2, embed_dim=width)).state_dict() for width in (16, 24))
    path = written(tmp_path, {"small": dict(small), "large": dict(large)})

    assert without_pytorch(path, "large") == by_pytorch(path, "large") != by_pytorch(path, "small")
    assert read_facts(path) is None


@pytest.mark.parametrize("generation", [2, 3])
def test_statistics_left_beside_merged_kernels_are_set_aside_alike(tmp_path: Path, generation: int) -> None:
    network = tiny_network(generation)
    left = {name: one for name, one in network.state_dict().items() if "running" in name}
    path = written(tmp_path, {**merge_kernels(network).state_dict(), **left})

    assert without_pytorch(path) == by_pytorch(path)


def test_records_of_quantised_training_are_counted_alike(tmp_path: Path) -> None:
    state = merge_kernels(tiny_network(3)).state_dict() | {
        "conv_first.activation_post_process.scale": torch.ones(1),
        "conv_first.activation_post_process.fake_quant_enabled": torch.ones(1, dtype=torch.uint8),
        "conv_first.weight_fake_quant.min_val": torch.tensor([]),
    }
    path = written(tmp_path, state)

    assert without_pytorch(path) == by_pytorch(path)
    assert json.loads(without_pytorch(path))["quantization_records"] == 3


def test_published_checkpoints_are_described_alike(shared_data: Path) -> None:
    files = [*shared_data.glob("parity/*.pth"), *shared_data.glob("aether_*/*.pth"), *shared_data.glob("turn2/a*.pth")]

    for path in files:
        if "packed_int8" in path.name:
            assert read_facts(path) is None
        else:
            assert without_pytorch(path) == by_pytorch(path), path.name


# --- no answer -------------------------------------------------------------------------------------------------------


def _changed(change: Any, generation: int = 2, form: Any = dict) -> Any:
    def make() -> dict[str, Any]:
        network = tiny_network(generation)
        state = dict((network if form is dict else form(network)).state_dict())
        change(state)
        return state

    return make


def _number(value: float, dtype: torch.dtype) -> Any:
    def change(state: dict[str, Any]) -> None:
        state["conv_last.weight"] = state["conv_last.weight"].to(dtype).clone()
        state["conv_last.weight"][0, 0, 0, 0] = value

    return _changed(change)


NO_ANSWER: dict[str, Any] = {
    "a tensor missing": _changed(lambda state: state.pop("conv_after_body.bias")),
    "a tensor too many": _changed(lambda state: state.update(extra=torch.ones(2))),
    "another shape": _changed(lambda state: state.update({"conv_after_body.bias": torch.ones(3)})),
    "integers for weights": _changed(lambda state: state.update({"norm.bias": torch.ones(1, 16, 1, 1).int()})),
    "int8 for weights": _changed(lambda state: state.update({"norm.bias": torch.ones(1, 16, 1, 1).to(torch.int8)})),
    "another scale in the buffer": _changed(lambda state: state.update(scale=torch.tensor(4))),
    "several scales in the buffer": _changed(lambda state: state.update(scale=torch.tensor([2, 2]))),
    "no number": _number(float("nan"), torch.float32),
    "an infinite number": _number(float("-inf"), torch.float32),
    "no number in half precision": _number(float("nan"), torch.float16),
    "an infinite bfloat16": _number(float("inf"), torch.bfloat16),
    "no bfloat16": _number(float("nan"), torch.bfloat16),
    "too large for float32": _number(1e300, torch.float64),
    "half fused": _changed(lambda state: state.update({"stages.1.0.conv.fused_conv.weight": torch.ones(16, 1, 7, 7)})),
    "statistics of another shape": _changed(
        lambda state: state.update({"norm.running_var": torch.ones(16), "norm.running_mean": torch.ones(16)}),
        3,
        merge_kernels,
    ),
    "statistics of nothing": _changed(
        lambda state: state.update({"conv_last.running_var": torch.ones(1)}), 3, merge_kernels
    ),
    "another network beside it": lambda: {"a": dict(tiny_network(2).state_dict()), "b": {"x.weight": torch.ones(2, 2)}},
    "a sparse tensor": _changed(lambda state: state.update({"norm.bias": torch.ones(1, 16, 1, 1).to_sparse()})),
    "every other number": _changed(lambda state: state.update({"norm.bias": torch.ones(1, 32, 1, 1)[:, ::2]})),
    "one number repeated": _changed(lambda state: state.update({"norm.bias": torch.ones(1).expand(1, 16, 1, 1)})),
    "a wrong setting": lambda: {"params": dict(tiny_network(2).state_dict()), "arch_config": {"embed_dim": 17}},
    "other tensors": lambda: {"body.0.weight": torch.ones(3, 3)},
    "no tensors": lambda: {"epoch": 3},
    "a list": lambda: [torch.ones(2)],
    "many blocks that are not there": _changed(
        lambda state: state.update({f"stages.{at}.9999.x": torch.ones(1) for at in range(300)})
    ),
}  # fmt: skip


def ended(path: Path) -> str:
    """How ``info`` ends, in one line."""
    try:
        return json.dumps(inspect_path(path))
    except AethernetError as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("make", NO_ANSWER.values(), ids=NO_ANSWER.keys())
def test_what_loading_refuses_or_reads_otherwise_gets_no_answer(tmp_path: Path, make: Any) -> None:
    (tmp_path / "net.pth").write_bytes(saved(make()))

    assert read_facts(tmp_path / "net.pth") is None
    assert ended(tmp_path / "net.pth")  # as today: an answer of PyTorch's, or a clear error


@pytest.mark.parametrize("kind", ["no network", "another form", "no json", "another width", "int8 beside it"])
def test_metadata_that_does_not_fit_gets_no_answer(tmp_path: Path, kind: str) -> None:
    network = tiny_network(2)
    metadata = config_metadata(network)
    described = json.loads(metadata["aethernet"])
    if kind == "another form":
        described["form"] = "fused"
    elif kind == "another width":
        described["network"]["embed_dim"] = 17
    elif kind == "int8 beside it":
        described["quantized"] = {}
    text = {"no network": "{}", "no json": "{"}.get(kind, json.dumps(described))
    save_file(dict(network.state_dict()), tmp_path / "good.safetensors", metadata)
    save_file(dict(network.state_dict()), tmp_path / "net.safetensors", {"aethernet": text})

    assert read_facts(tmp_path / "good.safetensors") is not None
    assert read_facts(tmp_path / "net.safetensors") is None


@pytest.mark.parametrize("what", ["nothing", "a folder", "an empty file", "a text", "legacy", "an int8 network"])
def test_other_files_get_no_answer(tmp_path: Path, what: str) -> None:
    path = tmp_path / "net.pth"
    if what == "a folder":
        path.mkdir()
    elif what == "legacy":
        path = written(tmp_path, tiny_network(2).state_dict(), "legacy.pth")
    elif what == "an int8 network":
        state = {name: one.half() for name, one in fuse(tiny_network(2)).state_dict().items()}
        state["conv_last.weight"] = torch.ones(state["conv_last.weight"].shape, dtype=torch.int8)
        path = written(tmp_path, state | {"conv_last.weight_scale": torch.ones(3)}, "bare.safetensors")
    elif what != "nothing":
        path.write_bytes(b"" if what == "an empty file" else b"PK\x03\x04 is how this text begins")

    assert read_facts(path) is None


# --- files that mean harm --------------------------------------------------------------------------------------------


def archive(program: bytes, records: Mapping[str, bytes] | None = None) -> bytes:
    """A PyTorch file with this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("net/data.pkl", program)
        made.writestr("net/version", "3\n")
        for name, content in {"data/0": bytes(64), **(records or {})}.items():
            made.writestr(f"net/{name}", content)
    return buffer.getvalue()


def _tensor(shape: str, strides: str, *, offset: str = "K\x00", count: str = "K\x10", key: str = "0") -> bytes:
    """A pickle of one tensor by name; numbers and tuples as their opcodes."""
    text = (
        "\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
        f"X{chr(len(key))}\0\0\0{key}X\x03\0\0\0cpu{count}tQ{offset}{shape}{strides}\x89ccollections\nOrderedDict\n)RtRs."
    )
    return text.encode("latin-1")


class _Harmful:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


HARMFUL: dict[str, bytes] = {
    "a command": pickle.dumps({"a": _Harmful()}, 2),
    "a command in a newer protocol": pickle.dumps({"a": _Harmful()}, 4),
    "a command by name": b"\x80\x02cposix\nsystem\nX\x0c\0\0\0touch harmedtR.",
    "a command as an instance": b"\x80\x02(X\x0c\0\0\0touch harmediposix\nsystem\n.",
    "evaluation": b"\x80\x02cbuiltins\neval\nX\x03\0\0\x001+1\x85R.",
    "an attribute of an innocent name": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
    "changing what is innocent": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x04\0\0\0nameX\x01\0\0\0asb.",
    "attributes of a dictionary": b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsK\x01sb.",
    "a text that passes for a name": b"\x80\x02X\x17\0\0\0collections OrderedDict)R.",
    "an object made": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "a place far off": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a place without anything": b"\x80\x02h\x05.",
    "a huge text": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "huge bytes": b"\x80\x02\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "a huge number": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "a deep nest of lists": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "a deep nest of tuples": b"\x80\x02)" + b"\x85" * 50_000 + b".",
    "a deep nest of marks": b"\x80\x02" + b"(" * 50_000 + b".",
    "a deep tuple as a key": b"\x80\x02})" + b"q\x01h\x01\x86" * 64 + b"K\x01s.",
    "laughter": b"\x80\x02" + b"".join(b"}q%cX\x01\0\0\0a" % at for at in range(3)) + b"h\x01sss.",
    "a dictionary in itself": b"\x80\x02}q\x01X\x01\0\0\0ah\x01s.",
    "the same dictionary twice": b"\x80\x02}q\x01X\x01\0\0\0a}q\x02sX\x01\0\0\0bh\x02s.",
    "keys that collide": b"\x80\x02}(\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x1f\0K\x01u.",
    "nothing": b"",
    "no end": b"\x80\x02}",
    "too little on the stack": b"\x80\x02s.",
    "too much on the stack": b"\x80\x02}}.",
    "a very long pickle": b"\x80\x02" + b"N0" * 600_000 + b"}.",
    "numbers beyond the storage": _tensor("K\x11\x85", "K\x01\x85"),
    "an offset beyond the storage": _tensor("K\x10\x85", "K\x01\x85", offset="K\x01"),
    "an offset before the storage": _tensor("K\x01\x85", "K\x01\x85", offset="J\xff\xff\xff\xff"),
    "a negative side": _tensor("J\xff\xff\xff\xff\x85", "K\x01\x85"),
    "two negative sides": _tensor("J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", "K\x01K\x01\x86"),
    "a negative stride": _tensor("K\x02\x85", "J\xff\xff\xff\xff\x85", offset="K\x04"),
    "one number a billion times": _tensor("J\0\xca\x9a;\x85", "K\0\x85"),
    "numbers in each other": _tensor("K\x04K\x04\x86", "K\x01K\x01\x86"),
    "more strides than sides": _tensor("K\x04\x85", "K\x04K\x01\x86"),
    "sides that are true": _tensor("\x88\x85", "K\x01\x85"),
    "strides that are texts": _tensor("K\x01\x85", "X\x01\0\0\0a\x85"),
    "a storage larger than its record": _tensor("K\x01\x85", "K\x01\x85", count="J\0\0\0\x40"),
    "a storage that is not there": _tensor("K\x01\x85", "K\x01\x85", key="9"),
    "a storage outside the archive": _tensor("K\x01\x85", "K\x01\x85", key="../../../etc/passwd"),
}  # fmt: skip
"""what a file tries -> its pickle."""


def test_the_harmless_twin_of_the_harmful_files_is_followed() -> None:
    content = read_torch_zip(*_opened(archive(_tensor("K\x04K\x04\x86", "K\x04K\x01\x86"))))

    assert content["a"].shape == (4, 4)
    assert len(content["a"].data) == 64


def _opened(data: bytes) -> tuple[io.BytesIO, memoryview]:
    return io.BytesIO(data), memoryview(data)


@pytest.mark.parametrize("program", HARMFUL.values(), ids=HARMFUL.keys())
def test_a_file_that_means_harm_gets_no_answer_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pth"
    path.write_bytes(archive(program))
    tracemalloc.start()
    started = time.process_time()

    found = read_facts(path)

    taken, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is None
    assert list(tmp_path.iterdir()) == [path]
    assert peak < 200_000_000
    assert taken < 20


def test_the_command_of_a_harmful_file_would_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    pickle.loads(HARMFUL["a command"])

    assert (tmp_path / "harmed").exists()


def test_records_in_each_other_are_looked_at_no_further_than_the_file_is_long(tmp_path: Path) -> None:
    network = tiny_network(2)
    whole = saved(network.state_dict())
    with zipfile.ZipFile(io.BytesIO(whole)) as opened:
        names = {info.filename: opened.read(info) for info in opened.infolist()}
    program = next(content for name, content in names.items() if name.endswith("data.pkl"))

    # Every record once more, which the pickle does not name: the file is as good as before.
    assert read_torch_zip(*_opened(whole)).keys() == network.state_dict().keys()
    assert read_torch_zip(*_opened(_zip_of({**names, "archive/other": bytes(9)})))
    with pytest.raises(Doubt):
        read_torch_zip(*_opened(_zip_of({**names, "archive/constants.pkl": b""})))
    with pytest.raises(Doubt):
        read_torch_zip(*_opened(_zip_of({**names, "archive/DATA.pkl": program})))
    with pytest.raises(Doubt):
        read_torch_zip(*_opened(_zip_of({**names, "archive/byteorder": b"big"})))
    with pytest.raises(Doubt):
        read_torch_zip(*_opened(_zip_of(names, zipfile.ZIP_DEFLATED)))


def _zip_of(records: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, content in records.items():
            made.writestr(name, content)
    return buffer.getvalue()


def test_one_tensor_under_many_names_is_not_looked_at_over_and_over(tmp_path: Path) -> None:
    state = {name: one.clone() for name, one in tiny_network(2, depths=(8,), hidden_channels=256).state_dict().items()}
    kinds = ("conv_gate.weight", "conv_main.weight", "conv_out.weight")
    tied = {f"stages.0.{at}.ffn.{kind}": state[f"stages.0.0.ffn.{kind}"] for at in range(8) for kind in kinds}

    assert read_facts(written(tmp_path, state, "zip.pth")) is not None
    assert read_facts(written(tmp_path, state | tied, "zip.ckpt")) is None


SMALL = {
    kind: content
    for network in [tiny_network(2, embed_dim=8, depths=(1,), hidden_channels=8, large_kernel=3)]
    for kind, content in {"net.pth": saved(network.state_dict())}.items()
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_a_file_with_other_bytes_is_described_as_pytorch_does_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(SMALL["net.pth"])
    pickled = content.index(b"FB")  # torch's padding: the pickle lies before it
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, pickled))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "net.pth"
    path.write_bytes(content)

    if read_facts(path) is not None:
        assert without_pytorch(path) == by_pytorch(path)


_OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(_OPCODES), max_size=30), st.binary(max_size=40))
def test_any_pickle_ends_in_a_value_or_in_doubt(opcodes: list[bytes], rest: bytes) -> None:
    for program in (b"\x80\x02" + b"".join(opcodes) + b".", b"\x80\x02" + rest + b"."):
        with contextlib.suppress(Doubt):
            read_torch_zip(*_opened(archive(program)))


# --- quickly ---------------------------------------------------------------------------------------------------------


def loaded_modules(path: Path) -> set[str]:
    """Which heavy libraries ``info`` loads for a path."""
    code = (
        "import sys; from pathlib import Path; from aethernet.cli.main import app\n"
        "from aethernet.cli.inspection import inspect_path; inspect_path(Path(sys.argv[1]))\n"
        "print(*{'torch', 'spandrel', 'onnxruntime', 'onnx', 'PIL', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("kind", ["zip.pth", "bare.safetensors"])
def test_a_checkpoint_is_described_without_pytorch(tmp_path: Path, kind: str) -> None:
    assert loaded_modules(written(tmp_path, tiny_network(2).state_dict(), kind)) == set()


def test_an_older_file_needs_pytorch(tmp_path: Path) -> None:
    assert "torch" in loaded_modules(written(tmp_path, tiny_network(2).state_dict(), "legacy.pth"))


def test_a_release_is_described_without_pytorch(finished_release: Path) -> None:
    assert loaded_modules(finished_release) == {"pydantic"}
    assert loaded_modules(finished_release / "tiny_2x_fp16.onnx") == {"onnx"}


@pytest.mark.parametrize("norm", Norm)
def test_a_file_that_is_described_also_loads(tmp_path: Path, norm: Norm) -> None:
    path = written(tmp_path, copy.deepcopy(tiny_network(2, norm=norm)).state_dict())

    assert read_facts(path) is not None
    assert load(path).config.norm is norm
