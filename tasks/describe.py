"""Describe: everything a release says about itself, as ``release.json`` and the record of its build."""

from __future__ import annotations

import dataclasses
import datetime

from aethernet.artifact import Artifact
from aethernet.checkpoint import load
from aethernet.comparison import Acceptance, Limits, Quality
from aethernet.engines.identity import EngineSpeed
from aethernet.host import describe_host, describe_run, toolchain
from aethernet.networks.receptive_field import measured
from aethernet.networks.third_party import ForeignNetwork
from aethernet.precision import Precision
from aethernet.records import canonical_json
from aethernet.release.manifest import (
    BuildRecord,
    Conditions,
    EngineEntry,
    FileEntry,
    FormStatus,
    Manifest,
    NetworkFacts,
    PartSpeed,
    PictureFacts,
    QuantizationFacts,
    SpeedRun,
    identity_of,
)
from aethernet.release.sbom import BOM, bill_of_materials
from aethernet.release.spec import ReleaseSpec
from tasks.caching import current_store, stage
from tasks.compare import Compared
from tasks.fetch import ValidationImage
from tasks.load import LoadedCheckpoint

__all__ = ["bill", "describe", "describe_network", "record_build", "released_facts", "write_config"]


@stage()
def describe_network(
    reference: Artifact,
    parameters: int,
    nodes_unfused: int | None,
    nodes_fused: int,
    static: tuple[int, int] | None = None,
) -> NetworkFacts:
    """Facts about the network; of another library's, also those that have to be measured."""
    network = load(current_store().get(reference))
    config = network.config
    if isinstance(network.model, ForeignNetwork):
        config = measured(network.model)
        config = dataclasses.replace(config, size=dataclasses.replace(config.size, fixed=static))
    return NetworkFacts(
        family=config.descriptor.architecture,
        preset=config.preset_name(),
        config=config.to_json(),
        parameters=parameters,
        receptive_radius=config.receptive_radius,
        pools_globally=config.pools_globally,
        nodes_unfused=nodes_unfused,
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
def describe(
    spec: dict[str, str],
    authors: tuple[str, ...],
    network: NetworkFacts,
    loaded: LoadedCheckpoint,
    files: list[FileEntry],
    acceptance: Acceptance,
    required: tuple[Precision, ...],
    limits: dict[Precision, Limits],
    pictures: list[ValidationImage],
    compared: list[Compared],
    baselines: list[Quality],
    quantization: QuantizationFacts | None,
    engines: list[EngineEntry],
) -> Manifest:
    """The manifest; files and numbers of skipped forms are left out of the files and kept in the numbers."""
    entries = tuple(sorted(files, key=lambda entry: entry.path))
    forms = [FormStatus(precision=precision, status="released") for precision in acceptance.accepted]
    forms += [FormStatus(precision=one, status="skipped", reason=why) for one, why in acceptance.skipped.items()]
    return Manifest(
        name=spec["name"],
        version=spec["version"],
        description=spec["description"],
        authors=authors,
        license=spec["license"],
        data_license=spec["data_license"],
        trained_on=spec["trained_on"],
        identity=identity_of(entries),
        network=network,
        checkpoint=loaded.facts.model_copy(update={"origin": spec["origin"]}),
        toolchain=toolchain(),
        files=entries,
        quantization=quantization,
        engines=tuple(engines),
        forms=tuple(sorted(forms, key=lambda form: list(Precision).index(form.precision))),
        required=required,
        limits=limits,
        conditions=Conditions(
            pictures=tuple(
                PictureFacts(
                    name=picture.name,
                    sha256=picture.low.sha256,
                    hr_sha256=picture.high.sha256 if picture.high else None,
                )
                for picture in pictures
            ),
            host=describe_host(),
            kernel=spec["kernel"],
        ),
        measurements=tuple(item for one in compared for item in one.measurements),
        quality=(*baselines, *(item for one in compared for item in one.quality)),
    )


@stage(host_matters=True)
def record_build(
    identity: str,
    speed: SpeedRun,
    parts: tuple[PartSpeed, ...],
    engine_speeds: dict[str, tuple[EngineSpeed, ...]],
) -> BuildRecord:
    """The record of this build; made once per content, so that an unchanged release keeps its own."""
    created = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
    return BuildRecord(
        identity=identity,
        created=created,
        host=describe_host(),
        run=describe_run(),
        speed=speed,
        parts=parts,
        engine_speeds=engine_speeds,
    )


def released_facts(spec: ReleaseSpec) -> dict[str, str]:
    """What of a spec goes into the manifest as it is."""
    fields = ("name", "version", "description", "license", "data_license", "trained_on", "kernel", "origin")
    return {field: getattr(spec, field) for field in fields}


@stage(quick=True)
def bill(manifest: Manifest) -> Manifest:
    """The manifest with the bill of materials among its files."""
    store = current_store()
    with store.scratch() as folder:
        (folder / BOM).write_bytes(canonical_json(bill_of_materials(manifest)))
        artifact = store.put(folder / BOM)
    entry = FileEntry(path=BOM, sha256=artifact.sha256, size=artifact.size, role="bill")
    return manifest.model_copy(update={"files": tuple(sorted((*manifest.files, entry), key=lambda one: one.path))})
