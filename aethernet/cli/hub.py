"""``aethernet publish``, ``download``, ``list``: what they print, and the progress of a download."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aethernet.cli.output import say
from aethernet.errors import AethernetError, UsageError

if TYPE_CHECKING:
    from aethernet.hub.catalogue import Offer
    from aethernet.release.signing import Trust

__all__ = ["download", "offer_lines", "publish", "yank"]


def publish(
    bundle: Path, address: str, *, private: bool, verify: bool, run: bool, trust: Trust | None
) -> dict[str, Any]:
    """Publish a release folder, look at what arrived, take it back if that is wrong."""
    from aethernet.hub.address import Address
    from aethernet.hub.publishing import publish_release, take_back, verify_release
    from aethernet.release.bundle import open_bundle

    wanted = Address.parse(address)
    version = open_bundle(bundle).manifest.version
    if wanted.version not in (None, version):
        raise UsageError(f"expected an address of version {version}, as the release says, found {wanted.version}")
    publication = publish_release(bundle, wanted.place, wanted.name, private=private, trust=trust, tell=say)
    facts = {"address": publication.address, "already_published": publication.already_there}
    if not verify:
        return {**facts, "verified": None}
    try:
        verified = verify_release(Address.parse(publication.address), run=run, trust=trust, tell=say)
    except AethernetError as error:
        raise take_back(publication, error) from error
    return {**facts, "verified": dataclasses.asdict(verified)}


def download(
    address: str, destination: Path | None, *, only: str, runtime: str | None, trust: Trust | None
) -> dict[str, Any]:
    """Download a release; trust from the user's settings where no option says otherwise."""
    from aethernet.hub.address import Address
    from aethernet.hub.download import download as fetch
    from aethernet.release.signing import read_trust

    wanted = Address.parse(address)
    forms = [form for form in only.replace(" ", "").split(",") if form]
    trust = trust or read_trust(f"{wanted.place}/{wanted.name}")
    with _progress() as progress:
        done = fetch(
            wanted,
            destination or Path(wanted.name),
            only=forms,
            runtime=runtime,
            trust=trust,
            tell=say,
            progress=progress,
        )
    return {**dataclasses.asdict(done), "path": str(done.path), "left_out": list(done.left_out)}


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr, for people."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("download", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def yank(address: str, reason: str | None, *, undo: bool) -> str:
    """Mark a version; returns its address."""
    from aethernet.hub.address import Address
    from aethernet.hub.connecting import connect

    wanted = Address.parse(address)
    if wanted.version is None:
        raise UsageError("expected a version to yank, such as hf://org/name@1.0.0")
    if (reason is None) != undo:
        raise UsageError("expected --reason with the reason, or --undo")
    connect(wanted.place, tell=say).yank(wanted.name, wanted.version, None if undo else reason)
    return str(wanted)


def offer_lines(offers: list[Offer]) -> list[str]:
    """A table."""
    rows = [("release", "version", "preset", "scale", "forms", "PSNR (bicubic)", "size", "signed", "")]
    for offer in offers:
        quality = "–" if offer.psnr is None else f"{offer.psnr:.2f} dB ({offer.bicubic_psnr or 0:.2f})"
        scale = "–" if offer.scale is None else f"{offer.scale}x"
        yanked = "" if offer.yanked is None else f"yanked: {offer.yanked}"
        size = f"{offer.size / 1e6:.1f} MB"
        signed = "yes" if offer.signed else "no"
        forms = ",".join(offer.forms)
        rows.append((offer.name, offer.version, offer.preset, scale, forms, quality, size, signed, yanked))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
