"""What can be known before a release is made is looked at before Prefect and PyTorch start, and told all at once.

A step that fails after minutes because of a folder that was never writable costs those minutes. Nothing here proves
that a release will succeed: the steps look again, at what is there when their turn comes.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aethernet.artifact import existing_folder, require_writable
from aethernet.errors import AethernetError, AlreadyPublishedError, StoreError, UsageError
from aethernet.hub.address import printable
from aethernet.hub.catalogue import published_manifest
from aethernet.hub.connecting import connect
from aethernet.hub.folder import FolderHub
from aethernet.images.files import image_size, list_images
from aethernet.release.spec import ReleaseSpec, checkpoint_digest, validation_images
from aethernet.store.store import Store

__all__ = ["Findings", "look_first"]

_LARGEST_SCALE = 16
_NAMED = 5
"""Images that are named before the rest is counted."""


class Findings:
    """What is in the way, collected; :meth:`require_none` tells it all at once."""

    def __init__(self) -> None:
        self._errors: list[AethernetError] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        """An error of the block is a finding, and does not leave the block."""
        try:
            yield
        except AethernetError as error:
            self._errors.append(error)

    def __bool__(self) -> bool:
        return bool(self._errors)

    def require_none(self) -> None:
        """Raises one finding as it is, several as one error that lists them with their hints.

        Raises:
            UsageError: All that was found is misuse.
            AethernetError: Something else is in the way, too.
        """
        if not self._errors:
            return
        if len(self._errors) == 1:
            raise self._errors[0]
        kind = UsageError if all(isinstance(one, UsageError) for one in self._errors) else AethernetError
        lines = [f"  {one}{f' (hint: {one.hint})' if one.hint else ''}" for one in self._errors]
        raise kind("\n".join([f"{len(lines)} things are in the way; nothing was started:", *lines]))


def look_first(spec: ReleaseSpec, output: Path, hub: str | None, store: Store, findings: Findings) -> None:
    """Look at everything a release reads and writes.

    Args:
        spec: Of the release.
        output: Folder in which the release folder is to be put.
        hub: Place to publish to, if any; it is asked.
        store: Where steps keep their results; object storage is left to the steps.
        findings: Gets what is in the way.
    """
    digest, size = "", 0
    with findings.noting():
        digest = checkpoint_digest(spec)
        size = spec.checkpoint.stat().st_size
    with findings.noting():
        require_images(spec)
    with findings.noting():
        require_writable(output / spec.name)
        _require_space(output, size)
    with findings.noting():
        require_writable(store.root / "objects")
        if not any((store.root / "objects" / digest[:2]).glob(f"{digest}*")):
            _require_space(store.root, size)
    if hub is not None:
        with findings.noting():
            _require_publishable(hub, spec, digest, size)


def require_images(spec: ReleaseSpec) -> None:
    """Hold that all images are there and can be opened, and that HR images are LR size times one scale.

    Raises:
        UsageError: A folder or its images are missing or unreadable, or sizes do not go together.
    """
    low, partners = validation_images(spec)
    sizes = {path: image_size(path) for path in low}
    if spec.calibration is not None:
        for path in list_images(spec.calibration):
            image_size(path)
    if spec.hr is None:
        return
    pairs = [(path, partners[path.stem]) for path in low if path.stem in partners]
    fitting = {
        one: {scale for scale in range(1, _LARGEST_SCALE + 1) if _fits(sizes[one], image_size(other), scale)}
        for one, other in pairs
    }
    stated = spec.network.get("scale")
    votes = Counter(scale for scales in fitting.values() for scale in scales)
    # Without a loaded checkpoint the scale is what most pairs have; of several that all have, any.
    scale = stated if isinstance(stated, int) else max(votes, key=lambda one: (votes[one], -one), default=None)
    wrong = [(one, other) for one, other in pairs if scale not in fitting[one]]
    if wrong:
        told = [f"{other} is {_words(image_size(other))}, {one} {_words(sizes[one])}" for one, other in wrong[:_NAMED]]
        rest = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        times = f"{scale} times" if scale is not None else "a whole number of times"
        raise UsageError(
            f"expected HR images {times} the size of their LR partners, found: {'; '.join(told)}{rest}",
            hint="pair images of the same scene by file stem; HR = LR size x scale",
        )


def _fits(low: tuple[int, int], high: tuple[int, int], scale: int) -> bool:
    """As :func:`aethernet.comparison.measure_quality` has it: up to scale - 1 pixels more are cut off."""
    return all(0 <= there - here * scale < scale for here, there in zip(low, high, strict=True))


def _words(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _require_space(folder: Path, size: int) -> None:
    """A release holds the checkpoint's weights at least once, so there must be room for as much."""
    free = shutil.disk_usage(existing_folder(folder)).free
    if free < size:
        raise StoreError(
            f"could not write to {folder}: No space left on device for {size / 1e6:.1f} MB and more, "
            f"found {free / 1e6:.1f} MB",
            hint="free space or choose another folder",
        )


def _require_publishable(place: str, spec: ReleaseSpec, digest: str, size: int) -> None:
    """Raises where the hub would refuse: its address, the right to write there, the version.

    A release of the same checkpoint under this version may be the same: then publishing again does nothing.
    """
    hub = connect(place)
    hub.require_right_to_publish(spec.name)
    if spec.version not in hub.versions(spec.name):
        if isinstance(hub, FolderHub):
            _require_space(hub.root, size)
        return
    taken = f"{hub.place}/{spec.name}@{spec.version}"
    try:
        found = published_manifest(hub, hub.snapshot(spec.name, spec.version)).checkpoint.sha256
    except AethernetError as error:
        raise AlreadyPublishedError(f"{taken} is published and is not a release of ours: {error}") from error
    if digest and found != digest:
        raise AlreadyPublishedError(
            f"{taken} is published, from the checkpoint {printable(found[:12])}…; {spec.checkpoint} is {digest[:12]}…"
        )
