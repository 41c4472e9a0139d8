"""What an AetherNet is, as data: one frozen config per network, and the published presets.

Shapes, names and defaults are facts about the published networks (generations 1 to 3, June 2025 to version 3.1.1).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from aethernet.errors import UsageError
from aethernet.networks.descriptor import Descriptor, Tiling
from aethernet.networks.sizes import SizeRequirements

__all__ = ["NETWORK_PRESETS", "FoldState", "NetworkConfig", "Norm", "Preset", "preset_config"]

SCHEMA_VERSION = 1
"""Version of the JSON that travels with weights; raised when a field changes its meaning."""


class FoldState(StrEnum):
    """How far a set of weights has been folded."""

    TRAINING = "training"
    """Parallel kernels and running statistics, as a trainer saves it."""
    MERGED = "merged"
    """Parallel kernels merged, norms reduced to affine maps: what the networks' own fuse scripts write."""
    FUSED = "fused"
    """Everything linear folded into the convolutions: what this project deploys."""


class Norm(StrEnum):
    """Normalisation inside the blocks."""

    DEPLOYMENT = "deployment"
    """Per-channel affine map with running statistics; folds away."""
    LAYER = "layer"
    """Layer norm over channels; depends on the data, cannot fold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Everything needed to build one AetherNet. Equal configs build equal networks."""

    generation: int
    """1, 2 or 3."""
    scale: int
    """Output size over input size: 1, 2, 3, 4 (any power of two works)."""
    embed_dim: int
    """C, channels of the body."""
    depths: tuple[int, ...]
    """Blocks in each stage."""
    hidden_channels: int
    """Channels inside the gated feed-forward, int(C * mlp_ratio)."""
    large_kernel: int
    """Side of the large depthwise kernel, odd."""
    small_kernel: int | None
    """Side of the parallel small kernel, odd; None where the kernels arrived merged and it cannot be known."""
    in_channels: int = 3
    """Channels of the picture, in and out: 3 (RGB) or 1 (grey)."""
    norm: Norm = Norm.DEPLOYMENT
    """Norm of blocks and body. Generation 1 has layer norms only."""
    norm_eps: float = 1e-5
    """Added to the variance inside the norms of generations 2 and 3."""
    channel_attention: bool = False
    """Squeeze-and-excitation after each feed-forward; pools over the whole picture."""
    spatial_attention: bool = False
    """7x7 spatial gate after each feed-forward."""
    residual_scale: float = 1.0
    """Factor on every block's branch; left no trace in generation 3's tensors."""
    image_range: float = 1.0
    """Range the network was trained in."""
    reconstruction_channels: int | None = None
    """Channels before the last convolution; None takes the generation's own rule."""

    def __post_init__(self) -> None:
        if self.generation not in (1, 2, 3):
            raise UsageError(f"expected generation 1, 2 or 3, found {self.generation}")
        if self.scale < 1 or (self.scale != 3 and self.scale & (self.scale - 1)):
            raise UsageError(f"expected a scale of 1, 3 or a power of two, found {self.scale}")
        widths = (self.embed_dim, self.hidden_channels, self.in_channels, self.upsampled_channels)
        if any(width < 1 for width in widths):
            raise UsageError("expected positive channel counts")
        if not self.depths or any(depth < 1 for depth in self.depths):
            raise UsageError(f"expected at least one block in every stage, found depths {self.depths}")
        for kernel in (self.large_kernel, self.small_kernel):
            if kernel is not None and (kernel < 1 or kernel % 2 == 0):
                raise UsageError(f"expected odd kernels, found {kernel}")
        if self.small_kernel is not None and self.small_kernel > self.large_kernel:
            raise UsageError(
                f"the small kernel ({self.small_kernel}) is larger than the large one ({self.large_kernel})"
            )
        if any(not 0 < number < math.inf for number in (self.residual_scale, self.image_range, self.norm_eps)):
            raise UsageError("expected a positive residual_scale, image_range and norm_eps")
        if self.generation == 1 and (self.norm is not Norm.LAYER or self.channel_attention or self.spatial_attention):
            raise UsageError("generation 1 has layer norms and no attention")
        if self.channel_attention and self.embed_dim // 8 < 1:
            raise UsageError("channel attention needs at least 8 channels")

    @property
    def upsampled_channels(self) -> int:
        """Channels that enter the last convolution."""
        if self.reconstruction_channels is not None:
            return self.reconstruction_channels
        if self.generation == 1:
            return 64
        width = self.embed_dim // max(1, self.scale // 2)
        return max(32, width - width % 2 if self.generation == 3 else width)

    @property
    def fusion_shares(self) -> tuple[int, ...]:
        """Channels each stage contributes to the fusion (generations 2 and 3); they add up to C."""
        share, rest = divmod(self.embed_dim, len(self.depths))
        return tuple(share + (index < rest) for index in range(len(self.depths)))

    @property
    def out_channels(self) -> int:
        """Channels of the result: those of the picture."""
        return self.in_channels

    @property
    def size(self) -> SizeRequirements:
        """Any size will do."""
        return SizeRequirements()

    @property
    def descriptor(self) -> Descriptor:
        """What a program has to know to run the network."""
        return Descriptor(
            architecture="AetherNet",
            library="aethernet",
            variant=f"generation {self.generation}, {self.preset_name()}",
            scale=self.scale,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            size=self.size,
            tiling=Tiling.DISCOURAGED if self.pools_globally else Tiling.SUPPORTED,
            receptive_radius=self.receptive_radius,
        )

    @property
    def pools_globally(self) -> bool:
        """Whether an output pixel depends on the whole picture, so that tiles change the result."""
        return self.channel_attention

    @property
    def receptive_radius(self) -> int:
        """How many input pixels away from its own position an output pixel can look, pooling aside.

        Sum of the half-kernels along the longest path, those after upsampling counted in input pixels, rounded up.
        """
        block = self.large_kernel // 2 + (3 if self.spatial_attention else 0)
        radius = 1 + block * sum(self.depths) + 1 + 1  # conv_first, body, conv_after_body, conv_before_upsample
        resolution, halves = 1, 0.0
        steps = [3] if self.scale == 3 else [2] * (self.scale.bit_length() - 1)
        for step in steps:
            halves += 1 / resolution
            resolution *= step
        if self.scale == 1 and self.generation != 1:
            halves += 1
        return radius + int(halves + 1 / resolution + 0.999999)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that :meth:`from_json` turns back into an equal config."""
        return dataclasses.asdict(self) | {"depths": list(self.depths), "norm": self.norm.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NetworkConfig:
        """The inverse of :meth:`to_json`.

        Raises:
            UsageError: A field is unknown, missing or out of range.
        """
        try:
            return cls(**{**data, "depths": tuple(data["depths"]), "norm": Norm(data["norm"])})
        except (TypeError, KeyError, ValueError) as error:
            raise UsageError(f"not a network config: {error}") from error

    @property
    def title(self) -> str:
        """What people call it, such as ``AetherNet generation 2, tiny``."""
        return self.descriptor.title

    def preset_name(self) -> str:
        """The published preset with exactly this shape, such as ``small``, else ``custom``."""
        for name in NETWORK_PRESETS[self.generation]:
            candidate = preset_config(self.generation, name, self.scale, in_channels=self.in_channels)
            # What a merged or fused file cannot tell must not keep it from being recognised.
            untold = ("small_kernel", "residual_scale", "reconstruction_channels")
            if dataclasses.replace(candidate, **{field: getattr(self, field) for field in untold}) == self:
                return name
        return "custom"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What a published name stands for; everything else follows from the generation."""

    embed_dim: int
    depths: tuple[int, ...]
    channel_attention: bool = False
    spatial_attention: bool = False
    mlp_ratio: float
    large_kernel: int
    small_kernel: int
    residual_scale: float = 1.0


def _generation_1(embed_dim: int, depths: tuple[int, ...]) -> Preset:
    return Preset(embed_dim=embed_dim, depths=depths, mlp_ratio=2, large_kernel=11, small_kernel=3)


def _generation_2(embed_dim: int, depths: tuple[int, ...], attention: bool = False) -> Preset:
    return Preset(
        embed_dim=embed_dim,
        depths=depths,
        channel_attention=attention,
        spatial_attention=attention,
        mlp_ratio=2,
        large_kernel=11,
        small_kernel=3,
    )


def _generation_3(
    embed_dim: int,
    depths: tuple[int, ...],
    *,
    channel: bool = True,
    spatial: bool = False,
    mlp_ratio: float = 1.5,
    large_kernel: int = 13,
    small_kernel: int = 5,
    residual_scale: float = 0.1,
) -> Preset:
    return Preset(
        embed_dim=embed_dim,
        depths=depths,
        channel_attention=channel,
        spatial_attention=spatial,
        mlp_ratio=mlp_ratio,
        large_kernel=large_kernel,
        small_kernel=small_kernel,
        residual_scale=residual_scale,
    )


NETWORK_PRESETS: Mapping[int, Mapping[str, Preset]] = MappingProxyType(
    {
        1: MappingProxyType(
            {
                "small": _generation_1(96, (4,) * 4),
                "medium": _generation_1(128, (6,) * 6),
                "large": _generation_1(180, (8,) * 8),
            }
        ),
        2: MappingProxyType(
            {
                "tiny": _generation_2(64, (3,) * 3),
                "small": _generation_2(96, (4,) * 4),
                "medium": _generation_2(128, (6,) * 4, attention=True),
                "large": _generation_2(180, (8,) * 5, attention=True),
            }
        ),
        3: MappingProxyType(
            {
                "mobile": _generation_3(
                    64, (2,) * 4, channel=False, large_kernel=7, small_kernel=3, residual_scale=0.2
                ),
                "tiny": _generation_3(64, (3,) * 3, residual_scale=0.2),
                "small": _generation_3(96, (4,) * 4),
                "medium": _generation_3(128, (6,) * 4),
                "large": _generation_3(180, (8,) * 5, spatial=True),
                "pro": _generation_3(192, (8,) * 5, spatial=True, large_kernel=15, mlp_ratio=1.75),
                "extreme": _generation_3(256, (12,) * 5, spatial=True, large_kernel=21, mlp_ratio=2),
            }
        ),
    }
)
"""generation -> name -> preset."""

NORM_EPS: Mapping[int, float] = MappingProxyType({1: 1e-6, 2: 1e-5, 3: 1e-4})
"""Epsilon of each generation's own block norm (a layer norm in generations 2 and 3 always has 1e-5)."""


def preset_config(
    generation: int, name: str, scale: int, *, in_channels: int = 3, norm: Norm | None = None
) -> NetworkConfig:
    """The config of a published preset, for example ``preset_config(2, "tiny", 2)``.

    Raises:
        UsageError: There is no such preset.
    """
    try:
        preset = NETWORK_PRESETS[generation][name]
    except KeyError:
        known = ", ".join(f"generation {g}: {', '.join(names)}" for g, names in NETWORK_PRESETS.items())
        raise UsageError(f"there is no preset '{name}' in generation {generation}", hint=f"known are {known}") from None
    norm = norm or (Norm.LAYER if generation == 1 else Norm.DEPLOYMENT)
    return NetworkConfig(
        generation=generation,
        scale=scale,
        in_channels=in_channels,
        embed_dim=preset.embed_dim,
        depths=preset.depths,
        hidden_channels=int(preset.embed_dim * preset.mlp_ratio),
        large_kernel=preset.large_kernel,
        small_kernel=preset.small_kernel,
        norm=norm,
        norm_eps=NORM_EPS[generation] if norm is Norm.DEPLOYMENT or generation == 1 else 1e-5,
        channel_attention=preset.channel_attention,
        spatial_attention=preset.spatial_attention,
        residual_scale=preset.residual_scale,
    )


def describe(config: Mapping[str, Any]) -> Descriptor:
    """The network that ``config.json`` and the manifest hold as ``network`` and ``config``.

    Raises:
        UsageError: It is not the config of a network.
    """
    if "library" in config:
        return Descriptor.from_json(config)
    return NetworkConfig.from_json(config).descriptor
