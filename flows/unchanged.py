"""Whether a release is known to be unchanged, so that nothing has to be started to say so.

A run that ended well leaves a note in its store under a digest of everything it depended on. A later command with the
same digest looks whether what that run made is still there, to the last byte: the release folder, its signature, and
the publication. Then it is finished, without Prefect's engine, its server or PyTorch. Whatever is in doubt starts the
run, which looks closer.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

import aethernet
from aethernet.artifact import atomic_path, file_digest
from aethernet.engines.backends import find_gpu
from aethernet.errors import AethernetError
from aethernet.host import describe_host, package_version, toolchain
from aethernet.hub.address import Address
from aethernet.hub.connecting import connect
from aethernet.release.bundle import open_bundle, stated_digests
from aethernet.release.signing import Signer
from aethernet.release.spec import ReleaseSpec
from aethernet.release.verification import verify_bundle
from aethernet.store.store import Store
from flows.outcome import Outcome

__all__ = ["KnownRelease", "known_release", "release_key", "remember_release"]

LONGEST = 5 * 24 * 3600.0
"""Seconds after which a run looks closer all the same: that refreshes what the store keeps for releases in use."""

_TOOLS = ("prefect", "huggingface-hub", "model-signing", "openvino", "tensorrt", "tensorrt-rtx", "ncnn")
_CODE = ("aethernet", "tasks", "flows")
_NOTHING_RAN = {"ran": [], "seconds": 0.0, "step_seconds": 0.0}


class KnownRelease(BaseModel):
    """A run that ended well, as its note says."""

    model_config = ConfigDict(extra="forbid")

    finished: float
    """Seconds since the epoch."""
    outcome: Outcome
    summary: dict[str, Any]
    """What the command prints with ``--json`` where nothing ran."""
    files: dict[str, str]
    """Path in the release folder, or in the site's after ``site:`` -> sha256."""
    fingerprint: str | None
    """Of the publication, where there is one."""


def release_key(
    spec: ReleaseSpec, output: Path, hub: str | None, signer: Signer | None, private: bool, *, code: Path
) -> str:
    """Digest of everything a release run depends on.

    Args:
        spec: Paths in it count by what lies there.
        output: Folder the release folder is put into.
        hub: Place it is published to.
        signer: Keys count by their content.
        private: Whether a new repository is private.
        code: Folder that holds the packages whose code makes releases.
    """
    given = spec.model_dump(mode="json")
    for name in ("checkpoint", "images", "hr", "calibration"):
        place = getattr(spec, name)
        given[name] = None if place is None else [place.name, *_contents(place)]
    keys = [] if signer is None else [signer.private_key, signer.certificate, *signer.chain]
    parts = {
        "spec": given,
        "output": str(output.resolve()),
        "hub": hub,
        "private": private,
        "signer": None if signer is None else [signer.sigstore, *(file_digest(key) for key in keys if key is not None)],
        "code": _code_digest(code),
        "tools": toolchain() | {name: package_version(name) or "not installed" for name in _TOOLS},
        "host": describe_host(),
        "gpu": repr(find_gpu()),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _contents(place: Path) -> Iterator[str]:
    if not place.exists():
        return  # the run says what is missing, and what was expected there
    files = [place] if place.is_file() else sorted(one for one in place.iterdir() if one.is_file())
    yield from (f"{one.name} {file_digest(one)}" for one in files)


def _code_digest(root: Path) -> str:
    # Installed from a wheel the library lies elsewhere than the flows.
    places = {name: place if (place := root / name).is_dir() else Path(aethernet.__file__).parent for name in _CODE}
    lines = [
        f"{name}/{path.relative_to(place).as_posix()} {file_digest(path)}\n"
        for name, place in places.items()
        for path in place.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def remember_release(store: Store, key: str, outcome: Outcome, summary: dict[str, Any]) -> None:
    """Leave a note of a run that ended well; a note that cannot be written costs time, nothing else."""
    try:
        known = KnownRelease(
            finished=time.time(),
            outcome=outcome,
            summary=_when_unchanged(summary),
            files=_files(outcome),
            fingerprint=_fingerprint(outcome),
        )
        with atomic_path(_note(store, key)) as temporary:
            temporary.write_text(known.model_dump_json(), encoding="utf-8")
    except (AethernetError, OSError):
        return


def _when_unchanged(summary: dict[str, Any]) -> dict[str, Any]:
    """What the same command prints later, when nothing runs."""
    told = {**summary, **_NOTHING_RAN, "unchanged": [*summary["ran"], *summary["unchanged"]]}
    return told | {"already_published": True} if told.get("published") else told


def known_release(store: Store, key: str, signer: Signer | None) -> KnownRelease | None:
    """What the note says, if all of it is still true; None where a run has to look."""
    try:
        known = KnownRelease.model_validate_json(_note(store, key).read_bytes())
        if not 0 <= time.time() - known.finished < LONGEST:
            return None
        trust = signer.trust() if signer is not None else None
        if signer is not None and trust is None:
            return None
        bundle = known.outcome.bundle
        whole = _files(known.outcome) == known.files and verify_bundle(bundle, run=False, trust=trust).ok
        return known if whole and _fingerprint(known.outcome) == known.fingerprint else None
    except (AethernetError, OSError, ValidationError, ValueError):
        return None


def _note(store: Store, key: str) -> Path:
    return store.root / "finished" / f"{key}.json"


def _files(outcome: Outcome) -> dict[str, str]:
    site = outcome.site
    pages = [path for path in site.rglob("*") if path.is_file()] if site is not None else []
    return stated_digests(open_bundle(outcome.bundle)) | {
        f"site:{path.relative_to(site).as_posix()}": file_digest(path) for path in pages if site is not None
    }


def _fingerprint(outcome: Outcome) -> str | None:
    """Of what stands on the hub now; empty where nothing does."""
    if outcome.publication is None:
        return None
    address = Address.parse(outcome.publication.address)
    return connect(address.place).fingerprint(address.name, outcome.publication.version)
