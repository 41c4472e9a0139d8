"""Tiny networks of every kind, filled with telling numbers, and files in every shape met in the wild."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aethernet.networks import AetherNet, NetworkConfig, Norm, build_network
from aethernet.networks.blocks import AffineMap, ChannelAttention, DeploymentNorm
from aethernet.training.initialisation import start_as_nearest_neighbour_

__all__ = [
    "EVERY_CONFIG",
    "FILES",
    "ONE_OF_EACH_GENERATION",
    "SELECTED_CONFIGS",
    "WRAPPERS",
    "calm_network",
    "ema_beside_decoy",
    "largest_difference",
    "randomised",
    "tiny_config",
    "tiny_network",
]


def tiny_config(generation: int = 2, **changes: Any) -> NetworkConfig:
    """A network of a few thousand weights with the generation's own norm and epsilon; two stages, three blocks."""
    config = NetworkConfig(
        generation=generation,
        scale=2,
        embed_dim=16,
        depths=(1, 2),
        hidden_channels=24,
        large_kernel=7,
        small_kernel=3,
        norm=Norm.LAYER if generation == 1 else Norm.DEPLOYMENT,
        norm_eps={1: 1e-6, 2: 1e-5, 3: 1e-4}[generation],
        residual_scale=0.2 if generation == 3 else 1.0,
    )
    if changes.get("norm") is Norm.LAYER and generation != 1:
        changes = {"norm_eps": 1e-5} | changes
    return dataclasses.replace(config, **changes)


def _every_config() -> Iterator[tuple[str, NetworkConfig]]:
    for scale, channels in itertools.product((1, 2, 3, 4), (3, 1)):
        ending = f"x{scale}-{'rgb' if channels == 3 else 'grey'}"
        yield f"gen1-{ending}", tiny_config(1, scale=scale, in_channels=channels)
        for generation, norm, channel, spatial in itertools.product((2, 3), Norm, (False, True), (False, True)):
            attention = {(0, 0): "plain", (1, 0): "channel", (0, 1): "spatial", (1, 1): "both"}[channel, spatial]
            yield (
                f"gen{generation}-{norm}-{attention}-{ending}",
                tiny_config(
                    generation,
                    scale=scale,
                    in_channels=channels,
                    norm=norm,
                    channel_attention=channel,
                    spatial_attention=spatial,
                ),
            )


EVERY_CONFIG: Mapping[str, NetworkConfig] = dict(_every_config())
"""Every generation x norm x attention x scale 1 to 4 x 3 or 1 channels."""

SELECTED_CONFIGS: Mapping[str, NetworkConfig] = {
    name: config
    for index, (name, config) in enumerate(EVERY_CONFIG.items())
    if index % 7 == 0 or name.startswith("gen1")
}
"""Every seventh and all of generation 1; every norm, attention, scale and number of channels occurs."""

ONE_OF_EACH_GENERATION: Mapping[str, NetworkConfig] = {
    "gen1": tiny_config(1),
    "gen2": tiny_config(2, channel_attention=True, spatial_attention=True),
    "gen3": tiny_config(3, channel_attention=True, spatial_attention=True),
}


@torch.no_grad()
def randomised(network: AetherNet, seed: int = 0) -> AetherNet:
    """``network`` itself in evaluation mode, every weight, bias and running statistic drawn from ``seed``.

    A fresh network has norms that do nothing, temperatures of one and biases of zero; on those a fold that forgets one
    of them is right by accident.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        gains = {"running_var", "temperature"}
        if isinstance(module, DeploymentNorm | AffineMap | nn.LayerNorm):
            gains.add("weight")
        tensors = itertools.chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        for name, tensor in tensors:
            if name in ("mean", "scale", "scale_tensor"):
                continue
            if name in gains:
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif isinstance(module, nn.Conv2d | nn.Linear) and name == "weight":
                gain = 5 if module.bias is None and module.groups == 1 else 1  # attention: averages are small
                tensor.copy_(gain * torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)
            else:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    for attention in [module for module in network.modules() if isinstance(module, ChannelAttention)]:
        # Opposite rows: whatever comes in, one of the two is positive and passes the rectifier.
        rows = attention.fc[0].weight[1::2]
        rows.copy_(-attention.fc[0].weight[::2][: len(rows)])
    return network.eval()


def tiny_network(generation: int = 2, *, seed: int = 0, **changes: Any) -> AetherNet:
    """The training form of :func:`tiny_config`, randomised."""
    return randomised(build_network(tiny_config(generation, **changes)), seed)


def calm_network(generation: int = 2) -> AetherNet:
    """Of :func:`tiny_config`, fresh: it enlarges like nearest neighbour, and int8 comes near it, unlike random ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(tiny_config(generation)).eval()
    start_as_nearest_neighbour_(network)
    return network


@torch.no_grad()
def largest_difference(first: nn.Module, second: nn.Module, picture: Tensor) -> float:
    """Largest absolute difference of two networks' answers to one picture."""
    return float((first(picture) - second(picture)).abs().max())


def ema_beside_decoy(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The wrapper of a trainer that keeps both; the raw weights are zeros, so that taking them shows."""
    return {
        "params": {name: torch.zeros_like(tensor) for name, tensor in tensors.items()},
        "params_ema": dict(tensors),
    }


def _prefixed(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


WRAPPERS: Mapping[str, Callable[[Mapping[str, Tensor]], dict[str, Any]]] = {
    "bare": dict,
    "params": lambda tensors: {"params": dict(tensors)},
    "params_ema": lambda tensors: {"params_ema": dict(tensors)},
    "ema beside decoy": ema_beside_decoy,
    "state_dict of a trainer": lambda tensors: {"epoch": 7, "state_dict": dict(tensors), "loss": 0.5},
    "state_dict with metadata": lambda tensors: {"state_dict": dict(tensors), "metadata": {"precision": "fp32"}},
    "module prefix": _prefixed,
    "module prefix, ema beside decoy": lambda tensors: ema_beside_decoy(_prefixed(tensors)),
}
"""name -> what a trainer puts around its tensors."""


def _write_legacy(content: Mapping[str, Any], path: Path) -> None:
    torch.save(dict(content), path, _use_new_zipfile_serialization=False)


def _write_zip(content: Mapping[str, Any], path: Path) -> None:
    torch.save(dict(content), path)


def _write_safetensors(content: Mapping[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(content), path)


FILES: Mapping[str, Callable[[Mapping[str, Any], Path], None]] = {
    "zip.pth": _write_zip,
    "legacy.pth": _write_legacy,
    "zip.pt": _write_zip,
    "zip.ckpt": _write_zip,
    "bare.safetensors": _write_safetensors,
}
"""file name -> how a file of that kind is written; the last takes tensors without a wrapper only."""
