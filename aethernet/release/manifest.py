"""The manifest of a release (``release.json``) and the record of its build (``build.json``).

``release.json`` holds everything that is the same whenever the same release is built on the same machine.
``build.json`` holds what is not (times, speeds, run identity), the digests of ``release.json`` and of what is rendered
from the two, and a seal over itself; so a change to any byte of a release is found without a file having to contain its
own digest.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field

from aethernet.comparison.gate import Limits
from aethernet.comparison.measurement import Measurement, Quality
from aethernet.comparison.seams import SeamFacts
from aethernet.engines.backends import Backend
from aethernet.engines.identity import EngineRecord, EngineSpeed
from aethernet.precision import Precision
from aethernet.quantization.finetuned import FinetuningFacts
from aethernet.records import Record, canonical_json

__all__ = [
    "BUILD",
    "CARD",
    "MANIFEST",
    "OPENMODELDB",
    "RENDERED",
    "REPORT",
    "BuildRecord",
    "EngineEntry",
    "FileEntry",
    "Manifest",
    "Speed",
    "checksum_of",
    "identity_of",
    "is_safe_path",
    "release_schema",
]

MANIFEST, BUILD, CARD = "release.json", "build.json", "README.md"
REPORT, OPENMODELDB = "report.html", "openmodeldb.json"
RENDERED = (CARD, REPORT, OPENMODELDB)
"""Made from the two records, speeds and dates included, so ``build.json`` holds their digests. Releases made before
there were a report and an entry lack those two."""


_DEVICES = {
    "con",
    "conin$",
    "conout$",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)),
}


class TensorContract(Record):
    """Name, element type and shape of an input or output; free axes by name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class FileEntry(Record):
    """One file of the release."""

    path: str = Field(description="POSIX path relative to the release folder")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="Bytes")
    role: Literal["weights", "onnx", "engine", "engine identity", "config", "picture", "bill", "ncnn"]
    precision: Precision | None = None
    form: str | None = Field(default=None, description="training, merged or fused, for networks")
    opset: int | None = None
    ir_version: int | None = None
    operators: dict[str, int] | None = Field(default=None, description="Count of ONNX operators by type")
    input: TensorContract | None = None
    output: TensorContract | None = None
    kept_fp32: tuple[str, ...] | None = Field(default=None, description="Operations of an fp16 file that stay fp32")
    largest_activation: float | None = Field(default=None, description="Largest magnitude seen while choosing them")


class CheckpointFacts(Record):
    """Where the network came from."""

    file: str = Field(description="File name as handed in")
    origin: str = Field(default="", description="Where the author says it comes from")
    sha256: str
    size: int
    format: str = Field(description="safetensors or pytorch")
    form: str = Field(description="How far it was folded on arrival")
    stored_dtype: str
    quantization_records: int = Field(description="Tensors left by quantisation-aware training")
    finetuned: bool = Field(default=False, description="Whether it brought an int8 network along, fine-tuned from it")
    notes: tuple[str, ...] = Field(description="What had to be assumed or was set aside")


class NetworkFacts(Record):
    """What the network is."""

    family: str = Field(default="AetherNet", description="Architecture")
    preset: str
    config: dict[str, Any]
    parameters: int = Field(description="Weights of the fused network")
    receptive_radius: int | None = Field(
        description="Input pixels an output pixel looks at in each direction; null where unknown or the whole image"
    )
    pools_globally: bool = Field(description="Whether tiles change the result")
    nodes_unfused: int | None = Field(
        default=None, description="ONNX nodes of the training form; releases made since 0.2 leave it out"
    )
    nodes_fused: int = Field(description="ONNX nodes of the released fp32 file")


class TensorFacts(Record):
    """How one activation is quantised."""

    name: str
    scale: float = Field(gt=0, description="Size of one step")
    source: str = Field(description="Where its range comes from: records, images (and by which method), derived")


class PartFacts(Record):
    """A part of the network: what quantising it alone costs, and how much of the work it is."""

    name: str
    psnr: float | None = Field(description="dB against the network with nothing quantised; null when identical")
    snr: float | None = Field(description="The same as signal-to-noise ratio")
    channel_shift: float = Field(
        description="Largest mean shift of a channel before bias correction, in the image's range"
    )
    work: float = Field(description="Its multiply-accumulates as a share of those of all parts")
    kept_float: bool


class SensitivityFacts(Record):
    """How parts were chosen to stay float for a stated quality."""

    budget: float = Field(description="dB of PSNR to the float network that int8 had to keep")
    expected_psnr: float | None = Field(description="dB with the parts chosen, measured on calibration crops")
    parts: tuple[PartFacts, ...]


class QuantizationFacts(Record):
    """How the int8 form came about."""

    origin: Literal["qat", "records", "pictures"] = Field(
        description="Fine-tuned with rounding on, records of an earlier such training, or images"
    )
    method: str = Field(description="How ranges follow from images; learned where they were")
    images: tuple[str, ...] = Field(
        description="What it was calibrated on; empty: the library's own images, or what fine-tuning learned on",
    )
    finetuning: FinetuningFacts | None = Field(default=None, description="Where the origin is qat")
    keep_float: tuple[str, ...] = Field(description="Parts left in float by choice")
    slope: float | None = Field(default=None, description="Generation 1: slope of the sigmoid that stands for GELU's")
    channel_shift_removed: float | None = Field(
        default=None,
        description="Mean shift of the last layer that bias correction took off, in the image's range",
    )
    integer_share: float | None = Field(
        default=None, description="Share of quantised multiply-accumulates that ONNX Runtime runs in integers"
    )
    sensitivity: SensitivityFacts | None = Field(default=None, description="Where the spec states a budget")
    tensors: tuple[TensorFacts, ...]


class PrecisionStatus(Record):
    """What became of one precision."""

    precision: Precision
    status: Literal["released", "skipped"]
    reason: str | None = Field(default=None, description="Why it was skipped")


class EngineEntry(Record):
    """What became of one TensorRT engine."""

    precision: Precision
    backend: Backend
    status: Literal["passed", "built, not executed", "skipped"] = Field(
        description="passed: run on a GPU and held against the limits of its precision"
    )
    reason: str | None = Field(default=None, description="Why it was skipped")
    file: str | None = Field(default=None, description="Its path in the release; its identity is beside it")
    record: EngineRecord | None = Field(default=None, description="What it is tied to and what was counted in it")


class ProgramFacts(Record):
    """Whether a program that runs ncnn files runs these."""

    name: str
    runs: bool
    missing: tuple[str, ...] = Field(description="Layers its ncnn was built without")


class NcnnFacts(Record):
    """What became of the ncnn files."""

    status: Literal["released", "made, not run with Vulkan", "skipped"] = Field(
        description="released: run on the CPU and through Vulkan, and held against the limits"
    )
    reason: str | None = Field(default=None, description="Why it was skipped")
    device: str | None = Field(default=None, description="Vulkan device it was run on")
    software: bool = Field(default=False, description="Whether that is a driver that computes on the CPU")
    layers: dict[str, int] = Field(default_factory=dict, description="Count of ncnn's layers by kind")
    programs: tuple[ProgramFacts, ...] = ()
    limits: dict[str, Limits] = Field(default_factory=dict, description="Runtime -> what the files had to keep")
    seams: tuple[SeamFacts, ...] = Field(default=(), description="What the tiles of these programs cost")


class ImageFacts(Record):
    """A validation image by content."""

    name: str
    sha256: str
    hr_sha256: str | None = None


class Conditions(Record):
    """Under which the measurements were taken; the numbers hold for these."""

    reference: str = "the training-form float32 network in PyTorch"
    peak: float = 1.0
    quality_channels: str = "RGB without border crop, and BT.601 Y with the border cropped by the scale; 8-bit rounded"
    baseline: str = "Pillow bicubic"
    kernel: str = Field(default="", description="How the images were made from their originals, by the author's word")
    images: tuple[ImageFacts, ...]
    host: dict[str, str]

    @property
    def digest(self) -> str:
        """sha256 over names and contents of the images and their originals."""
        lines = [f"{one.sha256}  lr {one.name}\n" for one in self.images]
        lines += [f"{one.hr_sha256}  hr {one.name}\n" for one in self.images if one.hr_sha256]
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


class Manifest(Record):
    """``release.json``."""

    schema_version: Literal[1] = 1
    name: str
    version: str
    description: str
    authors: tuple[str, ...]
    license: str
    data_license: str = Field(default="", description="Licence of the training data, by the author's word")
    trained_on: str
    identity: str = Field(description="sha256 over path and digest of weights, ONNX files and config.json")
    network: NetworkFacts
    checkpoint: CheckpointFacts
    toolchain: dict[str, str] = Field(description="Package -> version")
    files: tuple[FileEntry, ...] = Field(
        description="Every file but those whose digests build.json holds, build.json itself and model.sig"
    )
    forms: tuple[PrecisionStatus, ...]
    engines: tuple[EngineEntry, ...] = Field(default=(), description="TensorRT engines, also those that were not built")
    # Left out where empty, as earlier releases know nothing of it.
    ncnn: NcnnFacts | None = Field(default=None, description="The ncnn files", exclude_if=lambda facts: facts is None)
    page: str = Field(
        default="",
        description="Address of a page to try the release in the browser",
        exclude_if=lambda address: not address,
    )
    quantization: QuantizationFacts | None = Field(default=None, description="Of the int8 form, where it was made")
    required: tuple[Precision, ...] = Field(description="Forms without which there would be no release")
    limits: dict[Precision, Limits]
    conditions: Conditions
    measurements: tuple[Measurement, ...]
    quality: tuple[Quality, ...]

    @property
    def reference(self) -> FileEntry | None:
        """The weights every form was compared with."""
        names = ("_notfused.safetensors", "_source.safetensors")
        return next((entry for entry in self.files if entry.role == "weights" and entry.path.endswith(names)), None)

    def file(self, role: str, precision: Precision, suffix: str) -> FileEntry | None:
        """The entry of one form, or None."""
        for entry in self.files:
            if (
                (entry.role, entry.precision) == (role, precision)
                and entry.path.endswith(suffix)
                and entry != self.reference
            ):
                return entry
        return None


class Speed(Record):
    """Latency of one form, all forms interleaved in one run."""

    form: str
    precision: Precision
    runtime: str
    median_ms: float
    fastest_ms: float
    slowest_ms: float
    ratio: float = Field(description="Times faster than the training form in PyTorch, medians of the same run")


class SpeedRun(Record):
    """Speeds with their conditions."""

    shape: tuple[int, int, int, int] = Field(description="N, C, H, W of the input")
    runs: int
    threads: int
    speeds: tuple[Speed, ...]


class PartSpeed(Record):
    """Time of one part of the network inside the whole, in ONNX Runtime."""

    name: str
    fp32_ms: float
    int8_ms: float


class BuildRecord(Record):
    """``build.json``."""

    schema_version: Literal[1] = 1
    identity: str = Field(description="Identity of the release this build made")
    created: str = Field(description="UTC, ISO 8601")
    host: dict[str, str]
    run: dict[str, str] = Field(description="What is known about the run: source commit, workflow run")
    speed: SpeedRun
    # Left out where empty: the seal covers what is written, and earlier releases know nothing of them.
    parts: tuple[PartSpeed, ...] = Field(
        default=(), description="Where the spec states a budget for int8", exclude_if=lambda parts: not parts
    )
    engine_speeds: dict[str, tuple[EngineSpeed, ...]] = Field(
        default_factory=dict,
        description="Engine -> how fast it ran, where there was a GPU",
        exclude_if=lambda speeds: not speeds,
    )
    engine_build_seconds: dict[str, float] = Field(
        default_factory=dict,
        description="Engine -> how long building it took; earlier releases have it in the engine's own record",
        exclude_if=lambda seconds: not seconds,
    )
    digests: dict[str, str] = Field(
        default_factory=dict, description="sha256 of release.json, README.md, report.html and openmodeldb.json"
    )
    checksum: str = Field(default="", description="sha256 of this file's canonical JSON with an empty seal")


def checksum_of(build: BuildRecord) -> str:
    """Digest of a build record apart from its own seal."""
    return hashlib.sha256(canonical_json(build.model_copy(update={"checksum": ""}))).hexdigest()


def identity_of(files: tuple[FileEntry, ...]) -> str:
    """A release's identity: same weights, ONNX files and config, same identity, whatever card or images say.

    Engines and ncnn files are no part of it: both are made from these weights, and whether they are made depends on
    what is installed where the release is made. Their digests stand in the manifest all the same.
    """
    lines = sorted(f"{entry.sha256}  {entry.path}\n" for entry in files if entry.role in ("weights", "onnx", "config"))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_safe_path(path: str) -> bool:
    """Whether a manifest's path stays inside the release folder on every system."""
    pure = PurePosixPath(path)
    plain = path == pure.as_posix() and not pure.is_absolute() and "\\" not in path and ":" not in path
    parts = pure.parts
    return (
        plain
        and bool(parts)
        and all(part not in ("..", ".") and part.isprintable() and not part.endswith((" ", ".")) for part in parts)
        and all(part.split(".")[0].rstrip().lower() not in _DEVICES for part in parts)
    )


def release_schema() -> dict[str, Any]:
    """JSON schema of ``release.json``; published as ``aethernet/schemas/release.schema.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}
