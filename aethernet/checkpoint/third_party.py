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
from aethernet.checkpoint.wrappers import what_it_is
from aethernet.errors import (
    CheckpointError,
    KeyMismatchError,
    NonFiniteWeightsError,
    SpecMismatchError,
    UnknownNetworkError,
    UsageError,
)
from aethernet.networks.activations import rewritten
from aethernet.networks.third_party import PREFIX, ThirdPartyNetwork, wrap
from aethernet.quantization.state import is_int8, restore, split

if TYPE_CHECKING:
    from aethernet.networks.descriptor import Descriptor

__all__ = ["architecture_of", "assemble_third_party"]

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


def assemble_third_party(
    content: Mapping[str, Any],
    metadata: Mapping[str, str],
    *,
    settings: Mapping[str, Any] | None = None,
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
        network = rewritten(network, {name.removesuffix(".weight") for name in left_out})
        _fill(network.network, state)
    if "network" in record:
        _agree(record["network"], network.config)
    _check_settings(network.config, settings or {})
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


def _built(state: dict[str, Tensor]) -> ThirdPartyNetwork:
    from spandrel import MAIN_REGISTRY, ImageModelDescriptor, UnsupportedModelError

    try:
        with warnings.catch_warnings():
            # Building warns about what is no matter of the reader's: PyTorch's own changes, layers of no size.
            warnings.simplefilter("ignore")
            descriptor = MAIN_REGISTRY.load(dict(state))
    except UnsupportedModelError as error:
        listed = ", ".join(sorted(state)[:5])
        if other := what_it_is(state):
            raise UnknownNetworkError(f"expected a network from image to image, found {other} ({listed}, …)") from error
        raise UnknownNetworkError(f"spandrel {version('spandrel')} knows no network with {listed}, …") from error
    except Exception as error:  # each architecture raises what it likes about tensors that do not fit it
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"spandrel recognises the checkpoint but cannot build it: {' '.join(told)[:400]}",
            hint="the file was changed after training or belongs to another variant; use it as the trainer saved it",
        ) from error
    if not isinstance(descriptor, ImageModelDescriptor):
        raise UnknownNetworkError(
            f"expected a network that takes an image and gives one, found {descriptor.architecture.name}, "
            "which also takes a mask",
            hint="only networks from image to image can be released",
        )
    return wrap(descriptor)


def _canonical(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by the architecture's own names; empty where there are none or the names belong to no network."""
    tensors = {
        str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor) and name != RECORD
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


_SETTINGS = {
    "scale": ("scale", "upscale", "upscaling_factor", "upscale_factor"),
    "in_channels": ("in_chans", "num_in_ch", "in_nc", "in_ch"),
    "out_channels": ("num_out_ch", "out_nc", "out_ch"),
}
"""Our name of a field -> names that frameworks give it."""


def _check_settings(config: Descriptor, settings: Mapping[str, Any]) -> None:
    """Whatever the file says about itself must be so."""
    found = config.to_json()
    for field, names in _SETTINGS.items():
        for name in names:
            stated = settings.get(name)
            if isinstance(stated, int) and not isinstance(stated, bool) and stated != found[field]:
                raise SpecMismatchError(f"the file's settings say {name} = {stated}, its tensors say {found[field]}")


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
