"""Fetch: the user's files into the store. Never cached, because only reading a file tells what is in it."""

from __future__ import annotations

from dataclasses import dataclass

from aethernet.artifact import Artifact
from aethernet.images.files import list_images
from aethernet.release.manifest import ImageFacts
from aethernet.release.spec import ReleaseSpec, checkpoint_digest, validation_images
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
    checkpoint_digest(spec)
    return current_context().store.put(spec.checkpoint)


def fetch_images(spec: ReleaseSpec) -> list[ValidationImage]:
    """Validation images: the spec's, or the two that come with the library."""
    low, high = validation_images(spec)
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
