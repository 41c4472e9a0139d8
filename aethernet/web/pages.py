"""A folder for one static server: the pages of all published releases, and a list of them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from aethernet.artifact import fsync_tree
from aethernet.errors import HubError, UnreachableError, UsageError
from aethernet.hub.address import Address
from aethernet.hub.publishing import fetched
from aethernet.release.assembly import replace_folder
from aethernet.release.spec import read_spec
from aethernet.web.site import SAMPLE_KINDS, write_site

if TYPE_CHECKING:
    from aethernet.release.signing import Trust
    from aethernet.release.spec import ReleaseSpec

__all__ = ["write_pages"]

_LIST = "pages.txt"
"""Names of the releases; marks a folder as one of these."""


def write_pages(
    specs: Path,
    place: str,
    destination: Path,
    runtime: Callable[[], Path],
    *,
    trust: Trust | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Write ``destination/NAME`` for every spec with ``[web]``, from the newest version that is published.

    A server of static pages, such as GitHub Pages, is given all of its files at once; so all are made anew.

    Args:
        specs: Folder with ``NAME/release.toml``.
        place: Where the releases are: ``hf://org``, ``file:///folder``.
        destination: The folder; an older one is replaced in one step, anything else is refused.
        runtime: Gives the folder of :func:`~aethernet.web.onnxruntime_web.onnxruntime_web`; called where it is needed.
        trust: Whose signature must be on the releases; None accepts those that are not signed.
        on_message: Called with what is worth knowing, a sentence each.

    Returns:
        Names of the releases that have a page now. One that is not published yet has none.

    Raises:
        SpecError: A spec cannot be read.
        UsageError: ``destination`` holds something else.
        UnreachableError: The hub does not answer.
        BundleError: A release is not whole, or not signed as it must be.
        WebError: The files of onnxruntime-web are not to be had.
    """
    if destination.is_symlink() or (destination.exists() and not _replaceable(destination)):
        raise UsageError(f"expected pages or nothing at {destination}, found other files; nothing was touched")
    part = destination.with_name(f".{destination.name}.{secrets.token_hex(6)}.part")
    made: dict[str, str] = {}
    try:
        part.mkdir(parents=True)
        for spec in (read_spec(path) for path in sorted(specs.glob("*/release.toml"))):
            if spec.web is None:
                continue
            address = Address.parse(f"{place.rstrip('/')}/{spec.name}")
            home = spec.web.home or (str(address).removeprefix("hf://") if place.startswith("hf://") else "")
            try:
                with fetched(address, run=False, trust=trust, on_message=on_message) as found:
                    write_site(found.bundle, part / spec.name, runtime(), samples=_samples(spec), home=home)
                    made[spec.name] = found.bundle.manifest.version
            except UnreachableError:
                raise
            except HubError as error:
                on_message(f"{spec.name} has no page: {error}")
        _write_list(part, made)
        fsync_tree(part)
        replace_folder(part, destination)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return list(made)


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and ((folder / _LIST).is_file() or not any(folder.iterdir()))


def _samples(spec: ReleaseSpec) -> dict[str, Path]:
    """The first of the spec's validation images, as a release's own page offers them."""
    if spec.images is None or spec.web is None:
        return {}
    images = [path for path in sorted(spec.images.iterdir()) if path.suffix.lower() in SAMPLE_KINDS]
    return {path.name: path for path in images[: spec.web.samples]}


def _write_list(part: Path, made: dict[str, str]) -> None:
    lines = "".join(
        f'<li><a href="{escape(name)}/">{escape(name)} {escape(version)}</a></li>\n' for name, version in made.items()
    )
    (part / "index.html").write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<title>Try it in your browser</title>\n<link rel="stylesheet" href="style.css">\n</head>\n<body>\n<main>\n'
        "<h1>Try it in your browser</h1>\n<p>Networks that make images larger, on your own device: nothing is sent "
        f"anywhere.</p>\n<ul>\n{lines}</ul>\n</main>\n</body>\n</html>\n",
        encoding="utf-8",
    )
    (part / "style.css").write_bytes((resources.files("aethernet.web") / "page" / "style.css").read_bytes())
    (part / _LIST).write_text("".join(f"{name}\n" for name in made), encoding="utf-8")
