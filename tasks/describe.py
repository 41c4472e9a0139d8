"""Describe: everything a release says about itself, as ``release.json`` and the record of its build."""

from __future__ import annotations

import dataclasses
import datetime

from pydantic import BaseModel

from aethernet.artifact import Artifact
from aethernet.checkpoint import load
from aethernet.engines.identity import EngineSpeed
from aethernet.host import describe_host, describe_run, toolchain
from aethernet.networks.receptive_field import measured
from aethernet.networks.third_party import ThirdPartyNetwork
from aethernet.records import canonical_json
from aethernet.release.entries import sbom_entry
from aethernet.release.facts import ReleaseFacts
from aethernet.release.manifest import BuildRecord, Manifest, NetworkFacts, PartSpeed, SpeedRun
from aethernet.release.sbom import BOM, bill_of_materials
from tasks.caching import current_store, stage

__all__ = ["BuildTimes", "bill", "describe", "describe_network", "record_build", "write_config"]


@stage()
def describe_network(
    reference: Artifact,
    parameters: int,
    nodes_fused: int,
    static: tuple[int, int] | None = None,
) -> NetworkFacts:
    """Facts about the network; of another library's, also those that have to be measured."""
    network = load(current_store().get(reference))
    config = network.config
    if isinstance(network.model, ThirdPartyNetwork):
        config = measured(network.model)
        config = dataclasses.replace(config, size=dataclasses.replace(config.size, fixed=static))
    return NetworkFacts(
        family=config.descriptor.architecture,
        preset=config.preset_name(),
        config=config.to_json(),
        parameters=parameters,
        receptive_radius=config.receptive_radius,
        pools_globally=config.pools_globally,
        nodes_fused=nodes_fused,
    )


@stage(quick=True)
def write_config(network: NetworkFacts) -> Artifact:
    """``config.json`` for loaders."""
    store = current_store()
    with store.scratch() as folder:
        content = {"family": network.family, "preset": network.preset, "form": "fused", "network": network.config}
        (folder / "config.json").write_bytes(canonical_json(content))
        return store.put(folder / "config.json")


@stage(host_matters=True, quick=True)
def describe(facts: ReleaseFacts) -> Manifest:
    """The manifest; files of skipped precisions are not in it, their numbers are."""
    return facts.manifest(toolchain=toolchain(), host=describe_host())


class BuildTimes(BaseModel):
    """What differs from build to build: how long things took."""

    speed: SpeedRun
    parts: tuple[PartSpeed, ...] = ()
    engine_speeds: dict[str, tuple[EngineSpeed, ...]] = {}
    engine_build_seconds: dict[str, float] = {}


@stage(host_matters=True)
def record_build(identity: str, times: BuildTimes) -> BuildRecord:
    """The record of this build; made once per content, so that an unchanged release keeps its own."""
    created = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
    return BuildRecord(
        identity=identity,
        created=created,
        host=describe_host(),
        run=describe_run(),
        speed=times.speed,
        parts=times.parts,
        engine_speeds=times.engine_speeds,
        engine_build_seconds=times.engine_build_seconds,
    )


@stage(quick=True)
def bill(manifest: Manifest) -> Manifest:
    """The manifest with the bill of materials among its files."""
    store = current_store()
    with store.scratch() as folder:
        (folder / BOM).write_bytes(canonical_json(bill_of_materials(manifest)))
        entry = sbom_entry(BOM, store.put(folder / BOM))
    return manifest.model_copy(update={"files": tuple(sorted((*manifest.files, entry), key=lambda one: one.path))})
