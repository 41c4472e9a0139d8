"""A release, ready to enlarge pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from aethernet.errors import UpscaleError, UsageError
from aethernet.networks.config import describe
from aethernet.networks.descriptor import Descriptor
from aethernet.networks.sizes import fitted
from aethernet.precision import Precision
from aethernet.release.bundle import Bundle, open_bundle
from aethernet.runtimes.opening import open_runtime
from aethernet.runtimes.protocol import ShapeLimits
from aethernet.upscale.choice import candidates, choose
from aethernet.upscale.memory import bytes_per_pixel, free_gpu_memory, free_memory
from aethernet.upscale.statistics import Tally
from aethernet.upscale.tiles import FEATHER, UNKNOWN_REACH, Cut, TileSize, rows, size_tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from aethernet.images.files import ImageArray
    from aethernet.runtimes.protocol import Runtime

__all__ = ["Upscaler"]

_OVERLAP_COST, _OVERLAP_COST_OF_HUGE = 1.4, 1.8
"""On a CPU tiles are no larger than where they compute so many times what they keep. Larger ones save little, because
they take longer for each pixel (the sample network: 8 microseconds at 256x256 and 600x600, 10 at 1080x707)."""
_HUGE = 32 * 10**6
"""Pixels beyond which memory comes before speed."""
_LEAST_MEMORY, _MOST_MEMORY = 256 * 2**20, 3 * 2**30
"""Bounds of what the network takes on a CPU unless told otherwise."""
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32).reshape(1, 3, 1, 1)
"""BT.601, as Pillow turns colours to grey."""


class Upscaler:
    """Enlarges pictures with one form of a release.

    Can be shared by threads: the network runs for one of them at a time. Use it as a context manager, or call
    :meth:`close`, to give its memory back at once::

        with aethernet.Upscaler("out/net_2x") as upscaler:
            larger = upscaler.upscale(array)          # uint8 [H, W, 3] -> uint8 [s*H, s*W, 3]
            upscaler.upscale_file("cat.jpg", "cat_2x.jpg")

    Args:
        bundle: Release folder, or an opened release.
        precision: ``fp32``, ``fp16`` or ``int8``; ``auto`` takes the fastest that is worth it.
        runtime: One of :data:`aethernet.runtimes.opening.RUNTIMES`, or its part before the dash; ``auto`` measures.
        tile: Largest side of a tile in input pixels; None sizes tiles by memory.
        overlap: Input pixels that a tile reads beyond what it keeps, on each side; None takes as many as the network
            sees, so that cuts leave no trace. Fewer are faster and change the picture at the cuts.
        memory: Bytes the network may take; None takes up to half of what is free, and at most 3 GiB on a CPU.
        threads: CPU threads; 0 lets the runtime choose.
        frame: Height and width that all pictures have, if they are known; a TensorRT engine is built for exactly these.
        tell: Told when an engine is built, which happens where TensorRT is asked for by name, the release has none for
            the card in this machine, and none was built before. It may take minutes.

    Raises:
        BundleError: Not a release.
        UsageError: The release or this machine lacks what was asked for.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str,
        precision: str = "auto",
        runtime: str = "auto",
        *,
        tile: int | None = None,
        overlap: int | None = None,
        memory: int | None = None,
        threads: int = 0,
        frame: tuple[int, int] | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        self.config = describe(self.bundle.manifest.network.config)
        if self.config.in_channels not in (1, 3) or self.config.out_channels != self.config.in_channels:
            raise UsageError(
                f"expected a network from grey to grey or RGB to RGB, found one from {self.config.in_channels} to "
                f"{self.config.out_channels} channels"
            )
        self.cut = _cut(self.config, overlap)
        if tile is not None and tile < self.cut.floor:
            raise UsageError(
                f"expected tiles of at least {self.cut.floor} pixels ({self._why_so_large}), found {tile}",
                hint="--overlap sets how far tiles overlap" if overlap is None else "",
            )
        self._tile, self._memory, self._threads = tile, memory, threads
        self._lock = threading.Lock()
        self._spare: Runtime | None = None
        self._choice = choose(
            self.bundle, runtime, precision, threads=threads, floor=self.cut.floor, frame=frame, tell=tell
        )
        self._runtime: Runtime | None = self._choice.runtime

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def scale(self) -> int:
        """Output size over input size."""
        return self.config.scale

    @property
    def runtime(self) -> str:
        """Name of the runtime in use."""
        return self._choice.candidate.runtime

    @property
    def precision(self) -> Precision:
        """Precision in use."""
        return self._choice.candidate.precision

    @property
    def exact_tiles(self) -> bool:
        """Whether cutting a picture leaves the result as it is, rounding aside."""
        reach = self.config.receptive_radius
        return not self.config.pools_globally and reach is not None and self.cut.margin >= reach

    @property
    def _why_so_large(self) -> str:
        reach = self.config.receptive_radius
        if reach is None or self.cut.margin < reach:
            return f"tiles overlap by {self.cut.margin} pixels on each side"
        return f"this network sees {reach} pixels in every direction"

    def describe(self) -> dict[str, Any]:
        """What was chosen and why, as JSON values."""
        return {
            "release": f"{self.bundle.manifest.name}@{self.bundle.manifest.version}",
            "identity": self.bundle.manifest.identity,
            "file": self._choice.candidate.path.name,
            "runtime": self.runtime,
            "precision": self.precision.value,
            "scale": self.scale,
            "measured_ms": self._choice.milliseconds,
            "notes": list(self._choice.notes),
        }

    # --- arrays and files --------------------------------------------------------------------------------------------

    def upscale(self, picture: NDArray[Any] | Path | str) -> NDArray[Any]:
        """Enlarge one picture.

        Args:
            picture: [H, W] grey, [H, W, 1], [H, W, 2] grey and alpha, [H, W, 3] RGB or [H, W, 4] RGB and alpha; uint8,
                uint16, or floats in [0, 1]. Or the path of a picture file, whose orientation is applied.

        Returns:
            [s*H, s*W, ...] with as many channels and the same element type (float32 for any float), rounded, not cut
            off. Alpha is not multiplied into the colours. A CMYK file comes back as RGB.

        Raises:
            UsageError: Another shape or type, or values that are not finite.
            PictureError: The file cannot be read.
        """
        from aethernet.upscale.reading import Still, read_still

        if isinstance(picture, str | Path):
            still = read_still(picture).as_rgb()
        else:
            still = Still.of_array(picture)
        bands = list(self.bands(still))
        result = np.concatenate(bands) if len(bands) > 1 else bands[0]
        return result[..., 0] if not isinstance(picture, str | Path) and picture.ndim == 2 else result

    def upscale_file(self, source: Path | str, destination: Path | str, **options: Any) -> dict[str, Any]:
        """Enlarge a picture file; see :func:`aethernet.upscale.image_file.upscale_file`."""
        from aethernet.upscale.image_file import upscale_file

        return upscale_file(self, Path(source), Path(destination), **options)

    def bands(self, still: Any, tally: Tally | None = None) -> Iterator[NDArray[Any]]:
        """Enlarge a :class:`~aethernet.upscale.reading.Still`, [rows, s*W, channels] at a time, top to bottom.

        A second plane (alpha, or black of CMYK) is upscaled as a grey picture; a constant one is kept.
        """
        tally = tally if tally is not None else Tally()
        planes = [self._rows(still.filled_colour(), tally)]
        if still.plane is not None:
            value = still.plane.flat[0]
            if (still.plane == value).all():
                return (_with_constant(band.transpose(1, 2, 0), value) for band in planes[0])
            planes.append(self._rows(still.plane[..., None], tally))
        return (band.transpose(1, 2, 0) for band in _aligned(planes))

    def _rows(self, pixels: NDArray[Any], tally: Tally) -> Iterator[NDArray[Any]]:
        """[H, W, c] -> bands [c, rows, s*W] of the same element type."""
        height, width, _ = pixels.shape
        top = _top(pixels.dtype)

        def read(rows: slice, columns: slice) -> ImageArray:
            part = pixels[rows, columns].transpose(2, 0, 1)[None].astype(np.float32)
            return part / np.float32(top) if top != 1 else part

        def store(values: ImageArray) -> NDArray[Any]:
            limited = np.clip(values, 0, 1)
            return limited if top == 1 else np.rint(limited * np.float32(top)).astype(pixels.dtype)

        return rows(
            (height, width),
            read,
            lambda part: self._infer(part, tally),
            store,
            scale=self.scale,
            cut=self.cut,
            size=self.tile_size(height, width),
            on_halved=lambda size: tally.halved.append((size.height, size.width)),
        )

    def tile_size(self, height: int, width: int) -> TileSize:
        """The window that pictures of this size are cut into."""
        if self._limits is not None:
            return self._tile_of_engine(height, width, self._limits)
        if self._tile is not None:
            return TileSize(height=min(height, self._tile), width=min(width, self._tile))
        half = self.precision is Precision.FP16
        on_cpu = self.runtime.endswith("-cpu")
        budget = self._memory
        cost = float("inf")
        if budget is None:
            budget = max(_LEAST_MEMORY, (free_memory() if on_cpu else free_gpu_memory() or 2**32) // 2)
            # A network that pools is given the whole picture if at all possible.
            if on_cpu and self.exact_tiles:
                budget = min(budget, _MOST_MEMORY)
                cost = _OVERLAP_COST if height * width <= _HUGE else _OVERLAP_COST_OF_HUGE
        return size_tiles(
            height, width, budget // bytes_per_pixel(self.bundle.manifest.network.config, half=half), self.cut, cost
        )

    def _tile_of_engine(self, height: int, width: int, limits: ShapeLimits) -> TileSize:
        """As large as the engine takes; the memory for that is its own already."""
        tallest, widest = limits.largest
        if (height > tallest or width > widest) and min(limits.largest) < self.cut.floor:
            raise UpscaleError(
                f"expected an engine for inputs of at least {self.cut.floor} pixels a side, because "
                f"{self._why_so_large}, found one for at most {widest}x{tallest}",
                hint="build an engine with a larger profile, or choose another --runtime",
            )
        side = self._tile or max(height, width)
        return TileSize(height=min(height, tallest, side), width=min(width, widest, side), smallest=limits.smallest)

    @property
    def _limits(self) -> ShapeLimits | None:
        limits: ShapeLimits | None = getattr(self._runtime, "limits", None)
        fixed = self.config.size.fixed
        return ShapeLimits(smallest=fixed, largest=fixed) if limits is None and fixed is not None else limits

    # --- the network -------------------------------------------------------------------------------------------------

    def _infer(self, part: ImageArray, tally: Tally) -> ImageArray:
        """[1, 1 or 3, h, w] -> [1, 1 or 3, s*h, s*w], whatever the network's own channels are."""
        channels, network = part.shape[1], self.config.in_channels
        if network == 1:
            given = part.transpose(1, 0, 2, 3)  # every channel as a picture
        else:
            given = np.repeat(part, 3, axis=1) if channels == 1 else part
        limits = self._limits
        missing = [0, 0]
        if limits is not None:  # an engine has a smallest input: repeat the border, cut it off afterwards
            missing = [max(0, least - side) for least, side in zip(limits.smallest, part.shape[2:], strict=True)]
            given = np.pad(given, ((0, 0), (0, 0), (0, missing[0]), (0, missing[1])), mode="edge")
        output = self._run(np.ascontiguousarray(given), tally)
        if any(missing):
            output = output[..., : part.shape[2] * self.scale, : part.shape[3] * self.scale]
        if network == 1:
            return output.transpose(1, 0, 2, 3)
        grey: ImageArray = (output * _LUMA).sum(axis=1, keepdims=True) if channels == 1 else output
        return grey

    def _run(self, given: ImageArray, tally: Tally) -> ImageArray:
        with self._lock:
            if self._runtime is None:
                raise UpscaleError("expected an open upscaler, found a closed one")
            start = time.perf_counter()
            try:
                # Some runtimes are not safe to share, or batch only as they were built: one picture at a time.
                output = np.concatenate([self._fitted(self._runtime, one[None]) for one in given])
                if not np.isfinite(output).all():
                    tally.redone_in_fp32 += 1
                    output = np.concatenate([self._fitted(self._fp32(), one[None]) for one in given])
                    if not np.isfinite(output).all():
                        raise UpscaleError("the network's output is not finite, not even in fp32")
            finally:
                tally.network_seconds += time.perf_counter() - start
            tally.tiles += 1
        return output

    def _fitted(self, runtime: Runtime, picture: ImageArray) -> ImageArray:
        """The network on a picture continued to a size it takes; most take any."""
        return fitted(picture, self.config.size, self.scale, runtime.infer)

    def _fp32(self) -> Runtime:
        """The same network in fp32, opened when first needed: on the same device, else on the CPU."""
        if self._spare is None:
            chosen = self._choice.candidate
            # Where fp32 itself failed, only another runtime can do better.
            runtime = "onnxruntime-cpu" if chosen.precision is Precision.FP32 else chosen.runtime
            found = candidates(self.bundle, runtime, Precision.FP32)[0]
            self._spare = open_runtime(found.path, name=found.runtime, threads=self._threads).__enter__()
        return self._spare

    def close(self) -> None:
        """Give device and memory back."""
        with self._lock:
            for runtime in (self._runtime, self._spare):
                if runtime is not None:
                    runtime.__exit__(None, None, None)
            self._runtime = self._spare = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cut(config: Descriptor, overlap: int | None) -> Cut:
    """How tiles meet: hard cuts where tiles give the same picture or somebody sets the overlap, else faded ones."""
    if overlap is not None:
        if overlap < 0:
            raise UsageError(f"expected an overlap of no or more pixels, found {overlap}")
        return Cut(margin=overlap)
    feather = FEATHER if config.pools_globally else 0
    reach = UNKNOWN_REACH if config.receptive_radius is None else config.receptive_radius
    return Cut(margin=reach + feather, feather=feather)


def _top(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else 1


def _with_constant(band: NDArray[Any], value: Any) -> NDArray[Any]:
    return np.concatenate([band, np.full((*band.shape[:2], 1), value, dtype=band.dtype)], axis=2)


def _aligned(planes: list[Iterator[NDArray[Any]]]) -> Iterator[NDArray[Any]]:
    """Bands of several planes side by side, though memory running out may have cut them differently."""
    waiting: list[NDArray[Any] | None] = [None] * len(planes)
    while True:
        for index, plane in enumerate(planes):
            if waiting[index] is None or not waiting[index].shape[1]:  # type: ignore[union-attr]
                waiting[index] = next(plane, None)
        parts = [part for part in waiting if part is not None]
        if not parts:
            return
        rows_ready = min(part.shape[1] for part in parts)
        yield np.concatenate([part[:, :rows_ready] for part in parts])
        waiting = [part[:, rows_ready:] for part in parts]
