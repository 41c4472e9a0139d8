"""The files of onnxruntime-web that a site needs: of one version, each known by its digest.

They come from the npm package: from a folder or archive that the user names, from the user's cache, or through the npm
client with whatever registry that is set up for. Whatever the source, a file whose digest differs is refused.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from aethernet.artifact import atomic_path, file_digest
from aethernet.errors import WebError

__all__ = ["DIGESTS", "PACKAGE", "VERSION", "onnxruntime_web"]

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
DIGESTS = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.asyncify.mjs": "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    "ort-wasm-simd-threaded.asyncify.wasm": "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
"""Name in the package's ``dist`` -> sha256: loader, script and WebAssembly code, without and with WebGPU."""

_LARGEST = 64 * 2**20
"""Bytes of the largest file that is unpacked; none of the pinned ones is half as large."""
_SECONDS = 600


def onnxruntime_web(source: Path | None = None, *, cache: Path | None = None) -> Path:
    """A folder that holds exactly the files of :data:`DIGESTS`, fetched where it is not there yet.

    Args:
        source: The unpacked package (or its ``dist``, or a folder of ``node_modules`` that holds it), or the archive
            that ``npm pack`` makes. None takes what is in the cache, else asks npm.
        cache: Where the files are kept, by default a folder of the user's cache.

    Raises:
        WebError: The source lacks a file or holds another one, there is neither a source nor npm, or npm could not
            fetch the package.
        StoreError: The cache cannot be written.
    """
    if cache is None:
        import platformdirs

        cache = Path(platformdirs.user_cache_dir("aethernet")) / PACKAGE
    kept = cache / VERSION
    if source is not None:
        _keep(source, kept)
    elif _wrong(kept):
        with tempfile.TemporaryDirectory() as folder:
            _keep(_pack(Path(folder)), kept)
    return kept


def _wrong(folder: Path) -> list[str]:
    """Files that are missing from a folder or are others."""
    return [
        name
        for name, sha256 in DIGESTS.items()
        if not (folder / name).is_file() or file_digest(folder / name) != sha256
    ]


def _keep(source: Path, kept: Path) -> None:
    """Copy the pinned files from a package into the cache, each checked before it is put in place."""
    contents = _of_archive(source) if source.is_file() else _of_folder(source)
    found = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    wrong = [name for name, sha256 in DIGESTS.items() if found.get(name) != sha256]
    if wrong:
        missing = [name for name in wrong if name not in found]
        raise WebError(
            f"expected {PACKAGE} {VERSION} at {source}, found "
            + (f"no {', '.join(missing)}" if missing else f"other content in {', '.join(wrong)} (sha256 differs)"),
            hint=f"get that version with: npm pack {PACKAGE}@{VERSION}",
        )
    for name, content in contents.items():
        with atomic_path(kept / name) as part:
            part.write_bytes(content)


def _of_folder(source: Path) -> dict[str, bytes]:
    for folder in (source, source / "dist", source / "package" / "dist", source / PACKAGE / "dist"):
        if (folder / next(iter(DIGESTS))).is_file():
            return {name: (folder / name).read_bytes() for name in DIGESTS if (folder / name).is_file()}
    return {}


def _of_archive(source: Path) -> dict[str, bytes]:
    """Pinned files of an archive; nothing is unpacked to disk, so that no member's path or link matters."""
    contents = {}
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                name = member.name.removeprefix("package/dist/")
                if name in DIGESTS and member.isfile() and member.size <= _LARGEST:
                    file = archive.extractfile(member)
                    contents[name] = file.read() if file else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise WebError(
            f"expected the archive of {PACKAGE} {VERSION} at {source}, found something that cannot be read: {error}",
            hint=f"get it with: npm pack {PACKAGE}@{VERSION}",
        ) from error
    return contents


def _pack(folder: Path) -> Path:
    """The package's archive, through the npm client: its settings say which registry is asked, and how."""
    npm = shutil.which("npm")
    if npm is None:
        raise WebError(
            f"expected the files of {PACKAGE} {VERSION}, found neither them nor npm to fetch them with",
            hint="install Node.js with npm, or give the package with --onnxruntime-web FOLDER or FILE.tgz",
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=folder)
    except subprocess.TimeoutExpired as error:
        raise WebError(f"npm did not fetch {PACKAGE} {VERSION} within {_SECONDS} seconds") from error
    archives = list(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        reason = next((line for line in done.stderr.splitlines() if "npm error" in line), done.stderr[-300:]).strip()
        raise WebError(
            f"npm could not fetch {PACKAGE} {VERSION}: {reason}",
            hint="check npm's registry settings, or give the package with --onnxruntime-web FOLDER or FILE.tgz",
        )
    return archives[0]
