"""Everything a release says about itself, as one object that becomes its manifest."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from aethernet.comparison.gate import Acceptance, Limits
from aethernet.comparison.measurement import Measurement, Quality
from aethernet.precision import Precision
from aethernet.records import Record
from aethernet.release.manifest import (
    CheckpointFacts,
    Conditions,
    EngineEntry,
    FileEntry,
    ImageFacts,
    Manifest,
    NcnnFacts,
    NetworkFacts,
    PrecisionStatus,
    QuantizationFacts,
    identity_of,
)
from aethernet.release.spec import ReleaseSpec

__all__ = ["AuthorFacts", "ReleaseFacts"]


class AuthorFacts(Record):
    """What a release says by its author's word: of the spec, the part that goes into the manifest as it is."""

    name: str
    version: str
    description: str
    authors: tuple[str, ...]
    license: str
    data_license: str
    trained_on: str
    kernel: str
    origin: str
    page: str = Field(default="", description="Address of a page to try it")
    required: tuple[Precision, ...]

    @classmethod
    def of(cls, spec: ReleaseSpec) -> AuthorFacts:
        """Of a spec."""
        own = {field: getattr(spec, field) for field in cls.model_fields if field != "page"}
        return cls(**own, page=spec.web.page_address if spec.web is not None else "")


class ReleaseFacts(Record):
    """All that goes into a manifest, apart from the machine and the tools that describe it."""

    author: AuthorFacts
    network: NetworkFacts
    checkpoint: CheckpointFacts
    files: tuple[FileEntry, ...] = Field(description="In any order")
    acceptance: Acceptance
    limits: dict[Precision, Limits]
    images: tuple[ImageFacts, ...] = Field(description="That the numbers were measured on")
    measurements: tuple[Measurement, ...] = Field(description="Of every precision that was made, also the skipped ones")
    quality: tuple[Quality, ...]
    quantization: QuantizationFacts | None = None
    engines: tuple[EngineEntry, ...] = ()
    ncnn: NcnnFacts | None = None

    def manifest(self, *, toolchain: Mapping[str, str], host: Mapping[str, str]) -> Manifest:
        """The manifest.

        Args:
            toolchain: Package -> version, of what made the release.
            host: The machine that the numbers were measured on.
        """
        author = self.author
        entries = tuple(sorted(self.files, key=lambda entry: entry.path))
        return Manifest(
            name=author.name,
            version=author.version,
            description=author.description,
            authors=author.authors,
            license=author.license,
            data_license=author.data_license,
            trained_on=author.trained_on,
            page=author.page,
            identity=identity_of(entries),
            network=self.network,
            checkpoint=self.checkpoint.model_copy(update={"origin": author.origin}),
            toolchain=dict(toolchain),
            files=entries,
            quantization=self.quantization,
            engines=self.engines,
            ncnn=self.ncnn,
            forms=_statuses(self.acceptance),
            required=author.required,
            limits=self.limits,
            conditions=Conditions(images=self.images, host=dict(host), kernel=author.kernel),
            measurements=self.measurements,
            quality=self.quality,
        )


def _statuses(acceptance: Acceptance) -> tuple[PrecisionStatus, ...]:
    """What became of each precision, in their own order."""
    found = [PrecisionStatus(precision=one, status="released") for one in acceptance.accepted]
    found += [PrecisionStatus(precision=one, status="skipped", reason=why) for one, why in acceptance.skipped.items()]
    order = list(Precision)
    return tuple(sorted(found, key=lambda status: order.index(status.precision)))
