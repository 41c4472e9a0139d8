"""Networks of other architectures, by way of spandrel (https://github.com/chaiNNer-org/spandrel).

Files are read by :mod:`aethernet.checkpoint.reading`, never by spandrel, whose loader unpickles: it is handed tensors.
It recognises the architecture, infers its sizes and builds it; everything after that is ours.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from aethernet.architectures.activations import respelled
from aethernet.architectures.descriptor import Descriptor, SizeRequirements, Tiling
from aethernet.architectures.reparameterisation import foldable_modules, reparameterise_
from aethernet.errors import (
    CheckpointError,
    KeyMismatchError,
    NonFiniteWeightsError,
    SpecMismatchError,
    UnknownNetworkError,
    UsageError,
)
from aethernet.network.config import Form

if TYPE_CHECKING:
    from aethernet.checkpoint.loading import LoadedNetwork
    from aethernet.network import AetherNet

    Network: TypeAlias = "AetherNet | ForeignNetwork"

__all__ = ["PREFIX", "RECORD", "ForeignNetwork", "architecture_of", "as_aethernet", "assemble_foreign", "wrap"]

PREFIX = "network."
"""Before names in the wrapped network; files hold the architecture's own names."""
RECORD = "aethernet.record"
"""Entry of a ``.pth`` that holds what safetensors files have in their metadata."""
_MOST_LAYERS = 4096
"""Larger numbers inside a tensor's name belong to no network, and would have one built that fills the memory."""

log = logging.getLogger(__name__)


class ForeignNetwork(nn.Module):
    """A network as spandrel built it: [N, C, H, W] in [0, 1] -> [N, C', s*H, s*W], H and W as ``config.size`` says.

    Unlike spandrel's own call it neither pads nor clips: padding is the runner's, and clipping the viewer's.

    Args:
        network: The architecture's module, weights loaded.
        config: What it is.
        call: How a picture goes through the module.
    """

    def __init__(
        self,
        network: nn.Module,
        config: Descriptor,
        call: Callable[[nn.Module, Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.call = call
        self.left_out: dict[str, tuple[int, ...]] = {}
        """Tensors that folding took away, by the architecture's names -> shape."""
        self.added: set[str] = set()
        """Tensors that folding brought in."""
        self.layers: Any = None
        """What :mod:`aethernet.quantization.generic` saw when the network ran."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the network, on a copy: some work in place, and would change the caller's picture."""
        return self.call(self.network, x.clone())

    def merge_(self) -> None:
        """Fold what re-parameterises itself; proven on a picture of noise."""
        before = {name: tuple(tensor.shape) for name, tensor in self.network.state_dict().items()}
        reparameterise_(self, self.example())
        self.note_changes(before)

    def note_changes(self, before: Mapping[str, tuple[int, ...]]) -> None:
        """Remember which tensors came and went, given name -> shape as they were."""
        after = self.network.state_dict()
        self.left_out |= {name: shape for name, shape in before.items() if name not in after and name not in self.added}
        self.added = (self.added | (after.keys() - before.keys())) & after.keys()

    def fold_(self) -> None:
        """Nothing more: what reaches across modules differs from architecture to architecture."""

    @property
    def form(self) -> Form:
        """Training form where there is something to fold."""
        return Form.TRAINING if foldable_modules(self) else Form.FUSED

    def example(self) -> Tensor:
        """A picture of noise that the network takes, [1, C, H, W]."""
        height, width = self.config.size.fit(24, 20)
        noise = torch.rand(1, self.config.in_channels, height, width, generator=torch.Generator().manual_seed(0))
        return noise.to(next(self.parameters()).dtype)


def as_aethernet(network: Network) -> AetherNet:
    """The network, where it is an AetherNet.

    Raises:
        UsageError: It is another.
    """
    if isinstance(network, ForeignNetwork):
        raise UsageError(f"expected an AetherNet for this, found {network.config.architecture}")
    return network


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
    from aethernet.checkpoint.loading import LoadedNetwork
    from aethernet.quantization.state import is_int8, restore, split

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


def wrap(descriptor: Any) -> ForeignNetwork:
    """Our network around spandrel's ``ImageModelDescriptor``."""
    size = descriptor.size_requirements
    config = Descriptor(
        architecture=str(descriptor.architecture.id),
        library="spandrel",
        variant=" ".join(map(str, descriptor.tags)),
        scale=descriptor.scale,
        in_channels=descriptor.input_channels,
        out_channels=descriptor.output_channels,
        size=SizeRequirements(minimum=max(1, size.minimum), multiple=size.multiple_of, square=size.square),
        tiling=Tiling(descriptor.tiling.name.lower()),
        supports_half=descriptor.supports_half,
    )
    return ForeignNetwork(descriptor.model, config, descriptor._call_fn).eval()


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
    from aethernet.checkpoint.saving import METADATA_KEY

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
