"""Loading: one function from a file to a network that computes what was trained."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from aethernet.checkpoint.aethernet import assemble
from aethernet.checkpoint.layout import is_aethernet
from aethernet.checkpoint.loaded import LoadedNetwork
from aethernet.checkpoint.reading import read_checkpoint
from aethernet.checkpoint.third_party import architecture_of, assemble_third_party
from aethernet.checkpoint.wrappers import settings_of_metadata, unwrap
from aethernet.errors import UnknownNetworkError
from aethernet.install import requirement

__all__ = ["hold_same_tensors", "load", "load_content"]

log = logging.getLogger(__name__)


def load(
    path: Path | str,
    *,
    expect: Mapping[str, Any] | None = None,
    residual_scale: float | None = None,
    weights: str | None = None,
) -> LoadedNetwork:
    """Read any checkpoint (``.pth``, ``.pt``, ``.ckpt``, ``.safetensors``) of an AetherNet, or of a network that
    spandrel recognises where it is installed; strictly, and without running code.

    Args:
        path: The file.
        expect: Fields of the network's config with the values they must have.
        residual_scale: Generation 3's residual scale, where the file does not record it.
        weights: Key of the network to take, where the file holds several.

    Raises:
        CheckpointError: One subclass per kind of trouble, see :mod:`aethernet.errors`.
    """
    raw = read_checkpoint(path)
    loaded = load_content(
        raw.content,
        raw.metadata,
        file_format=raw.format,
        expect=expect,
        residual_scale=residual_scale,
        weights=weights,
    )
    for note in loaded.notes:
        log.warning("%s: %s", Path(path).name, note)
    return loaded


def load_content(
    content: Mapping[str, Any],
    metadata: Mapping[str, str],
    *,
    file_format: str = "pytorch",
    expect: Mapping[str, Any] | None = None,
    residual_scale: float | None = None,
    weights: str | None = None,
) -> LoadedNetwork:
    """The network that a file's content describes: an AetherNet, or what spandrel recognises.

    Args:
        content: Tensors by name, or wrappers around them.
        metadata: Safetensors metadata, empty where there is none.
        file_format: What the content was read from, ``pytorch`` or ``safetensors``.
        expect: As for :func:`load`.
        residual_scale: As for :func:`load`.
        weights: As for :func:`load`.

    Raises:
        UnknownNetworkError: It is neither.
        CheckpointError: As for :func:`load`.
    """
    unwrapped = unwrap(
        content, weights, known=lambda entries: is_aethernet(entries) or architecture_of(entries, metadata) is not None
    )
    entries = unwrapped.entries
    settings = settings_of_metadata(metadata) | unwrapped.settings
    foreign = not is_aethernet(entries) and architecture_of(entries, metadata) is not None
    # What nobody recognises is held against AetherNet, which says best what is wrong.
    build = assemble_third_party if foreign else assemble
    try:
        loaded = build(
            entries, metadata, settings=settings, file_format=file_format, expect=expect, residual_scale=residual_scale
        )
    except UnknownNetworkError as error:
        if find_spec("spandrel") is not None:
            raise
        raise UnknownNetworkError(
            str(error), hint=f"networks of other architectures need spandrel: pip install '{requirement('spandrel')}'"
        ) from error
    return dataclasses.replace(loaded, notes=(*unwrapped.notes, *loaded.notes))


def hold_same_tensors(paths: Sequence[Path]) -> bool:
    """Whether several checkpoint files build networks with bit-identical tensors; ONNX files never count as such."""
    if len(paths) < 2 or any(path.suffix == ".onnx" for path in paths):
        return len(paths) < 2
    first, *others = [load(path).model.state_dict() for path in paths]
    return all(
        first.keys() == other.keys() and all(torch.equal(first[name], other[name]) for name in first)
        for other in others
    )
