"""What a hub has to offer."""

from __future__ import annotations

from dataclasses import dataclass

from aethernet.errors import BundleError, HubError, UnreachableError
from aethernet.hub.address import printable
from aethernet.hub.protocol import Hub, Snapshot
from aethernet.records import read_model
from aethernet.release.bundle import LARGEST_RECORD, SIGNATURE
from aethernet.release.manifest import MANIFEST, Manifest

__all__ = ["Offer", "list_releases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One version of one release, by its own manifest; nothing of it was verified."""

    name: str
    version: str
    preset: str
    scale: int | None
    forms: tuple[str, ...]
    psnr: float | None
    """Mean PSNR in RGB of the fp32 ONNX file against the author's originals, dB."""
    bicubic_psnr: float | None
    """The same of bicubic enlargement."""
    size: int
    """Bytes of all files."""
    signed: bool
    """Whether there is a signature; whose is another question."""
    yanked: str | None
    """Why it should no longer be used."""


def list_releases(hub: Hub) -> list[Offer]:
    """Every version of every release at a place, newest first; whatever else lies there is left out.

    Raises:
        HubError: The hub cannot be reached.
    """
    offers = []
    for name in hub.names():
        versions = hub.versions(name)
        yanked = hub.yanked(name) if versions else {}
        for version in versions:
            try:
                snapshot = hub.snapshot(name, version)
                manifest = published_manifest(hub, snapshot)
            except UnreachableError:
                raise
            except (BundleError, HubError):
                continue
            offers.append(_offer(snapshot, manifest, yanked.get(version)))
    return offers


def published_manifest(hub: Hub, snapshot: Snapshot) -> Manifest:
    """The manifest of a release on a hub, read without the rest of it.

    Raises:
        BundleError: It is no release.
        HubError: The hub cannot be reached.
    """
    if not 0 <= snapshot.files.get(MANIFEST, -1) <= LARGEST_RECORD:
        raise BundleError(f"{snapshot.name} {snapshot.version} is no release")
    content = bytearray()
    with hub.read(snapshot, MANIFEST) as (_, chunks):
        for chunk in chunks:
            content += chunk
            if len(content) > snapshot.files[MANIFEST]:
                raise BundleError(f"{snapshot.name} {snapshot.version}: {MANIFEST} is longer than the hub says")
    return read_model(Manifest, bytes(content), MANIFEST)


def _offer(snapshot: Snapshot, manifest: Manifest, yanked: str | None) -> Offer:
    scale = manifest.network.config.get("scale")
    return Offer(
        name=snapshot.name,
        version=snapshot.version,
        preset=printable(manifest.network.preset),
        scale=scale if isinstance(scale, int) else None,
        forms=tuple(form.precision.value for form in manifest.forms if form.status == "released"),
        psnr=_mean(manifest, "_fp32.onnx"),
        bicubic_psnr=_mean(manifest, "bicubic"),
        size=sum(size for size in snapshot.files.values() if size > 0),
        signed=SIGNATURE in snapshot.files,
        yanked=None if yanked is None else printable(yanked),
    )


def _mean(manifest: Manifest, form: str) -> float | None:
    values = [item.psnr_rgb for item in manifest.quality if item.form.endswith(form) and item.psnr_rgb is not None]
    return sum(values) / len(values) if values else None
