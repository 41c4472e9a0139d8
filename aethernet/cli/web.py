"""``aethernet web``: a release as a page that runs it in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aethernet.cli.options import AsJson
from aethernet.cli.output import emit_json, say

__all__ = ["publish_site", "web"]


def web(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Release folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The site's folder.")],
    sample: Annotated[
        list[Path] | None, typer.Option("--sample", help="An image that visitors can try; repeatable, at most six.")
    ] = None,
    home: Annotated[str, typer.Option(help="Where the release is: owner/name on the Hub, or an address.")] = "",
    space: Annotated[bool, typer.Option("--space", help="Make the folder a static Space of the Hub.")] = False,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            "--onnxruntime-web", help="The npm package: its folder or .tgz file (default: the cache, else npm)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a static site on which anybody can try the release, on their own device, without installing anything."""
    from aethernet.web.onnxruntime_web import onnxruntime_web as files_of
    from aethernet.web.site import write_site

    samples = {path.name: path for path in sample or ()}
    site = write_site(bundle, output, files_of(onnxruntime_web), samples=samples, home=home, space=space)
    if as_json:
        emit_json({"path": str(site.root), "files": site.files, "bytes": site.size})
    else:
        print(site.root)
    say(f"{site.files} files, {site.size / 1e6:.1f} MB")
    say(f"next: python -m http.server --directory {site.root}")


def publish_site(bundle: Path, address: str, *, private: bool) -> str:
    """Make the release's site and publish it as a static Space beside the release; returns the Space's address."""
    import tempfile

    from aethernet.hub.address import Address
    from aethernet.hub.space import publish_space
    from aethernet.web.onnxruntime_web import onnxruntime_web as files_of
    from aethernet.web.site import SITE, write_site

    wanted = Address.parse(address)
    home = f"{wanted.place.rstrip('/').rsplit('/', 1)[-1]}/{wanted.name}"
    with tempfile.TemporaryDirectory() as folder:
        site = write_site(bundle, Path(folder) / "site", files_of(), home=home, space=True)
        published = publish_space(site.root, wanted.place, wanted.name, marker=SITE, private=private, on_message=say)
    return published.address
