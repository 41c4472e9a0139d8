"""Image files in, image files out: single ones, lists and folders."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aethernet.errors import AethernetError, UsageError
from aethernet.upscale.animation import ANIMATED, is_animated
from aethernet.upscale.image_file import upscale_file
from aethernet.upscale.memory import return_freed_memory
from aethernet.upscale.reading import Still, read_still
from aethernet.upscale.writing import FORMATS, format_of

if TYPE_CHECKING:
    from aethernet.upscale.floats import Limits
    from aethernet.upscale.upscaler import Upscaler

__all__ = [
    "CLASHES",
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "UpscaleJob",
    "failure",
    "goes_by_frames",
    "is_named_video",
    "is_video",
    "passed_over",
    "plan_jobs",
    "upscale_files",
]

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".webp",
    ".tif",
    ".tiff",
    ".avif",
    ".bmp",
    ".dib",
    ".gif",
    ".jp2",
    ".jpx",
    ".j2k",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".pam",
    ".tga",
    ".exr",
    ".hdr",
    ".pfm",
    ".mpo",
    ".pcx",
    ".sgi",
    ".dds",
    ".ico",
    *((".heic", ".heif") if find_spec("pillow_heif") else ()),
)
_FLOAT_SUFFIXES = (".exr", ".hdr", ".pfm")
"""Of files that hold floats, which TIFF keeps."""
VIDEO_SUFFIXES = (
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
    ".vob",
    ".mts",
    ".m2v",
    ".3gp",
    ".3g2",
    ".mxf",
    ".y4m",
    ".asf",
    ".f4v",
    ".qt",
    ".dv",
)

CLASHES = ("ending", "number", "refuse")
"""What can be done where several inputs would have one output: their endings go into the names, they are numbered, or
nothing is done."""
_LONGEST_NAME = 255
"""Bytes, on all common file systems."""
_HEAD = 1024
_VIDEO_HEADS = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"OggS",
    b"\x00\x00\x01\xba",  # MPEG program stream, as on DVDs
    b"\x00\x00\x01\xb3",  # MPEG video alone
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMV
    b"\x06\x0e\x2b\x34",  # MXF
    b"YUV4MPEG2",
    b"nut/multimedia container",
)
_QUICKTIME = (b"ftyp", b"moov", b"mdat", b"wide", b"pnot")
"""Bytes 4 to 8 of MP4, 3GP, QuickTime."""
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""Bytes 8 to 12 of images in the same container."""
_IMAGE_HEADS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\x00", b"MM\x00*", b"BM")

_LARGE = 64 * 2**20
"""Bytes of an image from which on it pays to tidy up after reading."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class UpscaleJob:
    """One file to make."""

    source: Path
    destination: Path


def is_video(path: Path) -> bool:
    """Whether a file holds a video: by what it begins with, else by its ending."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:  # not there yet
        head = b""
    if head.startswith(_VIDEO_HEADS) or head[4:8] in _QUICKTIME or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return not (head[4:8] == b"ftyp" and head[8:12] in _IMAGE_BRANDS)
    if any(len(head) > start + 376 and set(head[start : start + 377 : 188]) == {0x47} for start in (0, 4)):
        return True  # transport streams, of the air and of cameras
    if head.startswith(_IMAGE_HEADS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return False
    return is_named_video(path)


def is_named_video(path: Path) -> bool:
    """Whether a file is called as videos are: what a name asks for, whatever lies there now."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def goes_by_frames(job: UpscaleJob) -> bool:
    """Whether a video comes in or goes out."""
    return is_video(job.source) or is_named_video(job.destination)


def plan_jobs(
    inputs: Sequence[Path], output: Path, form: str | None = None, *, on_clash: str = "ending"
) -> list[UpscaleJob]:
    """Which file becomes which.

    One file and an output with a known ending make that file; everything else goes into the folder ``output``, a
    folder's content under the same relative paths. An image keeps its format where that can be written, and becomes
    PNG where not; a video that is not named stays MP4 or QuickTime and becomes Matroska otherwise.

    Args:
        inputs: Files and folders.
        output: A file or a folder.
        form: One of :data:`~aethernet.upscale.writing.FORMATS` for all images; None keeps each one's.
        on_clash: One of :data:`CLASHES`.

    Raises:
        UsageError: A missing input, two inputs for one output, or an output that is its own input.
    """
    if on_clash not in CLASHES:
        raise UsageError(f"expected --on-clash {', '.join(CLASHES)}, found '{on_clash}'")
    if form is not None and form not in FORMATS:
        raise UsageError(f"expected a format of {', '.join(FORMATS)}, found '{form}'")
    missing = [path for path in inputs if not path.exists()]
    if missing:
        raise UsageError(f"expected images, videos or folders, found nothing at {', '.join(map(str, missing))}")
    if len(inputs) == 1 and inputs[0].is_file() and output.suffix and not output.is_dir():
        if not is_named_video(output):
            target = format_of(output)
            if is_video(inputs[0]) and target.name not in ANIMATED.values():
                raise UsageError(
                    f"expected a video or an animated image (.{', .'.join(ANIMATED.values())}) as output for "
                    f"{inputs[0].name}, found {output.name}"
                )
            if form is not None and form != target.name:
                raise UsageError(f"expected --format to fit {output.name}, found {form}")
        elif not is_video(inputs[0]) and not is_animated(inputs[0]):
            raise UsageError(
                f"expected an image as output for {inputs[0].name}, which is no animation, found {output.name}"
            )
        jobs = [UpscaleJob(inputs[0], output)]
    else:
        if output.is_file():
            raise UsageError(f"expected a folder for the results, found a file: {output}")
        jobs = [
            UpscaleJob(path, (output / relative).with_suffix(_ending(path, form)))
            for given in inputs
            for path, relative in _files(given, output)
        ]
        if on_clash != "refuse":
            jobs = _told_apart(jobs)
        if on_clash == "number":
            jobs = _numbered(jobs)
    if not jobs:
        raise UsageError(f"expected images or videos in {', '.join(map(str, inputs))}, found none")
    taken: dict[Path, Path] = {}
    for job in jobs:
        try:
            place = job.destination.resolve()
        except (RuntimeError, OSError) as error:  # links that lead to each other
            raise UsageError(f"expected an output that can be written, found {job.destination}: {error}") from error
        if place == job.source.resolve():
            raise UsageError(f"expected an output beside its input, found both at {job.source}")
        if place in taken:
            raise UsageError(
                f"expected one output per input, found {taken[place]} and {job.source} for {job.destination}",
                hint="--on-clash number gives each a number" if on_clash != "number" else "",
            )
        taken[place] = job.source
    return jobs


def _files(given: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    if given.is_file():
        yield given, Path(given.name)
        return
    inside = output.resolve()
    for path in _walked(given):
        if path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
            # Results of an earlier run may lie inside the folder they were made from.
            if given.resolve() != inside and inside in path.resolve().parents:
                continue
            yield path, path.relative_to(given)


def _walked(given: Path, on_error: Callable[[OSError], None] = lambda _: None) -> list[Path]:
    """All files in a folder and below that are not hidden, in order."""
    found = []
    for folder, inner, names in os.walk(given, onerror=on_error):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [Path(folder) / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def passed_over(inputs: Sequence[Path], output: Path) -> list[str]:
    """What lies in the folders given and is not upscaled: files with other endings, subfolders that cannot be read."""
    left: list[str] = []

    def unreadable(error: OSError) -> None:
        left.append(f"{error.filename} ({error.strerror})")

    for given in inputs:
        if given.is_dir():
            inside = output.resolve()
            walked = _walked(given, unreadable)
            left += [
                str(path)
                for path in walked
                if path.suffix.lower() not in IMAGE_SUFFIXES + VIDEO_SUFFIXES and inside not in path.resolve().parents
            ]
    return left


def _told_apart(jobs: list[UpscaleJob]) -> list[UpscaleJob]:
    """Where several inputs differ only in their ending, all but the one that keeps it carry theirs in the new name."""
    counts = Counter(job.destination for job in jobs)
    return [
        UpscaleJob(job.source, _named(job.destination, job.source.stem, job.source.suffix + job.destination.suffix))
        if counts[job.destination] > 1 and job.source.suffix.lower() != job.destination.suffix.lower()
        else job
        for job in jobs
    ]


def _numbered(jobs: list[UpscaleJob]) -> list[UpscaleJob]:
    """The second input for one output gets ``-2`` at the end of its name, the third ``-3``."""
    taken = {job.destination for job in jobs}
    found: list[UpscaleJob] = []
    used: set[Path] = set()
    for job in jobs:
        place, count = job.destination, 1
        while place in used or (count > 1 and place in taken):
            count += 1
            place = _named(job.destination, job.destination.stem, f"-{count}{job.destination.suffix}")
        used.add(place)
        found.append(UpscaleJob(job.source, place))
    return found


def _named(beside: Path, stem: str, ending: str) -> Path:
    """A sibling called so; a stem that leaves its ending no room is cut."""
    room = _LONGEST_NAME - len(os.fsencode(ending))
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return beside.with_name(stem + ending)


def _ending(source: Path, form: str | None) -> str:
    if is_video(source):
        # Matroska holds everything but what is made for MP4 and its kin, such as their subtitles.
        return source.suffix if source.suffix.lower() in (".mp4", ".m4v", ".mov") else ".mkv"
    if form is not None:
        return FORMATS[form].suffixes[0]
    try:
        target = format_of(source)
    except UsageError:
        return ".tif" if source.suffix.lower() in _FLOAT_SUFFIXES else ".png"
    # A single image has more than the 256 colours of GIF when it comes out of a network.
    return ".png" if target.name == "gif" and not is_animated(source) else source.suffix


def upscale_files(
    upscaler: Upscaler,
    jobs: Sequence[UpscaleJob],
    *,
    quality: int | None = None,
    limits: Limits = None,
    skip_existing: bool = False,
    on_done: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Enlarge image files; the next is read while one is computed. One that fails does not stop the others.

    Returns:
        For each job the facts of :func:`upscale_file`, or ``source``, ``destination`` and ``error`` (with ``hint``), or
        ``skipped``.

    Raises:
        UsageError: No file can be done as asked.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"expected a quality of 1 to 100, found {quality}")
    results = []
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        coming: Future[tuple[Still, float]] | None = None
        waiting = [job for job in jobs if not (skip_existing and job.destination.exists())]
        for index, job in enumerate(waiting):
            current = coming or reader.submit(_timed_read, job.source, limits)
            coming = reader.submit(_timed_read, waiting[index + 1].source, limits) if index + 1 < len(waiting) else None
            try:
                still, seconds = current.result()
                result = upscale_file(
                    upscaler,
                    job.source,
                    job.destination,
                    quality=quality,
                    limits=limits,
                    still=still,
                    read_seconds=seconds,
                )
            except Exception as error:  # noqa: BLE001 (the barrier: whatever a file holds, the others are done)
                result = failure(job, error)
            results.append(result)
            on_done(result)
    done = {result["destination"]: result for result in results}
    skipped = {"skipped": "exists already"}
    return [
        done.get(str(job.destination), {"source": str(job.source), "destination": str(job.destination), **skipped})
        for job in jobs
    ]


def failure(job: UpscaleJob, error: Exception) -> dict[str, Any]:
    """The result of a job that failed: what was expected and found, and what to do, whatever was raised."""
    # Where the exception of another library came from is for whoever repairs this one.
    log.debug("%s failed", job.source, exc_info=error)
    result = {"source": str(job.source), "destination": str(job.destination)}
    if isinstance(error, AethernetError):
        found, hint = str(error), error.hint
    elif isinstance(error, MemoryError):
        found = f"expected memory for {job.source.name}, found too little"
        hint = "close other programs, or cut the file into parts"
    else:
        told = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        found = f"expected to upscale {job.source.name}, found what this version has no answer to: {told}"
        hint = "convert the file with another program, and please report what happened"
    return {**result, "error": found, **({"hint": hint} if hint else {})}


def _timed_read(path: Path, limits: Limits) -> tuple[Still, float]:
    start = time.perf_counter()
    still = read_still(path, limits=limits)
    if still.colour.nbytes > _LARGE:
        return_freed_memory()
    return still, time.perf_counter() - start
