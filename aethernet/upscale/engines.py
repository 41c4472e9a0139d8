"""A TensorRT engine for the card in this machine, built from a release's ONNX file where the release has none.

What is built is kept in the user's cache, by the digest of its ONNX file, and found again there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aethernet.engines.backends import Backend, Gpu, find_gpu
from aethernet.engines.identity import check_engine
from aethernet.engines.profiles import PROFILE_PRESETS, Profile
from aethernet.errors import AethernetError, EngineError, UsageError
from aethernet.precision import Precision

if TYPE_CHECKING:
    from aethernet.release.bundle import Bundle
    from aethernet.release.manifest import FileEntry

__all__ = ["engine_for", "engine_source", "profile_for", "released_engines"]


def engine_source(bundle: Bundle, precision: Precision) -> FileEntry | None:
    """The ONNX file engines of a precision are built from."""
    return bundle.manifest.file("onnx", precision, "_trt.onnx" if precision is Precision.INT8 else ".onnx")


def released_engines(bundle: Bundle, backend: Backend, precision: Precision) -> list[Path]:
    """A release's engines, for whatever card."""
    made = [
        one.file
        for one in bundle.manifest.engines
        if (one.backend, one.precision) == (backend, precision) and one.status != "skipped"
    ]
    return [bundle.path(entry) for entry in bundle.manifest.files if entry.path in made]


def profile_for(floor: int, frame: tuple[int, int] | None) -> Profile:
    """Input sizes of an engine: exactly the frames of a film, or tiles a network with this smallest tile can use.

    Args:
        floor: Smallest side of a tile that makes headway.
        frame: Height and width of every picture, if they are all the same.
    """
    if frame is not None:
        shape = (1, *frame)
        return Profile(name="x".join(map(str, shape)), minimum=shape, optimum=shape, maximum=shape)
    tile = PROFILE_PRESETS["tile"]
    if tile.maximum[1] >= 2 * floor:
        return tile
    side = -(-2 * floor // 64) * 64
    return Profile(
        name=f"1x16x16:1x{side}x{side}:1x{side}x{side}", minimum=(1, 16, 16), optimum=(1, side, side),
        maximum=(1, side, side),
    )  # fmt: skip


def engine_for(
    bundle: Bundle,
    backend: Backend,
    precision: Precision,
    *,
    floor: int,
    frame: tuple[int, int] | None = None,
    gpu: Gpu | None = None,
    cache: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Path:
    """An engine that fits this machine: a released one, one built earlier, or a new one.

    Args:
        bundle: The release.
        backend: What is to run it.
        precision: Of the form.
        floor: See :func:`profile_for`.
        frame: See :func:`profile_for`; where a whole frame needs more memory than the card has, tiles are taken.
        gpu: The card; by default the first one here.
        cache: Where built engines are kept; by default in the user's cache folder.
        tell: Told what is built, which may take minutes.

    Raises:
        UsageError: The release has no ONNX file of that precision.
        MissingDependencyError: The backend is not installed.
        EngineError: There is no GPU, the backend does not know it, or the build failed.
    """
    for engine in released_engines(bundle, backend, precision):
        if _fits(engine, floor):
            return engine
    entry = engine_source(bundle, precision)
    if entry is None:
        raise UsageError(f"expected a release with {precision} as ONNX to build an engine from, found none")
    gpu = gpu or find_gpu()
    if gpu is None:
        raise EngineError("expected an NVIDIA GPU to build an engine for, found none", hint="take another --runtime")
    if cache is None:
        import platformdirs

        cache = Path(platformdirs.user_cache_dir("aethernet")) / "engines"
    folder = cache / entry.sha256[:16]
    wanted = [profile_for(floor, frame), *([profile_for(floor, None)] if frame else [])]
    for index, profile in enumerate(wanted):
        try:
            return _kept_or_built(bundle.path(entry), folder, backend, gpu, profile, tell)
        except UsageError:  # more memory than the card has
            if index + 1 == len(wanted):
                raise
    raise AssertionError("unreachable")


def _fits(engine: Path, floor: int) -> bool:
    try:
        profiles = check_engine(engine).record.identity.profiles
    except AethernetError:
        return False
    return any(min(profile.maximum[1:]) >= floor for profile in profiles)


def _kept_or_built(
    onnx: Path, folder: Path, backend: Backend, gpu: Gpu, profile: Profile, tell: Callable[[str], None]
) -> Path:
    from aethernet.engines.backends import DEFAULT_CAPABILITIES
    from aethernet.engines.builder import build_engine, plan_builds
    from aethernet.engines.identity import engine_name

    rtx = backend is Backend.TENSORRT_RTX
    if rtx and gpu.capability not in DEFAULT_CAPABILITIES:
        raise EngineError(
            f"expected a card TensorRT-RTX builds for (compute capability {', '.join(DEFAULT_CAPABILITIES)}), found "
            f"{gpu.name} with {gpu.capability}",
            hint="take --runtime onnxruntime-cuda, or install TensorRT and take --runtime tensorrt",
        )
    made = folder / engine_name(onnx.name, backend, (gpu.capability,), (profile,))
    try:
        check_engine(made, onnx=onnx)
        return made
    except EngineError:
        pass  # none yet, or of another version
    (config,) = plan_builds(
        backend, (profile,), capabilities=(gpu.capability,) if rtx else None, memory=gpu.memory or None
    )
    tell(f"building a {backend.label} engine of {onnx.name} for {gpu.name}, inputs of {profile.name} pixels …")
    folder.mkdir(parents=True, exist_ok=True)
    build_engine(onnx, made, config)
    tell(f"built; kept as {made}")
    return made
