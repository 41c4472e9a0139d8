"""Picture files in, picture files out: single ones, lists and folders."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aethernet.artifact import atomic_path
from aethernet.errors import AethernetError, UsageError
from aethernet.upscale.memory import return_freed_memory
from aethernet.upscale.reading import Still, read_still
from aethernet.upscale.upscaler import Tally
from aethernet.upscale.writing import FORMATS, format_of, require_fit, write_picture

if TYPE_CHECKING:
    from aethernet.upscale.upscaler import Upscaler

__all__ = ["FILM_SUFFIXES", "PICTURE_SUFFIXES", "Job", "ahead", "is_film", "plan_jobs", "upscale_file", "upscale_files"]

PICTURE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".tif",
    ".tiff",
    ".avif",
    ".bmp",
    ".gif",
    ".jp2",
    ".ppm",
    ".pgm",
    ".tga",
)
FILM_SUFFIXES = (
    ".mkv",
    ".mp4",
    ".m4v",
    ".mov",
    ".webm",
    ".avi",
    ".ts",
    ".m2ts",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".ogv",
    ".nut",
)

_LARGE = 64 * 2**20
"""Bytes of a picture from which on it pays to tidy up after reading."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Job:
    """One file to make."""

    source: Path
    destination: Path


def is_film(path: Path) -> bool:
    """Whether a file name is that of a film."""
    return path.suffix.lower() in FILM_SUFFIXES


def plan_jobs(inputs: Sequence[Path], output: Path, form: str | None = None) -> list[Job]:
    """Which file becomes which.

    One file and an output with a known ending make that file; everything else goes into the folder ``output``, a
    folder's content under the same relative paths. A picture keeps its format where that can be written, and becomes
    PNG where not; a film that is not named stays MP4 or QuickTime and becomes Matroska otherwise.

    Raises:
        UsageError: A missing input, two inputs for one output, or an output that is its own input.
    """
    if form is not None and form not in FORMATS:
        raise UsageError(f"expected a format of {', '.join(FORMATS)}, found '{form}'")
    missing = [path for path in inputs if not path.exists()]
    if missing:
        raise UsageError(f"expected pictures, films or folders, found nothing at {', '.join(map(str, missing))}")
    if len(inputs) == 1 and inputs[0].is_file() and output.suffix and not output.is_dir():
        if not is_film(output):
            target = format_of(output)
            if form is not None and form != target.name:
                raise UsageError(f"expected --format to fit {output.name}, found {form}")
        elif not is_film(inputs[0]):
            raise UsageError(f"expected a picture as output for {inputs[0].name}, found {output.name}")
        jobs = [Job(inputs[0], output)]
    else:
        if output.is_file():
            raise UsageError(f"expected a folder for the results, found a file: {output}")
        jobs = [
            Job(path, (output / relative).with_suffix(_ending(path, form)))
            for given in inputs
            for path, relative in _files(given, output)
        ]
    if not jobs:
        raise UsageError(f"expected pictures or films in {', '.join(map(str, inputs))}, found none")
    taken: dict[Path, Path] = {}
    for job in jobs:
        place = job.destination.resolve()
        if place == job.source.resolve():
            raise UsageError(f"expected an output beside its input, found both at {job.source}")
        if place in taken:
            raise UsageError(
                f"expected one output per input, found {taken[place]} and {job.source} for {job.destination}"
            )
        taken[place] = job.source
    return jobs


def _files(given: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    if given.is_file():
        yield given, Path(given.name)
        return
    inside = output.resolve()
    for path in sorted(given.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(given).parts)
        if path.suffix.lower() in PICTURE_SUFFIXES + FILM_SUFFIXES and path.is_file() and not hidden:
            # Results of an earlier run may lie inside the folder they were made from.
            if given.resolve() != inside and inside in path.resolve().parents:
                continue
            yield path, path.relative_to(given)


def _ending(source: Path, form: str | None) -> str:
    if is_film(source):
        # Matroska holds everything but what is made for MP4 and its kin, such as their subtitles.
        return source.suffix if source.suffix.lower() in (".mp4", ".m4v", ".mov") else ".mkv"
    if form is not None:
        return FORMATS[form].suffixes[0]
    try:
        format_of(source)
    except UsageError:
        return ".png"
    return source.suffix


def upscale_file(
    upscaler: Upscaler,
    source: Path,
    destination: Path,
    *,
    quality: int | None = None,
    still: Still | None = None,
    read_seconds: float = 0.0,
) -> dict[str, Any]:
    """Enlarge one picture file. Nothing is left behind when it fails.

    Args:
        upscaler: The network.
        source: Any picture :func:`~aethernet.upscale.reading.read_still` takes.
        destination: Its ending chooses the format.
        quality: 1 to 100, for formats with loss.
        still: ``source``, if it was read already.
        read_seconds: How long that took.

    Returns:
        Facts as JSON values: sizes, tiles, seconds per stage, notes.

    Raises:
        PictureError: It cannot be read, or the result does not fit the format.
        StoreError: It cannot be written.
        UpscaleError: The network cannot be run on it.
    """
    start = time.perf_counter()
    target = format_of(destination)
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"expected a quality of 1 to 100, found {quality}")
    read_ahead = read_seconds
    if still is None:
        still = read_still(source)
        read_seconds = time.perf_counter() - start
    width, height = still.size[0] * upscaler.scale, still.size[1] * upscaler.scale
    require_fit(target, width, height)
    if not target.cmyk:
        still = still.as_rgb()
    tally = Tally()
    with ahead(upscaler.bands(still, tally), depth=1) as bands, atomic_path(destination) as temporary:
        began, waits = time.perf_counter(), list[float]()
        notes = [*still.notes, *write_picture(temporary, target, still, _timed(bands, waits), (width, height), quality)]
        write_seconds = time.perf_counter() - began - sum(waits)
    if tally.tiles > 1 + (still.plane is not None) and not upscaler.exact_tiles:
        if upscaler.cut.feather:
            notes.append(
                f"this network looks at the whole picture, which did not fit into memory: {tally.tiles} tiles were "
                "faded into each other, and differ slightly from the whole"
            )
        else:
            notes.append(
                f"{tally.tiles} tiles overlap by {upscaler.cut.margin} pixels, less than the network sees: the cuts "
                "may show"
            )
    if tally.redone_in_fp32:
        notes.append(f"{tally.redone_in_fp32} of {tally.tiles} tiles were not finite and were redone in fp32")
    if tally.halved:
        notes.append(f"memory ran out; went on with tiles of {tally.halved[-1][1]}x{tally.halved[-1][0]}")
    return {
        "source": str(source),
        "destination": str(destination),
        "input_size": list(still.size),
        "output_size": [width, height],
        "tiles": tally.tiles,
        "seconds": {
            "read": round(read_seconds, 4),
            "network": round(tally.network_seconds, 4),
            "write": round(write_seconds, 4),
            "total": round(time.perf_counter() - start + read_ahead, 4),
        },
        "notes": notes,
    }


def _timed(items: Iterator[Item], waits: list[float]) -> Iterator[Item]:
    """The same items; ``waits`` gets the seconds each took to come."""
    while True:
        asked = time.perf_counter()
        try:
            item = next(items)
        except StopIteration:
            return
        finally:
            waits.append(time.perf_counter() - asked)
        yield item


def upscale_files(
    upscaler: Upscaler,
    jobs: Sequence[Job],
    *,
    quality: int | None = None,
    skip_existing: bool = False,
    on_done: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Enlarge picture files; the next is read while one is computed. One that fails does not stop the others.

    Returns:
        For each job the facts of :func:`upscale_file`, or ``source``, ``destination`` and ``error``, or ``skipped``.
    """
    results = []
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        coming: Future[tuple[Still, float]] | None = None
        waiting = [job for job in jobs if not (skip_existing and job.destination.exists())]
        for index, job in enumerate(waiting):
            current = coming or reader.submit(_timed_read, job.source)
            coming = reader.submit(_timed_read, waiting[index + 1].source) if index + 1 < len(waiting) else None
            try:
                still, seconds = current.result()
                result = upscale_file(
                    upscaler, job.source, job.destination, quality=quality, still=still, read_seconds=seconds
                )
            except (AethernetError, MemoryError) as error:
                if isinstance(error, UsageError):
                    raise
                told = str(error) or "not enough memory for the picture itself"
                result = {"source": str(job.source), "destination": str(job.destination), "error": told}
            results.append(result)
            on_done(result)
    done = {result["destination"]: result for result in results}
    skipped = {"skipped": "exists already"}
    return [
        done.get(str(job.destination), {"source": str(job.source), "destination": str(job.destination), **skipped})
        for job in jobs
    ]


def _timed_read(path: Path) -> tuple[Still, float]:
    start = time.perf_counter()
    still = read_still(path)
    if still.colour.nbytes > _LARGE:
        return_freed_memory()
    return still, time.perf_counter() - start


class ahead(Iterator[Item]):  # noqa: N801 (used like the functions of itertools)
    """Runs an iterator in a thread of its own, at most ``depth`` items ahead of whoever takes them.

    An exception inside comes out where the items are taken. As a context manager it waits for the thread to end, so
    that nothing goes on behind the back of a caller who has given up.
    """

    _END = object()

    def __init__(self, items: Iterator[Item], depth: int = 2) -> None:
        self._items = items
        self._queue: queue.Queue[Any] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        ending: object = self._END
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as error:  # noqa: BLE001 (it is raised again by whoever waits)
            ending = error
        self._put(ending)

    def _put(self, item: Any) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> Item:
        if self._stopped.is_set():
            raise StopIteration
        item: Any = self._queue.get()
        if item is self._END:
            self._stopped.set()
            raise StopIteration
        if isinstance(item, BaseException):
            self._stopped.set()
            raise item
        taken: Item = item
        return taken

    def __enter__(self) -> ahead[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
