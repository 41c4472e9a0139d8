"""The release, left to right: a checkpoint goes in, a checked and published release folder comes out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from prefect import flow

from aethernet.precision import Precision
from aethernet.release.bundle import Bundle
from aethernet.release.entries import artifact_of, config_entry, image_entries, ncnn_entries, reference_entry
from aethernet.release.facts import AuthorFacts, ReleaseFacts
from aethernet.release.manifest import CARD, OPENMODELDB, REPORT
from aethernet.release.signing import Signer
from aethernet.release.spec import ReleaseSpec
from flows.build import build_times, engine_files, engine_measurements, engines_of
from flows.outcome import Outcome
from flows.precisions import Precisions, Source, make_fp16, make_fp32, make_int8
from flows.reporting import report_release
from tasks.assemble import assemble
from tasks.benchmark import benchmark
from tasks.card import card
from tasks.compare import accept, run_reference
from tasks.describe import bill, describe, record_build, write_config
from tasks.draw import draw
from tasks.fetch import fetch_checkpoint, fetch_images
from tasks.load import load
from tasks.ncnn import ncnn_outcome
from tasks.openmodeldb import openmodeldb
from tasks.publish import publish, verify_published
from tasks.report import report
from tasks.sign import sign
from tasks.site import site

__all__ = ["release"]


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
    checkpoint, images = fetch_checkpoint(spec), fetch_images(spec)
    reference = load(checkpoint, spec.name, spec.network, spec.residual_scale)

    source = Source(spec=spec, checkpoint=checkpoint, reference=reference, images=images)
    fp32 = make_fp32(source)
    made = Precisions(fp32=fp32, fp16=make_fp16(source, fp32), int8=make_int8(source, fp32))

    static, limits = fp32.model.static, source.limits(made.files)
    truth = run_reference(reference.weights, images, static)
    compared = made.compare(truth, images)
    speedups = made.speedups(truth, images)
    acceptance = accept(compared, truth.quality, limits, spec.required, made.not_made, speedups)
    released = made.released(acceptance)

    profiles = spec.engines.fitted(dataclasses.replace(reference.size, fixed=static))
    engines = engines_of(profiles, released.engine_sources, reference.weights, images, limits)
    ncnn = ncnn_outcome(fp32.weights.safetensors, fp32.model.file, spec, truth, images)
    speed = benchmark(reference.weights, released.candidates, images, static)
    network = fp32.describe()
    drawn = draw(truth, images, released.candidates)
    drawings = {**drawn.images, **released.drawings()}

    files = [reference_entry(reference.weights, reference.facts.form), config_entry(write_config(network))]
    files += [entry for one in released.files for entry in one.entries()]
    files += [*engine_files(engines), *ncnn_entries(ncnn.files, Precision(spec.ncnn.weights)), *image_entries(drawings)]
    facts = ReleaseFacts(
        author=AuthorFacts.of(spec),
        network=network,
        checkpoint=reference.facts,
        files=tuple(files),
        acceptance=acceptance,
        limits=limits,
        images=tuple(image.facts for image in images),
        measurements=(
            *(item for one in compared for item in one.measurements),
            *engine_measurements(engines),
            *ncnn.measurements,
        ),
        quality=(*truth.quality, *(item for one in compared for item in one.quality)),
        quantization=released.quantization,
        engines=tuple(engine.entry for engine in engines),
        ncnn=ncnn.facts,
    )
    manifest = bill(describe(facts))
    record = record_build(manifest.identity, build_times(speed, made.int8.choice.speeds, engines))
    rendered = {
        CARD: card(manifest, record),
        REPORT: report(manifest, record, drawn.pieces),
        OPENMODELDB: openmodeldb(manifest, record, spec.openmodeldb),
    }
    contents = {entry.path: artifact_of(entry) for entry in manifest.files}
    bundle = assemble(output / spec.name, manifest, record, rendered, contents)
    report_release(manifest, rendered[CARD], drawings)
    page = site(bundle, output / f"{spec.name}_site", images, spec.web) if spec.web is not None else None
    return _delivered(bundle, hub, signer, private).model_copy(update={"site": page})


def _delivered(bundle: Bundle, hub: str | None, signer: Signer | None, private: bool) -> Outcome:
    """Sign a finished release, publish it, and look at what was published, as far as that is asked for."""
    if signer is not None:
        sign(bundle, signer)
    if hub is None:
        return Outcome(bundle=bundle.root, manifest=bundle.manifest)
    trust = signer.trust() if signer is not None else None
    publication = publish(bundle, hub, bundle.manifest.name, private, trust)
    verified = verify_published(publication, trust)
    return Outcome(bundle=bundle.root, manifest=bundle.manifest, publication=publication, verified=verified)
