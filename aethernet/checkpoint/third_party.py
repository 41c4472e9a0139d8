"""Networks of other architectures, by way of spandrel (https://github.com/chaiNNer-org/spandrel).

Files are read by :mod:`aethernet.checkpoint.reading`, never by spandrel, whose loader unpickles: it is handed tensors.
It recognises the architecture, infers its sizes and builds it; everything after that is ours.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aethernet.checkpoint.format import METADATA_KEY, RECORD
from aethernet.checkpoint.loaded import LoadedNetwork
from aethernet.errors import (
    CheckpointError,
    KeyMismatchError,
    NonFiniteWeightsError,
    SpecMismatchError,
    UnknownNetworkError,
    UsageError,
)
from aethernet.networks.activations import respelled
from aethernet.networks.third_party import PREFIX, ForeignNetwork, wrap
from aethernet.quantization.state import is_int8, restore, split

if TYPE_CHECKING:
    from aethernet.networks.descriptor import Descriptor

__all__ = ["architecture_of", "assemble_foreign"]

_MOST_LAYERS = 4096
"""Larger numbers inside a tensor's name belong to no network, and would have one built that fills the memory."""


def architecture_of(content: Mapping[str, Any], metadata: Mapping[str, str]) -> str | None:
    """Spandrel's name for the architecture of a file's content; None where it knows none, or is not installed."""
    if find_spec("spandrel") is None:
        return None
    recorded = _record(content, metadata).get("network", {}).get("architecture")
    if isinstance(recorded, str):
        return recorded
    from spandrel import MAIN_REGISTRY

    state = _canonical(content)
    if not state:
        return None
    found = next((one for one in MAIN_REGISTRY.architectures("detection") if one.detect(state)), None)
    return None if found is None else str(found.architecture.id)


def assemble_foreign(
    content: Mapping[str, Any],
    metadata: Mapping[str, str],
    *,
    file_format: str = "pytorch",
    expect: Mapping[str, Any] | None = None,
    residual_scale: float | None = None,
) -> LoadedNetwork:
    """The network that a file's content describes, by spandrel; arguments and errors as for :func:`aethernet.load`."""
    if residual_scale is not None:
        raise UsageError("a residual scale was stated, which is a matter of AetherNet's generation 3 alone")
    entries = _canonical(content)
    stored, scales = split(entries) if is_int8(entries) else (entries, {})
    dtypes = sorted(
        {
            str(tensor.dtype).removeprefix("torch.")
            for tensor in entries.values()
            if tensor.is_floating_point() or tensor.dtype is torch.int8
        }
    )
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise NonFiniteWeightsError(broken)
    record = _record(content, metadata)
    left_out = {name: tuple(shape) for name, shape in record.get("left_out", {}).items()}
    own = {name: tensor for name, tensor in state.items() if name not in record.get("added", ())}
    network = _built({**own, **{name: torch.zeros(shape) for name, shape in left_out.items()}})
    if left_out:
        # What is stored was folded already; the structure is folded once more, and filled.
        network.merge_()
        network = respelled(network, {name.removesuffix(".weight") for name in left_out})
        _fill(network.network, state)
    if "network" in record:
        _agree(record["network"], network.config)
    _check_expectations(network.config, expect or {})
    network = network.eval().requires_grad_(False)
    form = network.form
    model = restore(network, _prefixed(entries), _prefixed(scales)) if scales else network
    return LoadedNetwork(
        model=model,
        config=network.config,
        form=form,
        quantization=None,
        notes=(),
        format=file_format,
        stored_dtype="+".join(dtypes),
        int8=bool(scales),
    )


def _built(state: dict[str, Tensor]) -> ForeignNetwork:
    from spandrel import MAIN_REGISTRY, ImageModelDescriptor, UnsupportedModelError

    try:
        with warnings.catch_warnings():
            # Building warns about what is no matter of the reader's: PyTorch's own changes, layers of no size.
            warnings.simplefilter("ignore")
            descriptor = MAIN_REGISTRY.load(dict(state))
    except UnsupportedModelError as error:
        listed = ", ".join(sorted(state)[:5])
        raise UnknownNetworkError(f"spandrel {version('spandrel')} knows no network with {listed}, …") from error
    except Exception as error:  # each architecture raises what it likes about tensors that do not fit it
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"spandrel recognises the checkpoint but cannot build it: {' '.join(told)[:400]}",
            hint="the file was changed after training or belongs to another variant; use it as the trainer saved it",
        ) from error
    if not isinstance(descriptor, ImageModelDescriptor):
        raise UnknownNetworkError(
            f"expected a network that takes a picture and gives one, found {descriptor.architecture.name}, "
            "which also takes a mask",
            hint="only networks from picture to picture can be released",
        )
    return wrap(descriptor)


def _canonical(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by the architecture's own names; empty where there are none or the names belong to no network."""
    from spandrel import canonicalize_state_dict

    state = canonicalize_state_dict(dict(content))
    tensors = {
        str(name): value.detach() for name, value in state.items() if isinstance(value, Tensor) and name != RECORD
    }
    numbers = (int(part) for name in tensors for part in name.split(".") if part.isascii() and part.isdigit())
    if any(value.is_meta or value.layout is not torch.strided for value in tensors.values()):
        return {}
    return {} if max(numbers, default=0) > _MOST_LAYERS else tensors


def _record(content: Mapping[str, Any], metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """What our own files say about a network of another library; empty for all others."""
    own = content.get(RECORD)
    text = own.numpy().tobytes() if isinstance(own, Tensor) and own.dtype is torch.uint8 else "{}"
    try:
        record = json.loads(metadata.get(METADATA_KEY, text))
    except (ValueError, RecursionError):
        return {}
    network = record.get("network") if isinstance(record, dict) else None
    return record if isinstance(network, dict) and network.get("library") == "spandrel" else {}


def _agree(recorded: Mapping[str, Any], found: Descriptor) -> None:
    known = found.to_json()
    differing = [
        name for name in ("architecture", "scale", "in_channels", "out_channels") if recorded.get(name) != known[name]
    ]
    if differing:
        raise SpecMismatchError(f"the file's recorded config and its tensors disagree on {', '.join(differing)}")


def _check_expectations(config: Descriptor, expect: Mapping[str, Any]) -> None:
    found = config.to_json()
    unknown = sorted(set(expect) - set(found))
    if unknown:
        raise UsageError(f"no such network field: {', '.join(unknown)}", hint=f"known are {', '.join(sorted(found))}")
    wrong = [f"{name}: expected {expect[name]}, found {found[name]}" for name in expect if expect[name] != found[name]]
    if wrong:
        raise SpecMismatchError("the spec does not describe this checkpoint; " + "; ".join(wrong))


def _fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    wanted = network.state_dict()
    misshapen = [name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape]
    if wanted.keys() != state.keys() or misshapen:
        raise KeyMismatchError(wanted.keys() - state.keys(), state.keys() - wanted.keys(), misshapen)
    network.load_state_dict(dict(state))


def _prefixed(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{PREFIX}{name}": value for name, value in entries.items()}
