"""What a repository on a hub holds at a commit, and how that differs from a release folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from aethernet.errors import HubError
from aethernet.hub.address import printable

__all__ = ["CommittedFile", "Refs", "commit_id", "differences", "without_own"]

T = TypeVar("T")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_OWN_FILES = (".gitattributes",)
"""What the Hub itself puts into every repository."""
_CHUNK = 2**20


class Refs:
    """Branches and tags of a repository: name -> commit."""

    def __init__(self, branches: dict[str, str], tags: dict[str, str]) -> None:
        self.branches, self.tags = branches, tags

    @property
    def head(self) -> str:
        """The commit that a publication starts from."""
        if "main" not in self.branches:
            raise HubError("expected a branch called main on the hub, found none")
        return self.branches["main"]


class CommittedFile:
    """A file of a commit: bytes, and a digest as the hub states it."""

    def __init__(self, size: int, digest: str) -> None:
        self.size, self.digest = size, digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CommittedFile) and (self.size, self.digest) == (other.size, other.digest)

    def __hash__(self) -> int:
        return hash((self.size, self.digest))


def without_own(files: dict[str, T]) -> dict[str, T]:
    """Files by path, but those that the Hub itself puts into a repository."""
    return {path: value for path, value in files.items() if path not in _OWN_FILES}


def differences(files: Mapping[str, Path], tree: Mapping[str, CommittedFile]) -> list[str]:
    """How a commit differs from what is to be published, by content."""
    wrong = [f"{path} is missing" for path in files if path not in tree]
    wrong += [f"{printable(path)} is not part of the release" for path in tree if path not in files]
    for path, file in files.items():
        if path in tree and _digest_like(file, tree[path].digest) != tree[path].digest:
            wrong.append(f"{path} has other content")
    return wrong


def _digest_like(path: Path, stated: str) -> str:
    """A file's digest of the kind the hub stated."""
    if stated.startswith("sha256:"):
        with open(path, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return f"git:{digest.hexdigest()}"


def commit_id(text: Any) -> str:
    """A commit's id as the hub states it; ValueError where it is none."""
    if not isinstance(text, str) or not _COMMIT.fullmatch(text):
        raise ValueError(f"no commit: {text!r}")
    return text
