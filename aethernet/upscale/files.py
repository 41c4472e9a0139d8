"""Picture files in, picture files out: single ones, lists and folders."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aethernet.errors import AethernetError, UsageError
from aethernet.upscale.image_file import upscale_file
from aethernet.upscale.memory import return_freed_memory
from aethernet.upscale.reading import Still, read_still
from aethernet.upscale.writing import FORMATS, format_of

if TYPE_CHECKING:
    from aethernet.upscale.upscaler import Upscaler

__all__ = ["FILM_SUFFIXES", "PICTURE_SUFFIXES", "UpscaleJob", "is_film", "plan_jobs", "upscale_files"]

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
class UpscaleJob:
    """One file to make."""

    source: Path
    destination: Path


def is_film(path: Path) -> bool:
    """Whether a file name is that of a film."""
    return path.suffix.lower() in FILM_SUFFIXES


def plan_jobs(inputs: Sequence[Path], output: Path, form: str | None = None) -> list[UpscaleJob]:
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
        jobs = [UpscaleJob(inputs[0], output)]
    else:
        if output.is_file():
            raise UsageError(f"expected a folder for the results, found a file: {output}")
        jobs = [
            UpscaleJob(path, (output / relative).with_suffix(_ending(path, form)))
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


def upscale_files(
    upscaler: Upscaler,
    jobs: Sequence[UpscaleJob],
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
