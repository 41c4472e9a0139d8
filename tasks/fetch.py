"""Fetch: the user's files into the store. Never cached, because only reading a file tells what is in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aethernet.artifact import Artifact, file_digest
from aethernet.errors import SpecMismatchError, UsageError
from aethernet.images.files import list_images, pair_by_stem, sample_images
from aethernet.release.manifest import ImageFacts
from aethernet.release.spec import ReleaseSpec
from tasks.caching import current_context

__all__ = ["ValidationImage", "fetch_calibration", "fetch_checkpoint", "fetch_images"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationImage:
    """A validation image, with its HR partner where there is one."""

    name: str
    low: Artifact
    high: Artifact | None

    @property
    def facts(self) -> ImageFacts:
        """What the manifest says about it."""
        return ImageFacts(name=self.name, sha256=self.low.sha256, hr_sha256=self.high.sha256 if self.high else None)


def fetch_checkpoint(spec: ReleaseSpec) -> Artifact:
    """The checkpoint, its digest held against the spec's."""
    if not spec.checkpoint.is_file():
        raise UsageError(
            f"expected a checkpoint at {spec.checkpoint}, found {'a folder' if spec.checkpoint.is_dir() else 'nothing'}"
        )
    found = file_digest(spec.checkpoint)
    if spec.checkpoint_sha256 is not None and found != spec.checkpoint_sha256.lower():
        raise SpecMismatchError(
            f"expected a checkpoint with sha256 {spec.checkpoint_sha256}, found {found}: {spec.checkpoint}"
        )
    return current_context().store.put(spec.checkpoint)


def fetch_images(spec: ReleaseSpec) -> list[ValidationImage]:
    """Validation images: the spec's, or the two that come with the library."""
    if spec.images is None and spec.hr is not None:
        raise UsageError("HR images need their LR partners", hint="give the folder of LR images with --images")
    low = sample_images() if spec.images is None else list_images(spec.images)
    high: dict[str, Path] = pair_by_stem(low, list_images(spec.hr)) if spec.hr is not None else {}
    put = current_context().store.put
    return [
        ValidationImage(name=path.stem, low=put(path), high=put(high[path.stem]) if path.stem in high else None)
        for path in low
    ]


def fetch_calibration(spec: ReleaseSpec) -> list[ValidationImage]:
    """Images for int8 ranges: the spec's own, or its validation images; none where it names neither."""
    folder = spec.calibration or spec.images
    if folder is None:
        return []
    put = current_context().store.put
    return [ValidationImage(name=path.stem, low=put(path), high=None) for path in list_images(folder)]
