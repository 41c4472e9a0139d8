"""A real release of a tiny network, made once and copied by whoever wants to spoil it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from aethernet.checkpoint import save_safetensors
from aethernet.networks import AetherNet
from aethernet.precision import Precision
from aethernet.release.assembly import assemble_bundle
from aethernet.release.bundle import Bundle, open_bundle
from aethernet.release.manifest import RENDERED, BuildRecord, Manifest, identity_of
from aethernet.release.spec import ReleaseSpec
from aethernet.store.store import Store
from tests.support.networks import tiny_network

__all__ = [
    "NAME",
    "flip_byte",
    "made_once",
    "make_release",
    "reassemble",
    "rendered_files",
    "rewrite",
    "slim_release",
    "small_pictures",
    "small_spec",
    "snapshot",
    "tiny_checkpoint",
]

NAME = "tiny_2x"


def tiny_checkpoint(folder: Path, network: AetherNet | None = None) -> Path:
    """A safetensors file of a tiny generation-2 network in training form."""
    return save_safetensors(network or tiny_network(), folder / "tiny.safetensors")


def small_spec(
    folder: Path, name: str = NAME, network: AetherNet | None = None, leave_out: Sequence[str] = ("int8",)
) -> Path:
    """A spec with its checkpoint and pictures, quick to release: int8 takes longer than all else, engines come next."""
    folder.mkdir(parents=True)
    tiny_checkpoint(folder, network)
    small_pictures(folder / "low")
    small_pictures(folder / "high", scale=2)
    (folder / "release.toml").write_text(
        f'name = "{name}"\ncheckpoint = "tiny.safetensors"\nlicense = "CC0-1.0"\nimages = "low"\nhr = "high"\n'
        f"leave_out = {json.dumps(list(leave_out))}\nengines.backends = []\n"
    )
    return folder / "release.toml"


def make_release(spec: ReleaseSpec, folder: Path) -> Path:
    """Run the release flow's own lines without Prefect's engine and without its cache."""
    import flows.release as module
    from tasks.caching import RunContext, Stage, current_context, running

    def call(self: Stage, *args: object, **kwargs: object) -> object:
        return self.fn(current_context().store, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, running(RunContext(store=Store(folder / "store"))):
        patch.setattr(Stage, "__call__", call)
        patch.setattr(module, "assemble", module.assemble.fn)
        patch.setattr(module, "report_release", lambda *_: None)
        return module.release.fn(spec, folder / "out").bundle


def snapshot(root: Path) -> dict[str, str]:
    """Path -> digest of every file under ``root``, hidden ones too; links are named with their target."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            place = Path(folder) / name
            content = (
                f"-> {os.readlink(place)}" if place.is_symlink() else hashlib.sha256(place.read_bytes()).hexdigest()
            )
            found[place.relative_to(root).as_posix()] = content
    return found


def flip_byte(path: Path, position: float = 0.5) -> None:
    """Change one byte, at a share of the file's length."""
    data = bytearray(path.read_bytes())
    data[int((len(data) - 1) * position)] ^= 1
    path.write_bytes(data)


def rewrite(bundle: Path, manifest: Manifest | None = None, build: BuildRecord | None = None) -> Bundle:
    """Change a release's records and make their digests and seals fit, as a forger without a signing key would."""
    from aethernet.records import canonical_json
    from aethernet.release.assembly import sealed
    from aethernet.release.manifest import BUILD, MANIFEST

    opened = open_bundle(bundle)
    small = {MANIFEST: canonical_json(manifest or opened.manifest), **rendered_files(bundle)}
    (bundle / MANIFEST).write_bytes(small[MANIFEST])
    (bundle / BUILD).write_bytes(canonical_json(sealed(build or opened.build, small)))
    return open_bundle(bundle)


def reassemble(bundle: Bundle, destination: Path, files: Mapping[str, Path] | None = None) -> bool:
    """Assemble the same release somewhere else."""
    own = {entry.path: bundle.path(entry) for entry in bundle.manifest.files}
    rendered = rendered_files(bundle.root)
    return assemble_bundle(destination, bundle.manifest, bundle.build, rendered, {**own, **(files or {})})


def rendered_files(bundle: Path) -> dict[str, bytes]:
    """The card and what else is rendered from the records."""
    return {name: (bundle / name).read_bytes() for name in RENDERED if (bundle / name).is_file()}


def first_release(folder: Path) -> Path:
    """The release that :func:`release` copies."""
    spec = ReleaseSpec(
        name=NAME,
        checkpoint=tiny_checkpoint(folder),
        description="A network | for tests.",
        authors=("A. Tester", "B | C"),
        license="CC0-1.0",
        trained_on="Nothing at all.",
        images=small_pictures(folder / "low"),
        hr=small_pictures(folder / "high", scale=2),
        limits={Precision.FP16: {"max_level": 3}},
        leave_out=(Precision.INT8,),  # it takes longer than all else; tests/flows/test_int8.py has it
        engines={"backends": ()},  # seconds for each; tests/tasks/test_build.py has them
    )
    return make_release(spec, folder)


@contextmanager
def made_once(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """A folder that all of pytest's processes share, and whether one of them filled it; the others wait meanwhile."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder, done = root / name, root / f"{name}.done"
    with FileLock(root / f"{name}.lock"):
        if not (made := done.exists()):
            shutil.rmtree(folder, ignore_errors=True)  # whoever began it did not end it
            folder.mkdir()
        yield folder, made
        done.touch()


def small_pictures(folder: Path, scale: int = 1) -> Path:
    """The library's sample pictures, 64 pixels times ``scale`` wide."""
    from PIL import Image

    from aethernet.images.files import sample_pictures

    folder.mkdir()
    for path in sample_pictures():
        with Image.open(path) as image:
            image.resize((64 * scale, 64 * scale), Image.Resampling.BICUBIC).save(folder / f"{path.stem}.png")
    return folder


@pytest.fixture(scope="session")
def finished_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole release folder, made once for all of pytest's processes; look, don't touch."""
    with made_once(tmp_path_factory, "release") as (folder, made):
        if not made:
            first_release(folder)
    return folder / "out" / NAME


@pytest.fixture
def release(finished_release: Path, tmp_path: Path) -> Path:
    """A copy of a whole release folder, to be spoilt."""
    return Path(shutil.copytree(finished_release, tmp_path / NAME))


@pytest.fixture
def slim_release(release: Path) -> Path:
    """A release of as few files as there can be, two of them large ones: for what is done to it a hundred times."""
    manifest, build = open_bundle(release).manifest, open_bundle(release).build
    kept = [f"{NAME}_fp32.onnx", f"{NAME}_notfused.safetensors", "config.json"]
    for entry in manifest.files:
        if entry.path not in kept:
            (release / entry.path).unlink()
    (release / "images").rmdir()
    files = tuple(entry for entry in manifest.files if entry.path in kept)
    slim = manifest.model_copy(
        update={
            "files": files,
            "identity": identity_of(files),
            "forms": tuple(form for form in manifest.forms if form.precision is Precision.FP32),
            "measurements": tuple(item for item in manifest.measurements if item.form.file in kept),
            "quality": tuple(item for item in manifest.quality if item.precision is Precision.FP32),
            "limits": {Precision.FP32: manifest.limits[Precision.FP32]},
        }
    )
    rewrite(release, slim, build.model_copy(update={"identity": slim.identity}))
    return release
