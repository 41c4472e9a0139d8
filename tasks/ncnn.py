"""ncnn: the form for Vulkan on every make of card, made, run and held against its limits; or the reason why not."""

from __future__ import annotations

import shutil

from pydantic import BaseModel

from aethernet.artifact import Artifact
from aethernet.checkpoint import load
from aethernet.comparison.gate import NCNN_LIMITS
from aethernet.comparison.measurement import Measurement
from aethernet.comparison.ncnn import NcnnTrial
from aethernet.comparison.ncnn import try_ncnn as run_files
from aethernet.comparison.seams import SeamFacts, measure_seams
from aethernet.errors import ExportError, MissingDependencyError
from aethernet.export.ncnn import export_ncnn
from aethernet.export.ncnn.programs import fitness
from aethernet.graphs.ncnn import read_param
from aethernet.images.files import load_image
from aethernet.release.manifest import NcnnFacts, ProgramFacts
from aethernet.release.spec import ReleaseSpec
from aethernet.runtimes.onnxruntime import OnnxRuntime
from aethernet.runtimes.protocol import Runtime
from aethernet.runtimes.pytorch import TorchRuntime
from tasks.caching import current_store, stage
from tasks.compare import Reference, cases_of
from tasks.fetch import ValidationImage

__all__ = ["NcnnForm", "NcnnOutcome", "make_ncnn", "measure_tiles", "ncnn_outcome", "try_ncnn"]

_TILES = (32, 100, 200)
"""The smallest side that these programs take, and what they choose on cards with 1 GB and with 2 GB or more."""
_MARGIN = 10
"""Of Upscayl, realesrgan-ncnn-vulkan and Video2X."""
_SEAM_SIDE = 208
"""Of the piece of an image that is cut into tiles: a little more than the largest tile."""


class NcnnForm(BaseModel):
    """The two files, or why there are none."""

    param: Artifact | None = None
    weights: Artifact | None = None
    layers: dict[str, int] = {}
    programs: tuple[ProgramFacts, ...] = ()
    """Those that load files of anybody; what is made for its own networks alone is no place for these."""
    reason: str | None = None


class NcnnOutcome(BaseModel):
    """What goes into the release."""

    facts: NcnnFacts
    files: list[Artifact] = []
    measurements: list[Measurement] = []


@stage()
def make_ncnn(fused: Artifact, name: str, half: bool) -> NcnnForm:
    """Write ``NAME_ncnn.param`` and ``NAME_ncnn.bin``, kernels in fp16 (``half``) or fp32."""
    store = current_store()
    with store.scratch() as folder:
        try:
            files = export_ncnn(load(store.get(fused)).folded, folder, name, half=half)
        except (ExportError, MissingDependencyError) as error:
            return NcnnForm(reason=error.reason)
        model = read_param(files.param)
        return NcnnForm(
            param=store.put(files.param),
            weights=store.put(files.weights),
            layers=files.kinds,
            programs=tuple(
                ProgramFacts(name=one.program.name, runs=one.runs, missing=one.missing)
                for one in fitness(model)
                if not one.blobs
            ),
        )


@stage(host_matters=True)
def try_ncnn(
    param: Artifact, weights: Artifact, half: bool, reference: Reference, images: list[ValidationImage]
) -> NcnnTrial:
    """Run the files on the CPU and through Vulkan beside the reference's outputs."""
    from safetensors.numpy import load_file

    store = current_store()
    with store.scratch() as folder:
        for file in (param, weights):  # side by side, by their names
            shutil.copyfile(store.get(file), folder / file.name)
        truth = load_file(store.get(reference.outputs))
        cases = cases_of(images, reference.channels, reference.static)
        return run_files(folder / param.name, truth, cases, half=half)


@stage(host_matters=True)
def measure_tiles(
    fused: Artifact, exported: Artifact, reference: Reference, images: list[ValidationImage]
) -> list[SeamFacts]:
    """What the tiles of the ncnn programs cost, on the middle of the first image; the same for every runtime.

    In ONNX Runtime, the fastest here; in PyTorch where the release's ONNX files take one size only, unlike these.
    """
    store = current_store()
    image = load_image(store.get(images[0].low), reference.channels)
    top, left = (max(0, (side - _SEAM_SIDE) // 2) for side in image.shape[2:])
    image = image[:, :, top : top + _SEAM_SIDE, left : left + _SEAM_SIDE]
    tiles = [tile for tile in _TILES if tile < max(image.shape[2:])]
    opened: Runtime = OnnxRuntime(store.get(exported))
    if reference.static is not None:
        opened = TorchRuntime(load(store.get(fused)).folded)
    with opened as runtime:
        return measure_seams(runtime, image, scale=reference.scale, tiles=tiles, margin=_MARGIN)


def ncnn_outcome(
    fused: Artifact, exported: Artifact, spec: ReleaseSpec, reference: Reference, images: list[ValidationImage]
) -> NcnnOutcome:
    """Make the form, run it, judge it; one that misses a limit is left out and its numbers are kept.

    ``fused`` and ``exported`` are the fp32 weights and the fp32 ONNX file.
    """
    if not spec.ncnn.include:
        return NcnnOutcome(facts=NcnnFacts(status="skipped", reason="left out by the spec"))
    half = spec.ncnn.weights == "fp16"
    form = make_ncnn(fused, spec.name, half)
    if form.param is None or form.weights is None:
        return NcnnOutcome(facts=NcnnFacts(status="skipped", reason=form.reason))
    tried = try_ncnn(form.param, form.weights, half, reference, images)
    measurements = list(tried.measurements)
    facts = NcnnFacts(
        status="made, not run with Vulkan" if tried.device is None else "released",
        device=tried.device,
        software=tried.software,
        layers=form.layers,
        limits=dict(NCNN_LIMITS),
    )
    if tried.failures:
        more = f"; and {len(tried.failures) - 3} more" if len(tried.failures) > 3 else ""
        reason = f"{'; '.join(tried.failures[:3])}{more}"
        return NcnnOutcome(
            facts=facts.model_copy(update={"status": "skipped", "reason": reason}), measurements=measurements
        )
    programs = tuple(  # they take and give RGB
        one.model_copy(update={"runs": one.runs and reference.channels == 3}) for one in form.programs
    )
    seams = tuple(measure_tiles(fused, exported, reference, images))
    return NcnnOutcome(
        facts=facts.model_copy(update={"programs": programs, "seams": seams}),
        files=[form.param, form.weights],
        measurements=measurements,
    )
