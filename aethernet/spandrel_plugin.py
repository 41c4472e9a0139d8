"""AetherNet for spandrel, the library that chaiNNer and many upscaling tools load checkpoints with.

After :func:`install`, spandrel's ``ModelLoader`` opens every AetherNet file it can read, of any generation and form::

    import aethernet.spandrel_plugin, spandrel
    aethernet.spandrel_plugin.install()
    model = spandrel.ModelLoader().load_from_file("aether_small_2x_fp32.safetensors")

spandrel hands over tensors alone, no metadata. A training-form or merged checkpoint of generation 3 therefore gets its
residual scale guessed, which is logged; the fused files of a release hold nothing that has to be guessed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from aethernet.errors import MissingDependencyError

if TYPE_CHECKING:
    from spandrel import Architecture, ArchSupport

    from aethernet.networks.config import NetworkConfig

__all__ = ["ARCHITECTURE_ID", "install"]

log = logging.getLogger(__name__)

ARCHITECTURE_ID = "AetherNet"
"""What spandrel's registry knows the architecture by."""

_LARGE_KERNEL = re.compile(r"(stages|layers)\.0\.0\.conv\.(lk_conv|fused_conv)\.weight")


def install(*, ignore_duplicates: bool = False) -> list[ArchSupport]:
    """Add AetherNet to spandrel's main registry.

    Args:
        ignore_duplicates: Where an architecture of this name is registered already, keep that one and add nothing.

    Returns:
        What was added.

    Raises:
        MissingDependencyError: spandrel, or torchvision which it needs, is not installed.
        spandrel.DuplicateArchitectureError: The name is taken and ``ignore_duplicates`` is not set.
    """
    try:
        from spandrel import MAIN_REGISTRY, ArchSupport
    except ImportError as error:
        raise MissingDependencyError(error.name or "spandrel", extra="spandrel") from error
    support = ArchSupport.from_architecture(_architecture())
    added: list[ArchSupport] = MAIN_REGISTRY.add(support, ignore_duplicates=ignore_duplicates)
    return added


@cache
def _architecture() -> Architecture[Any]:
    """The architecture; its class exists only where spandrel does."""
    from spandrel import Architecture, ImageModelDescriptor, ModelTiling

    from aethernet.checkpoint.aethernet import assemble
    from aethernet.checkpoint.embedding import take_apart
    from aethernet.networks.network import as_aethernet

    class AetherNetArchitecture(Architecture):  # type: ignore[misc]  # spandrel ships no types
        """Recognises and builds every form of every generation, through the same code as ``aethernet.load``."""

        def __init__(self) -> None:
            super().__init__(id=ARCHITECTURE_ID, name="AetherNet", detect=_is_aethernet)

        def load(self, state_dict: Mapping[str, Any]) -> ImageModelDescriptor:
            # An int8 network from fine-tuning can be held against its record only, and that does not come along.
            floats, _ = take_apart(state_dict)
            loaded = assemble(floats, {})
            for note in loaded.notes:
                log.warning("%s", note)
            config = as_aethernet(loaded.model).config
            return ImageModelDescriptor(
                loaded.model,
                loaded.model.state_dict(),
                architecture=self,
                purpose="Restoration" if config.scale == 1 else "SR",
                tags=_tags(config),
                supports_half=True,
                supports_bfloat16=True,
                scale=config.scale,
                input_channels=config.in_channels,
                output_channels=config.in_channels,
                tiling=ModelTiling.DISCOURAGED if config.pools_globally else ModelTiling.SUPPORTED,
            )

    return AetherNetArchitecture()


def _is_aethernet(state_dict: Mapping[str, Any]) -> bool:
    return (
        "conv_first.weight" in state_dict
        and "conv_last.weight" in state_dict
        and any(_LARGE_KERNEL.fullmatch(name) for name in state_dict)
    )


def _tags(config: NetworkConfig) -> list[str]:
    depths = "-".join(map(str, config.depths))
    kernel = f"{config.large_kernel}x{config.large_kernel}"
    return [config.preset_name(), f"v{config.generation}", f"{config.embed_dim}dim", depths, f"{kernel} kernel"]
