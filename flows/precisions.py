"""How a release gets its precisions: each comes whole, or not at all and with a reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aethernet.artifact import Artifact
from aethernet.comparison import Acceptance, Limits
from aethernet.precision import Precision
from aethernet.release.entries import PrecisionFiles
from aethernet.release.manifest import NetworkFacts, QuantizationFacts
from aethernet.release.spec import ExportSpec, ReleaseSpec
from tasks.benchmark import BenchmarkFile, measure_speedup
from tasks.compare import Compared, Reference, compare
from tasks.describe import describe_network
from tasks.export import Exported, export, export_half, resolved_export
from tasks.fetch import ValidationImage, fetch_calibration
from tasks.fuse import Weights, fuse
from tasks.load import LoadedCheckpoint
from tasks.quantize import Int8, Int8Model, export_quantized, quantize
from tasks.sensitivity import CHART, FloatParts, sensitivity

__all__ = ["Fp32", "Made", "MadeInt8", "Precisions", "Source", "make_fp16", "make_fp32", "make_int8"]

_LEFT_OUT = "left out by the spec"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What every precision of a release is made from."""

    spec: ReleaseSpec
    checkpoint: Artifact
    reference: LoadedCheckpoint
    images: list[ValidationImage]

    @property
    def metadata(self) -> dict[str, str]:
        """What every ONNX file says about itself beside precision, scale and shapes."""
        return {
            "name": self.spec.name,
            "version": self.spec.version,
            "network": self.reference.architecture,
            "source_sha256": self.reference.facts.sha256,
            "license": self.spec.license,
        }

    def limits(self, precisions: Iterable[Precision]) -> dict[Precision, Limits]:
        """What each precision must keep; more is expected of int8 that comes from a training for it."""
        facts = self.reference.facts
        trained = facts.finetuned or facts.quantization_records > 0
        return {one: self.spec.limits_of(one, trained=trained) for one in precisions}

    def not_tried(self, precision: Precision) -> Made:
        """A precision that the spec does not want; one that is not asked for is not missed."""
        named = self.spec.precisions is None and precision in self.spec.leave_out
        return Made(precision=precision, reason=_LEFT_OUT if named else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One precision: its files, or why there are none; neither where nobody asked for it."""

    precision: Precision
    files: PrecisionFiles | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp32(Made):
    """fp32, which every release has and every other precision comes from."""

    weights: Weights
    model: Exported
    source: Source

    @property
    def exporting(self) -> ExportSpec:
        """How all other ONNX files are exported: as the spec says, with what the fp32 file turned out to need."""
        return resolved_export(self.source.spec.export, self.model)

    def describe(self) -> NetworkFacts:
        """Facts about the network."""
        nodes = self.model.description.nodes
        return describe_network(self.source.reference.weights, self.weights.parameters, nodes, self.model.static)


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeInt8(Made):
    """int8, with how it came about."""

    facts: QuantizationFacts | None = None
    choice: FloatParts

    def drawings(self) -> dict[str, Artifact]:
        """Path in the release -> image that shows how parts were chosen to stay float, where they were."""
        return {} if self.choice.chart is None else {CHART: self.choice.chart}


def make_fp32(source: Source) -> Fp32:
    """Fuse and export."""
    spec = source.spec
    weights = fuse(source.reference.weights, spec.name, Precision.FP32)
    model = export(weights.safetensors, spec.name, spec.export, source.metadata)
    files = _plain_files(Precision.FP32, weights, model)
    return Fp32(precision=Precision.FP32, files=files, weights=weights, model=model, source=source)


def make_fp16(source: Source, fp32: Fp32) -> Made:
    """Fuse, and convert the fp32 file."""
    spec = source.spec
    if Precision.FP16 not in spec.wanted:
        return source.not_tried(Precision.FP16)
    weights = fuse(source.reference.weights, spec.name, Precision.FP16)
    fused = fp32.weights.safetensors
    half = export_half(fp32.model, fused, spec.name, fp32.exporting, source.metadata, source.images)
    files = None if half.model is None else _plain_files(Precision.FP16, weights, half.model)
    return Made(precision=Precision.FP16, files=files, reason=half.reason)


def make_int8(source: Source, fp32: Fp32) -> MadeInt8:
    """Choose what stays float where the spec states a budget, quantise, export."""
    spec, choice = source.spec, FloatParts(spec=source.spec.quantization)
    if Precision.INT8 not in spec.wanted:
        return MadeInt8(precision=Precision.INT8, reason=source.not_tried(Precision.INT8).reason, choice=choice)
    fused, calibration = fp32.weights.safetensors, fetch_calibration(spec)
    if spec.quantization.budget_db is not None and not source.reference.facts.finetuned:  # which has chosen already
        choice = sensitivity(source.checkpoint, spec.residual_scale, fused, calibration, spec.quantization)
    int8, models = Int8(reason=choice.reason), list[Int8Model]()
    if choice.reason is None:
        int8 = quantize(source.checkpoint, spec.residual_scale, fused, spec.name, calibration, choice.spec)
    if int8.facts is not None:
        models = export_quantized(int8, spec.name, fp32.exporting, source.metadata)
    reasons = [reason for reason in (int8.reason, *(one.reason for one in models)) if reason is not None]
    if reasons or int8.facts is None:
        return MadeInt8(precision=Precision.INT8, reason="; ".join(reasons), choice=choice)
    shares = [one.integer_share for one in models if one.integer_share is not None]
    facts = int8.facts.model_copy(update={"integer_share": min(shares, default=None), "sensitivity": choice.facts})
    return MadeInt8(precision=Precision.INT8, files=_int8_files(int8, models), facts=facts, choice=choice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precisions:
    """The precisions of a release together."""

    fp32: Fp32
    fp16: Made
    int8: MadeInt8

    @property
    def files(self) -> dict[Precision, PrecisionFiles]:
        """Files of each that was made."""
        return {one.precision: one.files for one in (self.fp32, self.fp16, self.int8) if one.files is not None}

    @property
    def not_made(self) -> dict[Precision, str]:
        """Why there are none of the others."""
        return {one.precision: one.reason for one in (self.fp16, self.int8) if one.reason is not None}

    def compare(self, truth: Reference, images: list[ValidationImage]) -> list[Compared]:
        """Every file against the reference."""
        return [
            compare(precision, group, truth, images)
            for precision, files in self.files.items()
            for group in files.compared_together
        ]

    def speedups(self, truth: Reference, images: list[ValidationImage]) -> dict[Precision, float]:
        """How many times faster than fp32 int8 is, where it was made."""
        if self.int8.files is None:
            return {}
        fast = self.int8.files.fastest
        found = measure_speedup(self.fp32.model.file, fast, truth.channels, images, self.fp32.model.static)
        return {Precision.INT8: found}

    def released(self, acceptance: Acceptance) -> Released:
        """What the gate let through."""
        files = [files for precision, files in self.files.items() if precision in acceptance.accepted]
        return Released(files=files, int8=self.int8 if Precision.INT8 in acceptance.accepted else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The precisions that passed."""

    files: list[PrecisionFiles]
    int8: MadeInt8 | None

    @property
    def candidates(self) -> list[BenchmarkFile]:
        """One file of each, for the benchmark."""
        return [BenchmarkFile(file=one.fastest, precision=one.precision) for one in self.files]

    @property
    def engine_sources(self) -> dict[Precision, Artifact]:
        """The ONNX file of each that engines are built from."""
        return {one.precision: one.for_engines for one in self.files}

    @property
    def quantization(self) -> QuantizationFacts | None:
        """How int8 came about."""
        return self.int8.facts if self.int8 is not None else None

    def drawings(self) -> dict[str, Artifact]:
        """Path in the release -> image, about the precisions themselves."""
        return {} if self.int8 is None else self.int8.drawings()


def _plain_files(precision: Precision, weights: Weights, model: Exported) -> PrecisionFiles:
    """The files of fp32 or fp16."""
    return PrecisionFiles(
        precision=precision, models=(model,), weights=(weights.safetensors, weights.pth), fold_state=weights.form
    )


def _int8_files(int8: Int8, models: Iterable[Int8Model]) -> PrecisionFiles:
    exported = [Exported(file=one.file, description=one.description) for one in models if one.file and one.description]
    weights = [one for one in (int8.safetensors, int8.pth) if one is not None]
    return PrecisionFiles(precision=Precision.INT8, models=tuple(exported), weights=tuple(weights))
