"""``aethernet publish``, ``download``, ``list`` and ``yank``: releases on hubs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aethernet.cli.interruption import keeps
from aethernet.cli.options import AsJson, Only, TrustOptions, split_list
from aethernet.cli.output import emit_json, say
from aethernet.errors import AethernetError, UsageError

if TYPE_CHECKING:
    from aethernet.hub.catalogue import Offer
    from aethernet.release.signing import Trust

__all__ = ["download", "list_", "publish", "yank"]


def publish(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Release folder.")],
    address: Annotated[str, typer.Argument(help="Where to: hf://org/name, file:///folder/name.")],
    trust: TrustOptions,
    private: Annotated[
        bool, typer.Option("--private", help="A repository that has to be made is for invited readers only.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Download it afresh afterwards; take it back if that fails.")
    ] = True,
    run: Annotated[bool, typer.Option(help="Also run the network on the release's check image then.")] = True,
    space: Annotated[
        bool, typer.Option("--space", help="Also a page to try it: a static Space of the same name on the Hub.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a release in one step: all of it or nothing, and never over another one."""
    keeps("the hub shows all of the release or nothing of it; the same command finds out which and goes on")
    result = publish_bundle(bundle, address, private=private, verify=check, run=run, trust=trust.trust())
    if space:
        from aethernet.cli.web import publish_site

        result["space"] = publish_site(bundle, address, private=private)
        say(f"try it at {result['space']}")
    if as_json:
        emit_json(result)
    else:
        print(result["address"])
    verified = result["verified"]
    say("the same release was published already" if result["already_published"] else "published")
    if verified:
        say(f"fetched afresh and verified; {verified['signature']}")
    say(f"next: aethernet download {result['address']}")


def download(
    address: Annotated[str, typer.Argument(help="hf://org/name[@1.0.0], file:///folder/name; newest without version.")],
    trust: TrustOptions,
    to: Annotated[Path | None, typer.Option("--to", help="Becomes the release folder (default: ./NAME).")] = None,
    only: Only = "",
    runtime: Annotated[
        str | None, typer.Option(help="Fetch what this can use: onnxruntime, pytorch, tensorrt_rtx, openvino…")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a release: verified while it arrives, put in place in one step, resumed when interrupted."""
    keeps("what has arrived is kept; the same command fetches the rest")
    result = download_bundle(address, to, only=only, runtime=runtime, trust=trust.trust())
    if as_json:
        emit_json(result)
    else:
        print(result["path"])
    left_out = f", {len(result['left_out'])} not asked for" if result["left_out"] else ""
    say(f"{'was here already' if result['already_there'] else 'downloaded'}: {result['files']} files{left_out}")
    say(result["signature"])
    say(f"next: aethernet verify {result['path']}{' --partial' if left_out else ''}")


def list_(place: Annotated[str, typer.Argument(help="hf://org or file:///folder.")], as_json: AsJson = False) -> None:
    """List the releases at a place: versions, presets, scales, quality, size."""
    from aethernet.hub.catalogue import list_releases
    from aethernet.hub.connecting import connect

    offers = list_releases(connect(place, on_message=say))
    if as_json:
        emit_json([dataclasses.asdict(offer) for offer in offers])
    elif offers:
        print("\n".join(offer_lines(offers)))
    if not offers:
        say(f"no releases at {place} (or none that you may see)")


def yank(
    address: Annotated[str, typer.Argument(help="With version: hf://org/name@1.0.0.")],
    reason: Annotated[str | None, typer.Option(help="Why nobody should use it any more.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the mark away.")] = False,
    as_json: AsJson = False,
) -> None:
    """Mark a version as not to be used: download warns, the newest version skips it. Nothing is deleted."""
    marked = yank_version(address, reason, undo=undo)
    if as_json:
        emit_json({"address": marked, "yanked": not undo, "reason": reason})
    else:
        print(marked)
    say("the mark is gone" if undo else "marked; download warns from now on")


def publish_bundle(
    bundle: Path, address: str, *, private: bool, verify: bool, run: bool, trust: Trust | None
) -> dict[str, Any]:
    """Publish a release folder, look at what arrived, take it back if that is wrong."""
    from aethernet.hub.address import Address
    from aethernet.hub.publishing import publish_release, take_back, verify_release
    from aethernet.records import published_names
    from aethernet.release.bundle import open_bundle

    wanted = Address.parse(address)
    version = open_bundle(bundle).manifest.version
    if wanted.version not in (None, version):
        raise UsageError(f"expected an address of version {version}, as the release says, found {wanted.version}")
    publication = publish_release(bundle, wanted.place, wanted.name, private=private, trust=trust, on_message=say)
    facts = {"address": publication.address, "already_published": publication.already_there}
    if not verify:
        return {**facts, "verified": None}
    try:
        verified = verify_release(Address.parse(publication.address), run=run, trust=trust, on_message=say)
    except AethernetError as error:
        raise take_back(publication, error) from error
    return {**facts, "verified": published_names(dataclasses.asdict(verified))}


def download_bundle(
    address: str, destination: Path | None, *, only: str, runtime: str | None, trust: Trust | None
) -> dict[str, Any]:
    """Download a release; trust from the user's settings where no option says otherwise."""
    from aethernet.hub.address import Address
    from aethernet.hub.download import download as fetch
    from aethernet.release.signing import read_trust

    wanted = Address.parse(address)
    trust = trust or read_trust(f"{wanted.place}/{wanted.name}")
    with _progress() as progress:
        done = fetch(
            wanted,
            destination or Path(wanted.name),
            only=split_list(only),
            runtime=runtime,
            trust=trust,
            on_message=say,
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


def yank_version(address: str, reason: str | None, *, undo: bool) -> str:
    """Mark a version; returns its address."""
    from aethernet.hub.address import Address
    from aethernet.hub.connecting import connect

    wanted = Address.parse(address)
    if wanted.version is None:
        raise UsageError("expected a version to yank, such as hf://org/name@1.0.0")
    if (reason is None) != undo:
        raise UsageError("expected --reason with the reason, or --undo")
    connect(wanted.place, on_message=say).yank(wanted.name, wanted.version, None if undo else reason)
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
