"""Exported files shared by the tests of this folder; an export takes seconds."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from aethernet.export import ExportConfig, OnnxDescription, export_fp32
from aethernet.networks import AetherNet, NetworkConfig, Norm, build_network
from aethernet.networks.fusion import fuse
from tests.support.networks import randomised, tiny_config
from tests.support.releases import made_once


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network, what it was exported to, and what the export said about that."""

    network: AetherNet
    path: Path
    description: OnnxDescription


Export = Callable[..., Exported]

_BOTH = {"channel_attention": True, "spatial_attention": True}

CONFIGS: dict[str, NetworkConfig] = {
    "gen1-x1-rgb": tiny_config(1, scale=1, depths=(1,)),
    "gen2-both-x2-grey": tiny_config(2, scale=2, depths=(1,), in_channels=1, **_BOTH),
    "gen3-layer-both-x3-rgb": tiny_config(3, scale=3, depths=(1, 1), norm=Norm.LAYER, **_BOTH),
    "gen3-spatial-x4-grey": tiny_config(3, scale=4, depths=(1,), in_channels=1, spatial_attention=True),
}
"""Between them: every generation, scale, number of channels, norm and attention."""

REFERENCE = "gen2-both-x2-grey"
"""The one that stands for all where one is enough."""

every_network = pytest.mark.parametrize(
    "name",
    [name if name in ("gen1-x1-rgb", REFERENCE) else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS],
)


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export once for all of pytest's processes: ``export(name, fused=True, opset=17, static=None)``."""
    known: dict[tuple[object, ...], Exported] = {}

    def export(
        name: str = REFERENCE, *, fused: bool = True, opset: int = 17, static: tuple[int, int] | None = None
    ) -> Exported:
        key = (name, fused, opset, static)
        if key not in known:
            network = randomised(build_network(CONFIGS[name]))
            network = fuse(network) if fused else network
            config = ExportConfig(opset=opset, static=static)
            with made_once(tmp_path_factory, "exported-" + "-".join(map(str, key))) as (folder, made):
                path, description = folder / "network.onnx", folder / "description.pickle"
                if not made:
                    described = export_fp32(network, path, config, {"license": "test"})
                    description.write_bytes(pickle.dumps(described))
                known[key] = Exported(network, path, pickle.loads(description.read_bytes()))
        return known[key]

    return export
