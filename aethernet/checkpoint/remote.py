"""A checkpoint that lies elsewhere: fetched by its address before anything is done with it."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from aethernet.errors import SpecMismatchError, UnreachableError, UsageError

__all__ = ["fetched_file", "is_remote"]

LARGEST = 16 * 2**30
"""Bytes; whatever is larger is no checkpoint of a network for pictures."""

TIMEOUT = 60.0
"""Seconds without a byte."""


def is_remote(text: str) -> bool:
    """Whether a text is an address on the web, and not a file here."""
    return text.startswith(("https://", "http://"))


@contextmanager
def fetched_file(address: str, sha256: str | None = None) -> Iterator[Path]:
    """A file from the web, for the time of the block, under the name that ends its address.

    Args:
        address: ``https://…``; ``http://…`` only with a digest, because anyone on the way could change the file.
        sha256: Digest it must have.

    Raises:
        UsageError: The address is none, or ``http`` without a digest.
        SpecMismatchError: The file has another digest.
        UnreachableError: It cannot be fetched, or not to its end.
    """
    parts = urlsplit(address)
    name = PurePosixPath(unquote(parts.path)).name
    if not is_remote(address) or not parts.hostname or not name or name.startswith("."):
        raise UsageError(f"expected an address such as https://example.com/net_g.pth, found '{address}'")
    if parts.scheme == "http" and sha256 is None:
        raise UsageError("expected https, found http", hint="give the file's digest, or an address with https")
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        found = _fetch(address, path)
        if sha256 is not None and found != sha256.lower():
            raise SpecMismatchError(f"expected a file with sha256 {sha256} at {address}, found {found}")
        yield path


def _fetch(address: str, path: Path) -> str:
    digest, size = hashlib.sha256(), 0
    request = urllib.request.Request(address, headers={"User-Agent": "aethernet"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            stated = None
            with suppress(TypeError, ValueError):
                stated = int(answer.headers["Content-Length"])
            with open(path, "wb") as file:
                while chunk := answer.read(2**20):
                    size += len(chunk)
                    if size > LARGEST:
                        raise UsageError(f"expected a checkpoint at {address}, found more than {LARGEST >> 30} GiB")
                    digest.update(chunk)
                    file.write(chunk)
    except (OSError, ValueError) as error:
        raise UnreachableError(f"could not fetch {address}: {error}") from error
    if stated is not None and size != stated:
        raise UnreachableError(f"could not fetch {address}: it ended after {size} of {stated} bytes")
    return digest.hexdigest()
