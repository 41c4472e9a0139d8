"""The release, left to right: a checkpoint goes in, a checked and published release folder comes out."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from pydantic import BaseModel

from aethernet.hub.protocol import Publication
from aethernet.precision import Precision
from aethernet.release.manifest import CARD, OPENMODELDB, REPORT, Manifest
from aethernet.release.signing import Signer
from aethernet.release.spec import ReleaseSpec
from flows.build import engines_of
from flows.forms import (
    artifact_of,
    engine_measurements,
    engine_models,
    engine_profiles,
    engine_speeds,
    file_entries,
    int8_files,
    metadata_of,
    plain_files,
    quantization_facts,
    runs_of,
)
from flows.reporting import report_release
from tasks.assemble import assemble
from tasks.benchmark import BenchmarkFile, benchmark, measure_speedup
from tasks.card import card
from tasks.compare import accept, compare, run_reference
from tasks.describe import bill, describe, describe_network, record_build, released_facts, write_config
from tasks.draw import draw
from tasks.export import count_unfused_nodes, export, export_half, resolved_export
from tasks.fetch import fetch_calibration, fetch_checkpoint, fetch_pictures
from tasks.fuse import fuse
from tasks.load import load
from tasks.openmodeldb import openmodeldb
from tasks.publish import Verified, publish, verify_published
from tasks.quantize import Int8, export_quantized, quantize
from tasks.report import report
from tasks.sensitivity import CHART, FloatParts, sensitivity
from tasks.sign import sign

__all__ = ["Outcome", "release"]


class Outcome(BaseModel):
    """What a release run achieved."""

    bundle: Path
    manifest: Manifest
    publication: Publication | None = None
    verified: Verified | None = None


@flow(
    name="release", flow_run_name="release {spec.name} {spec.version}", persist_result=False, validate_parameters=False
)
def release(
    spec: ReleaseSpec, output: Path, hub: str | None = None, signer: Signer | None = None, private: bool = False
) -> Outcome:
    """Make, prove, assemble, sign (with ``signer``) and publish (with ``hub``) one release.

    Args:
        spec: Everything the release depends on.
        output: Folder in which the release folder ``spec.name`` is put.
        hub: Place to publish to, such as ``hf://org``; None makes the folder only.
        signer: How to sign; None leaves the release unsigned.
        private: Whether a repository that has to be made is for invited readers only.
    """
    checkpoint = fetch_checkpoint(spec)
    pictures = fetch_pictures(spec)
    reference = load(checkpoint, spec.name, spec.network, spec.residual_scale)

    weights = {one: fuse(reference.weights, spec.name, one) for one in spec.wanted if one is not Precision.INT8}
    fused = weights[Precision.FP32].safetensors
    metadata = metadata_of(spec, reference)
    models = {Precision.FP32: export(fused, spec.name, spec.export, metadata)}
    exporting = resolved_export(spec.export, models[Precision.FP32])
    if Precision.FP16 in spec.wanted:
        half = export_half(models[Precision.FP32], fused, spec.name, exporting, metadata, pictures)
        if half.model is not None:
            models[Precision.FP16] = half.model
    forms = {precision: plain_files(precision, weights[precision], model) for precision, model in models.items()}
    not_made = {one: "left out by the spec" for one in spec.leave_out if spec.precisions is None}
    if Precision.FP16 in spec.wanted and half.reason is not None:
        not_made[Precision.FP16] = half.reason
    int8, spelled, choice = None, [], FloatParts(spec=spec.quantization)
    if Precision.INT8 in spec.wanted:
        calibration = fetch_calibration(spec)
        # Fine-tuning has chosen already.
        if spec.quantization.budget_db is not None and not reference.facts.finetuned:
            choice = sensitivity(checkpoint, spec.residual_scale, fused, calibration, spec.quantization)
        int8 = Int8(reason=choice.reason)
        if choice.reason is None:
            int8 = quantize(checkpoint, spec.residual_scale, fused, spec.name, calibration, choice.spec)
        spelled = export_quantized(int8, spec.name, exporting, metadata) if int8.facts else []
        made = int8_files(int8, spelled)
        if isinstance(made, str):
            not_made[Precision.INT8] = made
        else:
            forms[Precision.INT8] = made

    truth = run_reference(reference.weights, pictures, exporting.static)
    compared = [compare(precision, files, truth, pictures) for precision, files in runs_of(forms.values())]
    speedups = {}
    if Precision.INT8 in forms:
        fast = forms[Precision.INT8].models[0].file
        speedups[Precision.INT8] = measure_speedup(
            models[Precision.FP32].file, fast, truth.channels, pictures, exporting.static
        )
    trained = reference.facts.finetuned or reference.facts.quantization_records > 0
    limits = {precision: spec.limits_of(precision, trained=trained) for precision in forms}
    accepted = accept(compared, truth.quality, limits, spec.required, not_made, speedups)

    released = [form for precision, form in forms.items() if precision in accepted.accepted]
    profiles = engine_profiles(spec.engines, reference.size, exporting.static)
    engines = engines_of(profiles, engine_models(released), reference.weights, pictures, limits)
    compared += engine_measurements(engines)
    contenders = [BenchmarkFile(file=form.models[0].file, precision=form.precision) for form in released]
    speed = benchmark(reference.weights, contenders, pictures, exporting.static)
    nodes = count_unfused_nodes(reference.weights, exporting)
    network = describe_network(
        reference.weights,
        weights[Precision.FP32].parameters,
        nodes,
        models[Precision.FP32].description.nodes,
        exporting.static,
    )
    drawn = draw(truth, pictures, contenders)
    images = dict(drawn.images)
    if choice.chart is not None and Precision.INT8 in accepted.accepted:
        images[CHART] = choice.chart
    files = file_entries(reference, released, write_config(network), images, engines)
    facts = describe(
        released_facts(spec),
        spec.authors,
        network,
        reference,
        files,
        accepted,
        spec.required,
        limits,
        pictures,
        compared,
        truth.quality,
        quantization_facts(int8, spelled, choice) if Precision.INT8 in accepted.accepted else None,
        [engine.entry for engine in engines],
    )
    manifest = bill(facts)
    record = record_build(manifest.identity, speed, choice.speeds, engine_speeds(engines))
    readme = card(manifest, record)
    rendered = {
        CARD: readme,
        REPORT: report(manifest, record, drawn.pieces),
        OPENMODELDB: openmodeldb(manifest, record, spec.openmodeldb),
    }
    bundle = assemble(
        output / spec.name,
        manifest,
        record,
        rendered,
        {entry.path: artifact_of(entry) for entry in manifest.files},
    )
    report_release(manifest, readme, images)

    if signer is not None:
        sign(bundle, signer)
    if hub is None:
        return Outcome(bundle=bundle.root, manifest=manifest)
    trust = signer.trust() if signer is not None else None
    publication = publish(bundle, hub, spec.name, private, trust)
    verified = verify_published(publication, trust)
    return Outcome(bundle=bundle.root, manifest=manifest, publication=publication, verified=verified)
