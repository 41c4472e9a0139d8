"""What an AetherNet's checkpoint is, read from names, shapes and metadata without PyTorch.

An answer here is that of :func:`aethernet.load`. Whatever that would refuse, explain or read in another way (another
library's network, an int8 network, older formats, damage, numbers that are none) gets no answer: load says it best.
"""

from __future__ import annotations

import json
import logging
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aethernet.checkpoint.description import ERROR_COMP_NOTE, description_of, understand
from aethernet.checkpoint.format import DESCRIPTION_KEY, METADATA_KEY, PREFIX
from aethernet.checkpoint.layout import StateDict, is_aethernet, separate
from aethernet.checkpoint.pickled import Doubt, read_torch_zip
from aethernet.checkpoint.reading import RawCheckpoint
from aethernet.checkpoint.tensors import ITEM_SIZE, StoredTensor
from aethernet.checkpoint.wrappers import settings_of_metadata, unwrap
from aethernet.errors import AethernetError
from aethernet.networks.config import FoldState, NetworkConfig, Norm
from aethernet.networks.descriptor import Descriptor
from aethernet.networks.shapes import Entry, state_entries

__all__ = ["CheckpointFacts", "read_facts"]

log = logging.getLogger(__name__)

_ZIP_MAGIC = b"PK\x03\x04"
_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Safetensors' name of a type -> PyTorch's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """What can be said about a checkpoint without running its network."""

    config: NetworkConfig | Descriptor
    form: str
    """How far the weights are folded, in words."""
    parameters: int
    """Number of learned numbers."""
    quantization_records: int
    """Number of tensors that quantisation-aware training left."""
    int8: str | dict[str, Any] | None = None
    """What the file says in int8; nothing where it holds a float network alone."""
    notes: tuple[str, ...]
    """What had to be assumed or was set aside."""
    format: str
    """``safetensors`` or ``pytorch``."""
    stored_dtype: str
    """Type the weights have in the file, such as ``float16``."""


def read_facts(path: Path | str, weights: str | None = None) -> CheckpointFacts | None:
    """What a checkpoint file is; None where only :func:`aethernet.load` can tell, or explain.

    Args:
        path: The file. Nothing in it is run, nothing outside it is read.
        weights: Key of the network to take, where the file holds several.
    """
    try:
        facts = _understood(_content(Path(path)), weights, Path(path).stat().st_size)
    except (AethernetError, Doubt, OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
        return None
    for note in facts.notes:
        log.warning("%s: %s", Path(path).name, note)
    return facts


def _content(path: Path) -> RawCheckpoint:
    """A file's content with described tensors, which keep the file mapped into memory."""
    with open(path, "rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        head = bytes(mapped[:9])
        if head[8:] == b"{":
            return _read_safetensors(path, mapped)
        if not head.startswith(_ZIP_MAGIC):
            raise Doubt
        return RawCheckpoint(content=read_torch_zip(file, mapped), metadata={}, format="pytorch")


def _read_safetensors(path: Path, mapped: memoryview) -> RawCheckpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:  # judges the header as it does for PyTorch
            metadata = dict(tensors.metadata() or {})
            names = list(tensors.keys())
    except SafetensorError as error:
        raise Doubt from error
    start = 8 + int.from_bytes(mapped[:8], "little")
    header = json.loads(bytes(mapped[8:start]))
    content = {}
    for name in names:
        first, end = header[name]["data_offsets"]
        content[name] = StoredTensor(
            shape=tuple(header[name]["shape"]),
            dtype=_TYPES[header[name]["dtype"]],
            data=mapped[start + first : start + end],
        )
        if len(content[name].data) != content[name].numel() * ITEM_SIZE[content[name].dtype]:
            raise Doubt
    return RawCheckpoint(content=content, metadata=metadata, format="safetensors")


def _understood(raw: RawCheckpoint, key: str | None, size: int) -> CheckpointFacts:
    unwrapped = unwrap(raw.content, key, known=is_aethernet)
    entries = unwrapped.entries
    if not unwrapped.all_known or _holds_int8(entries, raw.metadata):
        raise Doubt
    weights, records = separate(entries)
    settings = settings_of_metadata(raw.metadata) | unwrapped.settings
    config, form, notes = understand(weights, raw.metadata, settings, residual_scale=None)
    floats: dict[str, Any] = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}
    if sum(len(tensor.data) for tensor in floats.values()) > size:  # one tensor under many names
        raise Doubt
    wanted = state_entries(config, form)
    _require(_settled(weights, config, form, wanted), wanted)
    if not all(tensor.fits_float32() for tensor in floats.values()):
        raise Doubt
    if config.generation == 3 and records is not None and "quant_fusion_layer.error_comp" in weights:
        notes.append(ERROR_COMP_NOTE)
    return CheckpointFacts(
        config=config,
        form=form.value,
        parameters=sum(entry.size for entry in wanted.values() if entry.learned),
        quantization_records=len(records.tensors) if records else 0,
        notes=(*unwrapped.notes, *notes),
        format=raw.format,
        stored_dtype="+".join(sorted({str(tensor.dtype) for tensor in floats.values()})),
    )


def _holds_int8(entries: Mapping[str, Any], metadata: Mapping[str, str]) -> bool:
    """Whether an int8 network may be inside, alone or beside the float one."""
    if METADATA_KEY in metadata and DESCRIPTION_KEY in description_of(metadata[METADATA_KEY]):
        return True
    return any(name.startswith(PREFIX) or getattr(one, "dtype", "") == "int8" for name, one in entries.items())


def _settled(weights: StateDict, config: NetworkConfig, form: FoldState, wanted: Mapping[str, Entry]) -> StateDict:
    """Without the running statistics that were left beside merged kernels."""
    if form is not FoldState.MERGED or config.norm is not Norm.DEPLOYMENT:
        return weights
    leftover = {name for name in weights if name.endswith((".running_mean", ".running_var"))}
    if config.generation == 3:  # which folds them into their norm: they have to belong to it
        for name in leftover:
            norm = f"{name.rpartition('.')[0]}.weight"
            if norm not in wanted or weights[name].shape != wanted[norm].shape:
                raise Doubt
    return {name: tensor for name, tensor in weights.items() if name not in leftover}


def _require(weights: StateDict, wanted: Mapping[str, Entry]) -> None:
    """Every tensor there, in its shape, and no other."""
    optional = {"scale", "mean"}
    if weights.keys() - wanted.keys() or wanted.keys() - weights.keys() - optional:
        raise Doubt
    for name, tensor in weights.items():
        if tensor.shape != wanted[name].shape or (wanted[name].floating and not tensor.is_floating_point()):
            raise Doubt
