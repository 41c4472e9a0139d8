"""The release spec: one reviewed TOML file (or the equivalent options) says everything a release depends on."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from aethernet.artifact import file_digest
from aethernet.comparison.gate import DEFAULT_LIMITS, TRAINED_INT8_LIMITS, Limits
from aethernet.engines.backends import Backend
from aethernet.engines.profiles import PROFILE_PRESETS, Profile, parse_profile
from aethernet.errors import SpecError, SpecMismatchError, UsageError
from aethernet.images.files import list_images, pair_by_stem, sample_images
from aethernet.precision import Precision

if TYPE_CHECKING:
    from aethernet.networks.sizes import SizeRequirements

__all__ = [
    "EngineSpec",
    "ExportSpec",
    "NcnnSpec",
    "OpenModelDbSpec",
    "QuantizationSpec",
    "ReleaseSpec",
    "WebSpec",
    "checkpoint_digest",
    "make_spec",
    "read_spec",
    "validation_images",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_NOT_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.", re.IGNORECASE | re.ASCII)
"""Devices, with any ending; and a last dot, which Windows drops. A release's name is a folder's name."""
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?", re.ASCII)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExportSpec(_Part):
    """How the ONNX files are made."""

    opset: int = Field(default=17, ge=17, le=21)
    minimum: tuple[int, int, int] = Field(default=(1, 16, 16), description="Smallest input, N, H, W")
    optimum: tuple[int, int, int] = Field(default=(1, 256, 256), description="Input engines are tuned for, N, H, W")
    maximum: tuple[int, int, int] = Field(default=(4, 1080, 1920), description="Largest input, N, H, W")
    static: tuple[int, int] | None = Field(
        default=None,
        description="One fixed size, H, W; by default any, and the best one where a network needs it",
    )


class QuantizationSpec(_Part):
    """How the int8 form is made."""

    method: Literal["best", "min-max", "percentile", "error"] = Field(
        default="best", description="How ranges follow from images; best chooses per tensor by measured error"
    )
    keep_float: tuple[str, ...] | None = Field(
        default=None,
        description="Parts of the network to leave in float; by default those that cost far more than they gain",
    )
    budget_db: float | None = Field(
        default=None,
        gt=0,
        description="PSNR to the float network, dB: parts that cost most stay float until int8 reaches it",
    )
    seed: int = Field(default=0, ge=0, description="Of the places that calibration looks at")


class EngineSpec(_Part):
    """Which TensorRT engines are built."""

    backends: tuple[Backend, ...] | None = Field(
        default=None, description="By default TensorRT-RTX, and TensorRT where it and a GPU are; empty for no engines"
    )
    precisions: tuple[Precision, ...] | None = Field(
        default=None, description="Engines that must be built; by default every released form is tried and none must"
    )
    profiles: tuple[str, ...] = Field(
        default=("tile",),
        description=f"Input shapes: {', '.join(PROFILE_PRESETS)}, NxHxW, or MIN:OPT:MAX; several share an engine",
    )
    capabilities: tuple[str, ...] | None = Field(
        default=None, description="Compute capabilities TensorRT-RTX compiles for, such as 8.9; by default all it knows"
    )
    timeout: float = Field(default=1800, gt=0, description="Seconds one engine may take")
    deployment: str | None = Field(
        default=None,
        description="Prefect deployment that builds them, such as build-engines/gpu; by default this process",
    )
    memory: float | None = Field(
        default=None,
        gt=0,
        description="GiB of GPU memory that must be enough; by default the card's, or the largest card's",
    )

    @field_validator("profiles")
    @classmethod
    def _check_profiles(cls, profiles: tuple[str, ...]) -> tuple[str, ...]:
        if not profiles or len(set(profiles)) != len(profiles):
            raise ValueError("at least one profile and each once")
        try:
            for text in profiles:
                parse_profile(text)
        except UsageError as error:
            raise ValueError(str(error).removeprefix("expected ").partition(", found")[0]) from error
        return profiles

    @field_validator("capabilities")
    @classmethod
    def _check_capabilities(cls, capabilities: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if capabilities is not None and not all(re.fullmatch(r"\d{1,2}\.\d", one) for one in capabilities):
            raise ValueError("compute capabilities such as 8.9")
        return capabilities or None

    @property
    def parsed_profiles(self) -> tuple[Profile, ...]:
        """The profiles as shapes."""
        return tuple(parse_profile(text) for text in self.profiles)

    def fitted(self, size: SizeRequirements) -> EngineSpec:
        """The spec with profiles of sizes that a network takes, where it does not take all; each of them once."""
        if size.none:
            return self
        texts = []
        for profile in self.parsed_profiles:
            shapes = [profile.minimum, profile.optimum, profile.maximum]
            if size.fixed is not None:
                fits = [(1, *size.fixed) for _ in shapes]
            else:
                fits = [(batch, *size.fit(height, width)) for batch, height, width in shapes]
            texts.append(":".join("x".join(map(str, shape)) for shape in fits))
        return self.model_copy(update={"profiles": tuple(dict.fromkeys(texts))})


class NcnnSpec(_Part):
    """Whether there are ncnn files, and how they hold the network."""

    include: bool = Field(default=True, description="Make them, where ncnn is installed and has the layers")
    weights: Literal["fp16", "fp32"] = Field(
        default="fp16", description="How kernels are stored: fp16, as these programs load them, or fp32"
    )


class OpenModelDbSpec(_Part):
    """What the OpenModelDB entry says beside what the release knows of itself."""

    name: str | None = Field(default=None, description="The model's name there; by default the release's")
    tags: tuple[str, ...] = Field(
        default=("general-upscaler",), min_length=1, description="Subjects and purposes among the database's tags"
    )
    authors: tuple[str, ...] = Field(
        default=(), description="Ids of the authors in the database; by default made of the spec's authors"
    )
    url: str | None = Field(
        default=None,
        pattern=r"^https://[^\s]+$",
        description="Address of the folder the files are published in; by default addresses are relative to it",
    )


class WebSpec(_Part):
    """A page on which the release can be tried in the browser, beside the release folder."""

    home: str = Field(
        default="", description="Where the release is published, owner/name on the Hub or an address; the page links it"
    )
    page: str = Field(
        default="",
        description="Where the page is published, owner/name of a Space or an address; card and report link it",
    )
    samples: int = Field(default=4, ge=0, le=6, description="Validation images that visitors can try, at most")

    @field_validator("home", "page")
    @classmethod
    def _check_place(cls, place: str) -> str:
        if place and not re.fullmatch(r"[\w.-]+/[\w.-]+|https?://[^\s<>\"]+", place, re.ASCII):
            raise ValueError("owner/name on the Hub, or an address that begins with https://")
        return place

    @property
    def page_address(self) -> str:
        """Of the page where it is published; empty without one."""
        return self.page if ":" in self.page or not self.page else f"https://huggingface.co/spaces/{self.page}"


class ReleaseSpec(_Part):
    """One release. Paths are absolute once read; a TOML file states them relative to itself."""

    name: str = Field(description="Name of the release and prefix of its files, such as aether_small_2x")
    version: str = "1.0.0"
    checkpoint: Path
    checkpoint_sha256: str | None = Field(default=None, description="Digest the checkpoint must have")
    origin: str = Field(default="", description="Where the checkpoint comes from, an address or words")
    description: str = ""
    authors: tuple[str, ...] = ()
    license: str = Field(default="unknown", description="SPDX identifier of the weights' licence")
    data_license: str = Field(default="", description="Licence of the training data, SPDX identifiers or words")
    trained_on: str = Field(default="", description="What the network was trained on, with credit; Markdown")
    kernel: str = Field(default="", description="How the validation images (LR) were made from their HR partners")
    images: Path | None = Field(default=None, description="Folder of validation images (LR)")
    hr: Path | None = Field(default=None, description="Folder of their HR partners, paired by file stem")
    calibration: Path | None = Field(
        default=None,
        description="Folder of images (LR) for int8 ranges; by default the validation images",
    )
    precisions: tuple[Precision, ...] | None = Field(
        default=None, description="Forms that must be made and pass; by default every form is tried and only fp32 must"
    )
    leave_out: tuple[Precision, ...] = Field(default=(), description="Forms not to try; the release names them")
    residual_scale: float | None = Field(default=None, gt=0, description="Generation 3's, where the file lacks it")
    network: dict[str, Any] = Field(default_factory=dict, description="Facts about the network that must hold")
    export: ExportSpec = ExportSpec()
    quantization: QuantizationSpec = QuantizationSpec()
    engines: EngineSpec = EngineSpec()
    ncnn: NcnnSpec = NcnnSpec()
    openmodeldb: OpenModelDbSpec = OpenModelDbSpec()
    web: WebSpec | None = Field(default=None, description="Make a page to try the release; by default none")
    limits: dict[Precision, Limits] = Field(default_factory=dict, description="Overrides of the default limits")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("letters, digits, '.', '_' and '-' only, starting with a letter or digit, at most 96")
        if _NOT_ON_WINDOWS.fullmatch(name):
            raise ValueError("a name that a folder can have on Windows, too (not CON, NUL or COM1, no '.' at its end)")
        return name

    @field_validator("version")
    @classmethod
    def _check_version(cls, version: str) -> str:
        if not _VERSION.fullmatch(version):
            raise ValueError("a semantic version such as 1.0.0")
        return version

    def limits_of(self, precision: Precision, *, trained: bool = False) -> Limits:
        """Default limits with the spec's overrides applied field by field.

        Args:
            precision: Whose limits.
            trained: The int8 form's ranges come from quantisation-aware training, so more is expected of it.
        """
        base = TRAINED_INT8_LIMITS if precision is Precision.INT8 and trained else DEFAULT_LIMITS[precision]
        stated = self.limits.get(precision)
        return base if stated is None else base.model_copy(update=stated.model_dump(exclude_unset=True))

    @model_validator(mode="after")
    def _check_forms(self) -> Self:
        both = sorted({*self.required} & {*self.leave_out})
        if both:
            raise ValueError(f"forms that are not both required and left out, not {', '.join(both)}")
        return self

    @property
    def wanted(self) -> tuple[Precision, ...]:
        """Forms to try: those asked for, with fp32 always, or all."""
        asked = tuple(Precision) if self.precisions is None else (Precision.FP32, *self.precisions)
        return tuple(one for one in dict.fromkeys(asked) if one not in self.leave_out)

    @property
    def required(self) -> tuple[Precision, ...]:
        """Forms without which there is no release."""
        return tuple(dict.fromkeys((Precision.FP32, *(self.precisions or ()))))


def read_spec(path: Path | str) -> ReleaseSpec:
    """Read ``release.toml``.

    Raises:
        SpecError: Not there, not TOML, an unknown key (with the nearest known one), or an impossible value.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "release.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpecError(f"expected a release spec at {path}, found nothing") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise SpecError(f"{path} is not TOML: {error}") from error
    for key in ("checkpoint", "images", "hr", "calibration"):
        if isinstance(data.get(key), str):
            data[key] = (path.parent / data[key]).absolute()
    return make_spec(data, str(path))


def make_spec(data: Mapping[str, Any], origin: str = "the options") -> ReleaseSpec:
    """Validate a spec given as a mapping.

    Raises:
        SpecError: As :func:`read_spec`.
    """
    try:
        return ReleaseSpec.model_validate(dict(data))
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise SpecError(f"{origin} is not a valid release spec: {'; '.join(problems)}") from error


def _explain(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "the spec"
    if problem["type"] == "extra_forbidden":
        fields: Mapping[str, Any] = ReleaseSpec.model_fields
        if problem["loc"][0] == "export":
            fields = ExportSpec.model_fields
        elif problem["loc"][0] == "quantization":
            fields = QuantizationSpec.model_fields
        elif problem["loc"][0] == "engines":
            fields = EngineSpec.model_fields
        elif problem["loc"][0] == "ncnn":
            fields = NcnnSpec.model_fields
        elif problem["loc"][0] == "openmodeldb":
            fields = OpenModelDbSpec.model_fields
        elif problem["loc"][0] == "limits":
            fields = Limits.model_fields
        near = difflib.get_close_matches(str(problem["loc"][-1]), list(fields), n=1)
        return f"unknown key '{place}'" + (
            f" (did you mean '{near[0]}'?)" if near else f" (known: {', '.join(fields)})"
        )
    if problem["type"] == "missing":
        return f"'{place}' is missing"
    return f"'{place}': expected {_reason(problem['msg'])}, found {problem['input']!r}"


def _reason(message: str) -> str:
    return re.sub(r"^(Value error, |Input should be )", "", message)


def checkpoint_digest(spec: ReleaseSpec) -> str:
    """sha256 of the spec's checkpoint.

    Raises:
        UsageError: There is no such file.
        SpecMismatchError: It has another digest than the spec says.
    """
    if not spec.checkpoint.is_file():
        raise UsageError(
            f"expected a checkpoint at {spec.checkpoint}, found {'a folder' if spec.checkpoint.is_dir() else 'nothing'}"
        )
    try:
        found = file_digest(spec.checkpoint)
    except OSError as error:
        raise UsageError(f"could not read {spec.checkpoint}: {error.strerror or error}") from error
    if spec.checkpoint_sha256 is not None and found != spec.checkpoint_sha256.lower():
        raise SpecMismatchError(
            f"expected a checkpoint with sha256 {spec.checkpoint_sha256}, found {found}: {spec.checkpoint}"
        )
    return found


def validation_images(spec: ReleaseSpec) -> tuple[list[Path], dict[str, Path]]:
    """The spec's validation images, or the two that come with the library, and HR partners by stem.

    Raises:
        UsageError: There are none, or HR images without partners.
    """
    if spec.images is None and spec.hr is not None:
        raise UsageError("HR images need their LR partners", hint="give the folder of LR images with --images")
    low = sample_images() if spec.images is None else list_images(spec.images)
    return low, pair_by_stem(low, list_images(spec.hr)) if spec.hr is not None else {}
