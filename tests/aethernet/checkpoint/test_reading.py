"""Files nobody vouches for: no checkpoint, damaged, or running code, each is told from the others and refused."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aethernet.checkpoint import load, save_pth, save_safetensors
from aethernet.checkpoint.reading import read_checkpoint
from aethernet.errors import (
    CheckpointError,
    NotACheckpointError,
    TruncatedCheckpointError,
    UnsafeCheckpointError,
)
from tests.support.networks import FILES, tiny_network


def zip_of(name: str, content: str) -> bytes:
    """An archive with one file in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def saved(content: Any, **options: Any) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def small_file(kind: str) -> bytes:
    """A whole checkpoint of few bytes, of one of :data:`FILES`."""
    import tempfile

    network = tiny_network(2, embed_dim=8, depths=(1,), hidden_channels=8, large_kernel=3, reconstruction_channels=4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kind
        FILES[kind](network.state_dict(), path)
        return path.read_bytes()


# --- not a checkpoint ------------------------------------------------------------------------------------------------

OTHER_FILES: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x80",
    "text": b"This is not a checkpoint, it is a text.\n" * 20,
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100),
    "json": b'{"name": {"a": 1}}' * 10,
    "json with a brace where safetensors has one": b'{"abcd":{"a": 1}}' * 10,
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "zip of a text": zip_of("readme.txt", "hello"),
    "empty zip": b"PK\x05\x06" + bytes(18),
    "pickle of numbers": pickle.dumps({"a": 1, "b": [1, 2, 3], "more": "to be longer than a header"}, protocol=4),
    "old pickle of numbers": pickle.dumps({"a": 1, "b": [1, 2, 3], "more": "to be longer"}, protocol=2),
    "oldest pickle": pickle.dumps({"a": 1}, protocol=0),
    "a bare tensor": saved(torch.ones(2)),
    "a list of tensors": saved([torch.ones(2)]),
    "an empty dictionary": saved({}),
    "a dictionary of numbers": saved({"epoch": 3, "loss": 0.5}),
    "an empty wrapper": saved({"params": {}}),
    "zeros": bytes(1000),
    "safetensors without json": (20).to_bytes(8, "little") + b"{not json at all....",
    "safetensors header that is a list": (8).to_bytes(8, "little") + b"[1, 2] {",
}


@pytest.mark.parametrize("content", OTHER_FILES.values(), ids=OTHER_FILES.keys())
def test_another_file_is_not_a_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net_g.pth"
    path.write_bytes(content)

    with pytest.raises(NotACheckpointError if content != b"\x80" else CheckpointError):
        load(path)


def test_a_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpointError, match="found a folder"):
        load(tmp_path)


@pytest.mark.parametrize("first", [0x80, 0x50, 0xF8])
def test_a_safetensors_file_is_one_however_long_its_header_is(tmp_path: Path, first: int) -> None:
    """0x80 is also a pickle's first byte, 0x50 an archive's."""
    from safetensors.torch import save

    lengths = {content[0]: content for note in range(256) if (content := save({"a": torch.ones(2)}, {"b": "c" * note}))}
    (tmp_path / "net.safetensors").write_bytes(lengths[first])

    found = read_checkpoint(tmp_path / "net.safetensors")

    assert found.format == "safetensors"
    assert found.metadata.keys() == {"b"}
    assert torch.equal(found.content["a"], torch.ones(2))


def test_a_missing_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpointError, match="found nothing"):
        load(tmp_path / "net_g.pth")


def test_a_path_that_cannot_be_opened_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpointError, match="name too long"):
        load(tmp_path / ("long" * 1000))


def test_the_name_does_not_decide_what_a_file_is(tmp_path: Path) -> None:
    misnamed = save_safetensors(tiny_network(2), tmp_path / "net_g.pth")

    assert read_checkpoint(misnamed).format == "safetensors"


# --- damaged ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FILES)
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    whole = small_file(kind)
    path = tmp_path / kind

    for length in [*range(0, 60, 7), *range(60, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises((NotACheckpointError, TruncatedCheckpointError)):
            load(path)


@pytest.mark.parametrize("kind", FILES)
def test_a_file_cut_in_half_is_called_truncated(tmp_path: Path, kind: str) -> None:
    whole = small_file(kind)
    path = tmp_path / kind
    path.write_bytes(whole[: len(whole) // 2])

    with pytest.raises(TruncatedCheckpointError, match="expected") as caught:
        load(path)
    assert "download or copy the file again" in caught.value.hint


def test_a_damaged_pickle_is_called_damaged_and_not_code(tmp_path: Path) -> None:
    whole = bytearray(small_file("zip.pth"))
    start = whole.index(b"\x80\x02")  # the pickle inside the archive
    whole[start + 2] = 0xFF
    path = tmp_path / "net_g.pth"
    path.write_bytes(whole)

    with pytest.raises(TruncatedCheckpointError, match="damaged"):
        load(path)


@pytest.mark.parametrize("position", [0, -30, -22])
def test_a_damaged_archive_is_refused(tmp_path: Path, position: int) -> None:
    whole = bytearray(small_file("zip.pth"))
    whole[position] ^= 0xFF
    path = tmp_path / "net_g.pth"
    path.write_bytes(whole)

    with pytest.raises(CheckpointError):
        load(path)


WHOLE_FILES = {kind: small_file(kind) for kind in ("zip.pth", "legacy.pth", "bare.safetensors")}


@pytest.mark.parametrize("kind", WHOLE_FILES)
@settings(derandomize=True, max_examples=60, deadline=None, database=None)
@given(data=st.data())
def test_whatever_happens_to_its_bytes_a_file_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    """Not one of torch's, zipfile's or json's own errors comes through, only :class:`CheckpointError`."""
    content = bytearray(WHOLE_FILES[kind])
    anywhere = st.integers(0, len(content) - 1)
    in_the_header = st.integers(0, 3000)
    changes = data.draw(st.lists(st.tuples(in_the_header | anywhere, st.integers(0, 255)), max_size=3))
    cut = data.draw(st.just(len(content)) | anywhere)
    for position, value in changes:
        content[position] = value
    path = tmp_path_factory.getbasetemp() / f"fuzz-{kind}"
    path.write_bytes(content[:cut])

    refusal = refusal_of(path)

    assert refusal is None or (str(refusal) and refusal.hint)


def refusal_of(path: Path) -> CheckpointError | None:
    """Every other exception passes."""
    try:
        load(path)
    except CheckpointError as error:
        return error
    return None


# --- code ------------------------------------------------------------------------------------------------------------


class CreatesFile:
    """Unpickling this runs ``open(path, "w")``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


CODE_FILES: dict[str, Callable[[Any], bytes]] = {
    "zip": saved,
    "zip, newer pickle": lambda content: saved(content, pickle_protocol=4),
    "legacy": lambda content: saved(content, _use_new_zipfile_serialization=False),
    "legacy, newer pickle": lambda content: saved(content, _use_new_zipfile_serialization=False, pickle_protocol=4),
    "raw pickle 2": lambda content: pickle.dumps(content, protocol=2),
    "raw pickle 3": lambda content: pickle.dumps(content, protocol=3),
    "raw pickle 4": lambda content: pickle.dumps(content, protocol=4),
    "raw pickle 5": lambda content: pickle.dumps(content, protocol=5),
}


@pytest.mark.parametrize("write", CODE_FILES.values(), ids=CODE_FILES.keys())
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, write: Callable[[Any], bytes]) -> None:
    trace = tmp_path / "code-was-run"
    path = tmp_path / "net_g.pth"
    path.write_bytes(write({"params": tiny_network(2).state_dict(), "extra": CreatesFile(trace)}))
    trace.unlink(missing_ok=True)

    with pytest.raises(UnsafeCheckpointError) as caught:
        load(path)

    assert "never unpickles code" in caught.value.hint
    assert not trace.exists()


def test_the_example_of_code_would_run(tmp_path: Path) -> None:
    """The control: what is refused above does harm when unpickled."""
    trace = tmp_path / "code-was-run"

    pickle.loads(pickle.dumps(CreatesFile(trace))).close()

    assert trace.exists()


def test_the_refusal_names_the_code(tmp_path: Path) -> None:
    path = tmp_path / "net_g.pth"
    path.write_bytes(saved({"a": CreatesFile(tmp_path / "never")}))

    with pytest.raises(UnsafeCheckpointError, match=r"io\.open"):
        load(path)


def test_a_pickled_network_is_refused_as_code(tmp_path: Path) -> None:
    path = tmp_path / "net_g.pth"
    torch.save(tiny_network(2), path)

    with pytest.raises(UnsafeCheckpointError, match=r"AetherNet2"):
        load(path)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
def test_a_torchscript_program_is_refused_as_code(tmp_path: Path) -> None:
    path = tmp_path / "net_g.pt"
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 1)), path)

    with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
        load(path)


def test_reading_warns_about_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = save_pth(tiny_network(2), tmp_path / "net_g.pth")

    load(path)

    assert len(recwarn) == 0
