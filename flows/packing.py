"""What a worker needs of a release's spec, and what it made, as files of the store both sides see."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aethernet.artifact import Artifact, fsync_tree
from aethernet.errors import BundleError, UsageError
from aethernet.release.assembly import replace_folder, unexpected_files
from aethernet.release.bundle import open_bundle
from aethernet.release.spec import ReleaseSpec, read_spec
from aethernet.release.verification import verify_bundle
from aethernet.store.store import Store

__all__ = ["is_packed", "named_in", "opened_spec", "pack_bundle", "pack_spec", "place_bundle"]

_PACKED = "packed:"
_FILES = ("checkpoint", "images", "hr", "calibration")


def pack_spec(spec: ReleaseSpec, store: Store) -> str:
    """Put a spec with every file it names into a store.

    Returns:
        Text that :func:`opened_spec` takes in place of a path, on any machine that sees the store.
    """
    packed, files = spec.model_dump(mode="json", exclude_unset=True), {}
    for field in _FILES:
        path: Path | None = getattr(spec, field)
        if path is None:
            continue
        if not path.exists():
            raise UsageError(f"expected {field} of {spec.name} at {path}, found nothing")
        packed[field] = field if path.is_dir() else f"{field}/{path.name}"
        found = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for one in found:
            inside = one.relative_to(path).as_posix() if path.is_dir() else path.name
            files[f"{field}/{inside}"] = asdict(store.put(one))
    return f"{_PACKED}{spec.name} {spec.version}:{_put_json(store, {'spec': packed, 'files': files})}"


def is_packed(text: str) -> bool:
    """Whether a text is what :func:`pack_spec` returned, and not a path."""
    return text.startswith(_PACKED)


def named_in(text: str) -> str:
    """The release behind a path or a packed spec, for people."""
    return text.split(":")[1] if is_packed(text) else Path(text.removesuffix("/release.toml")).name


@contextmanager
def opened_spec(text: str, store: Store) -> Iterator[ReleaseSpec]:
    """The spec behind a path, or behind what :func:`pack_spec` returned; its files are there during the block."""
    if not is_packed(text):
        yield read_spec(Path(text))
        return
    packed = _get_json(store, text.removeprefix(_PACKED).partition(":")[2])
    with store.scratch() as folder:
        _unpack(packed["files"], folder, store)
        named = {field: folder / packed["spec"][field] for field in _FILES if packed["spec"].get(field)}
        yield ReleaseSpec.model_validate({**packed["spec"], **named})


def pack_bundle(bundle: Path, store: Store) -> str:
    """Put a release folder into a store; most of its files are there already."""
    files = {path.relative_to(bundle).as_posix(): path for path in sorted(bundle.rglob("*")) if path.is_file()}
    return _put_json(
        store, {"name": bundle.name, "files": {name: asdict(store.put(path)) for name, path in files.items()}}
    )


def place_bundle(packed: str, output: Path, store: Store) -> Path:
    """Put a packed release folder in place in one step, verified; an identical one is left alone.

    Raises:
        BundleError: It is not whole, or something that is no release is in its place.
    """
    content = _get_json(store, packed)
    destination: Path = output / content["name"]
    part = output / f".{content['name']}.{secrets.token_hex(6)}.part"
    try:
        _unpack(content["files"], part, store)
        problems = verify_bundle(part, run=False).problems
        if problems:
            raise BundleError(f"what the worker sent of {content['name']} is not whole: {'; '.join(problems[:3])}")
        if _same(part, destination):
            return destination
        if foreign := unexpected_files(destination, open_bundle(part).manifest):
            raise BundleError(
                f"expected a release or nothing at {destination}, found other files: {', '.join(foreign[:5])}",
                hint="move them away, or choose another --output; nothing was touched",
            )
        fsync_tree(part)
        replace_folder(part, destination)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return destination


def _same(one: Path, other: Path) -> bool:
    def content(root: Path) -> dict[str, str]:
        return {
            path.relative_to(root).as_posix(): Artifact.of(path).sha256 for path in root.rglob("*") if path.is_file()
        }

    return other.is_dir() and content(one) == content(other)


def _unpack(files: dict[str, dict[str, str | int]], folder: Path, store: Store) -> None:
    for name, artifact in files.items():
        target = folder / name
        if ".." in Path(name).parts or not target.is_relative_to(folder):
            raise BundleError(f"refused to write outside of {folder}: {name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store.get(Artifact(**artifact)), target)  # type: ignore[arg-type]


def _put_json(store: Store, content: object) -> str:
    with store.scratch() as folder:
        (folder / "packed.json").write_text(json.dumps(content, sort_keys=True), encoding="utf-8")
        artifact = store.put(folder / "packed.json")
    return f"{artifact.sha256}:{artifact.size}"


def _get_json(store: Store, text: str) -> Any:
    digest, _, size = text.partition(":")
    artifact = Artifact(name="packed.json", sha256=digest, size=int(size))
    return json.loads(store.get(artifact).read_text(encoding="utf-8"))
