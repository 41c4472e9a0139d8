"""From a file nobody vouches for to tensors by name, without running anything that is in it.

What a file is, is told from its first bytes, never from its name.
"""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aethernet.errors import NotACheckpointError, TruncatedCheckpointError, UnsafeCheckpointError

__all__ = ["RawCheckpoint", "read_checkpoint"]

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_TORCH_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_PICKLE_MAGIC = b"\x80"
_LARGEST_HEADER = 100_000_000
"""Bytes; the safetensors format allows no more."""
_WANTED_CODE = re.compile(r"GLOBAL (?P<name>[\w.]+)|Trying to call")
_CALLING_OPCODES = {
    "GLOBAL",
    "STACK_GLOBAL",
    "INST",
    "OBJ",
    "NEWOBJ",
    "NEWOBJ_EX",
    "REDUCE",
    "BUILD",
    "EXT1",
    "EXT2",
    "EXT4",
}
# What Python's zipfile raises on damaged archives: its own error, undecodable names, unknown methods, a bad stream.
_ZIP_TROUBLE = (
    zipfile.BadZipFile,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OSError,
    EOFError,
    StopIteration,
    zlib.error,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawCheckpoint:
    """What a file holds, not yet understood."""

    content: Mapping[str, Any]
    """The outermost dictionary: tensors, or wrappers around them."""
    metadata: Mapping[str, str]
    """Safetensors metadata; empty for PyTorch files."""
    format: str
    """``safetensors`` or ``pytorch``."""


def read_checkpoint(path: Path | str) -> RawCheckpoint:
    """Read ``.pth``, ``.pt``, ``.ckpt`` or ``.safetensors`` into CPU memory.

    Raises:
        NotACheckpointError: It is something else.
        TruncatedCheckpointError: It ends too early or is damaged.
        UnsafeCheckpointError: Reading it would run code. Nothing was run.
    """
    path = Path(path)
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "nothing"
            raise NotACheckpointError(f"expected a checkpoint file at {path}, found {found}")
        with open(path, "rb") as file:
            head = file.read(256)
    except OSError as error:
        raise NotACheckpointError(f"expected a readable file at {path}, found: {error.strerror}") from error
    looks_like_safetensors = head[8:9] == b"{"
    # The length of a safetensors header may begin with the byte a pickle begins with; a pickle's first eight bytes
    # are a length beyond all bounds.
    if looks_like_safetensors and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
        return _read_safetensors(path)
    if head.startswith((_ZIP_MAGIC, _PICKLE_MAGIC)):
        return _read_torch(path)
    if looks_like_safetensors:
        return _read_safetensors(path)
    found = _kind_of(head)
    raise NotACheckpointError(f"expected a PyTorch or safetensors checkpoint, found {found}: {path}")


def _kind_of(head: bytes) -> str:
    """What a file is, by its first bytes, in words."""
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (git lfs pull fetches it)"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page (download the file itself, not the page about it)"
    if text.startswith((b"{", b"[")):
        return "JSON"
    if head.startswith(b"GGUF"):
        return "a GGUF file"
    if b"\0" not in head and head.isascii():
        return f"text that begins with '{head.decode().split(chr(10))[0][:40]}'"
    return f"a file that begins with the bytes {head[:8].hex(' ')}"


def _read_safetensors(path: Path) -> RawCheckpoint:
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    with open(path, "rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if header_size > _LARGEST_HEADER:
            raise NotACheckpointError(f"expected a PyTorch or safetensors checkpoint, found something else: {path}")
        if header_size > size - 8:
            raise TruncatedCheckpointError(
                f"expected a safetensors header of {header_size} bytes, found {size - 8} bytes in all: {path}"
            )
        try:
            header = json.loads(file.read(header_size))
            end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise NotACheckpointError(f"expected a safetensors header, found unreadable JSON: {path}") from error
    if isinstance(end, int) and 8 + header_size + end > size:
        raise TruncatedCheckpointError(f"expected {8 + header_size + end} bytes, found {size}: {path}")
    try:
        with safe_open(path, framework="pt") as tensors:
            content = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 (not a dict)
            metadata = dict(tensors.metadata() or {})
    except (SafetensorError, OSError, KeyError, AttributeError, ValueError, RuntimeError) as error:
        raise NotACheckpointError(f"expected a valid safetensors file, found: {error} ({path})") from error
    return RawCheckpoint(content=content, metadata=metadata, format="safetensors")


def _read_torch(path: Path) -> RawCheckpoint:
    import torch

    try:
        with warnings.catch_warnings():
            # Rebuilding quantised tensors warns that their storage type is deprecated; the reader cannot act on it.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _explain_unpickling(path, error) from error
    except EOFError as error:
        raise TruncatedCheckpointError(
            f"expected a whole PyTorch file, found one that ends too early: {path}"
        ) from error
    except Exception as error:  # the reader is C++ and raises whatever it likes on damaged input
        raise _explain_damage(path, error) from error
    if not isinstance(content, Mapping):
        raise NotACheckpointError(f"expected a dictionary of tensors, found a {type(content).__name__}: {path}")
    return RawCheckpoint(content=content, metadata={}, format="pytorch")


def _explain_unpickling(path: Path, error: Exception) -> Exception:
    wanted = _WANTED_CODE.search(str(error))
    if wanted is None and _is_damaged_pickle(path):
        return TruncatedCheckpointError(f"expected a whole PyTorch file, found a damaged one: {path}")
    if wanted is None and not _calls_code(path):
        return NotACheckpointError(f"expected a PyTorch checkpoint, found another pickle file: {path}")
    what = f"pickled code ({wanted['name']})" if wanted and wanted["name"] else "a pickle that must be run to be read"
    return UnsafeCheckpointError(f"expected only tensors, found {what}: {path}")


def _is_damaged_pickle(path: Path) -> bool:
    """Whether the pickle differs from what was written; a whole one that cannot be read wants to run code."""
    if not _begins_with(path, _ZIP_MAGIC):
        return _begins_with(path, _LEGACY_TORCH_MAGIC)
    try:
        with zipfile.ZipFile(path) as archive:
            archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))  # checks the CRC
    except _ZIP_TROUBLE:
        return True
    return False


def _calls_code(path: Path) -> bool:
    """Whether a pickle asks for anything beyond plain values; it is looked at, not run."""
    if _begins_with(path, _ZIP_MAGIC):
        return True
    try:
        with open(path, "rb") as file:
            while file.peek(1):  # older files hold several pickles in a row
                if any(opcode.name in _CALLING_OPCODES for opcode, _, _ in pickletools.genops(file)):
                    return True
    except ValueError:
        pass
    return False


def _explain_damage(path: Path, error: Exception) -> Exception:
    if _begins_with(path, _ZIP_MAGIC):
        names = _archive_names(path)
        if any(name.endswith("/constants.pkl") for name in names):
            return UnsafeCheckpointError(f"expected only tensors, found a TorchScript program: {path}")
        if names and not any(name.endswith("data.pkl") for name in names):
            return NotACheckpointError(f"expected a PyTorch checkpoint, found another ZIP archive: {path}")
    elif not _begins_with(path, _LEGACY_TORCH_MAGIC) and path.stat().st_size > len(_LEGACY_TORCH_MAGIC):
        return NotACheckpointError(f"expected a PyTorch checkpoint, found another pickle file: {path}")
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return TruncatedCheckpointError(f"expected a whole PyTorch file, found a damaged one ({reason[:200]}): {path}")


def _archive_names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except _ZIP_TROUBLE:
        return []


def _begins_with(path: Path, magic: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic
