"""A network whose architecture another library defines, in the one shape that everything else here works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aethernet.networks.config import FoldState
from aethernet.networks.descriptor import Descriptor, Tiling
from aethernet.networks.reparameterisation import foldable_modules, reparameterise_
from aethernet.networks.sizes import SizeRequirements

__all__ = ["PREFIX", "ForeignNetwork", "wrap"]

PREFIX = "network."
"""Before names in the wrapped network; files hold the architecture's own names."""


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
    def form(self) -> FoldState:
        """Training form where there is something to fold."""
        return FoldState.TRAINING if foldable_modules(self) else FoldState.FUSED

    def example(self) -> Tensor:
        """A picture of noise that the network takes, [1, C, H, W]."""
        height, width = self.config.size.fit(24, 20)
        noise = torch.rand(1, self.config.in_channels, height, width, generator=torch.Generator().manual_seed(0))
        return noise.to(next(self.parameters()).dtype)


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
