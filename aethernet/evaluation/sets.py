"""Sets of high-resolution pictures and their low-resolution partners, as they lie on disks.

Recognised beside a plain folder of pictures: ``Set5/HR`` with ``Set5/LR/x2``, ``Set5/LR_bicubic/X2`` (``babyx2.png``),
``Set5/GTmod12`` with ``Set5/LRbicx2``, ``image_SRF_2`` (``img_001_SRF_2_HR.png``), ``DIV2K_valid_HR`` with
``DIV2K_valid_LR_bicubic/X2``, and a folder of such sets.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from aethernet.artifact import file_digest
from aethernet.errors import UsageError
from aethernet.images.files import SUFFIXES, list_pictures
from aethernet.images.kernels import KERNELS

__all__ = ["DEFAULT_KERNEL", "ImagePair", "ImageSet", "find_sets"]

DEFAULT_KERNEL = "matlab-bicubic"
_HIGH = re.compile(r"(.*_)?(hr|gt(mod\d*)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePair:
    """One picture."""

    name: str
    high: Path
    low: Path | None
    """None: made from ``high`` when needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Pictures that numbers are averaged over."""

    name: str
    pairs: tuple[ImagePair, ...]
    kernel: str
    """How the low-resolution pictures came about, in words where they were given."""
    digest: str
    """sha256 over names and contents of all its files; low-resolution ones only where they were given."""


def find_sets(high: Path, low: Path | None, scale: int, kernel: str | None = None) -> list[ImageSet]:
    """The sets in a folder, in the order of their names.

    Args:
        high: Pictures, or a set in one of the layouts above, or a folder of such sets.
        low: Their partners, ``scale`` times smaller; None takes those in the layout, or none.
        scale: Of the network.
        kernel: Where there are no partners, one of :data:`~aethernet.images.kernels.KERNELS`; where there are,
            any words about how they were made.

    Raises:
        UsageError: No pictures, pictures without partner, partners that are not clear, or an unknown kernel.
    """
    if not high.is_dir():
        raise UsageError(f"expected a folder of pictures at {high}, found {'a file' if high.exists() else 'nothing'}")
    if low is not None:
        return [_paired(_name(high), high, low, scale, kernel or _words(low))]
    if _holds_pictures(high):
        names = [path.stem for path in list_pictures(high)]
        if all(re.search(r"_(HR|LR)$", name, re.IGNORECASE) for name in names):
            return [_paired(_name(high.parent), high, high, scale, kernel or "not stated", marked=True)]
        return [_made(_name(high), high, kernel)]
    own = [one for one in _folders(high) if _HIGH.fullmatch(one.name)]
    if own:
        return [_in_layout(high, own, scale, kernel)]
    inside = [(folder, [one for one in _folders(folder) if _HIGH.fullmatch(one.name)]) for folder in _folders(high)]
    found = [_in_layout(folder, parts, scale, kernel) for folder, parts in inside if parts]
    if not found:
        raise UsageError(
            f"expected pictures ({', '.join(SUFFIXES)}) in {high}, or sets with a folder called HR, found neither",
            hint="give the folder that holds the high-resolution pictures themselves",
        )
    return found


def _in_layout(root: Path, parts: list[Path], scale: int, kernel: str | None) -> ImageSet:
    if len(parts) > 1:
        raise UsageError(
            f"expected one folder of high-resolution pictures in {root}, found {', '.join(one.name for one in parts)}",
            hint="name it: --hr FOLDER --lr FOLDER",
        )
    pattern = re.compile(rf"(.*_)?lr(_?bic(ubic)?)?(_?x{scale})?|x{scale}", re.IGNORECASE)
    low = []
    for folder in _folders(root):
        if pattern.fullmatch(folder.name):
            exact = [one for one in _folders(folder) if one.name.lower() in (f"x{scale}", f"{scale}x")]
            low += exact or ([folder] if _holds_pictures(folder) else [])
    if len(low) > 1:
        raise UsageError(
            f"expected one folder of pictures {scale} times smaller in {root}, found "
            + ", ".join(one.relative_to(root).as_posix() for one in low),
            hint="name it: --hr FOLDER --lr FOLDER",
        )
    name = _name(root)
    return _paired(name, parts[0], low[0], scale, kernel or _words(low[0])) if low else _made(name, parts[0], kernel)


def _made(name: str, folder: Path, kernel: str | None) -> ImageSet:
    kernel = kernel or DEFAULT_KERNEL
    if kernel not in KERNELS:
        raise UsageError(f"expected a kernel of {', '.join(KERNELS)}, found '{kernel}'")
    pairs = tuple(ImagePair(name=path.stem, high=path, low=None) for path in list_pictures(folder))
    return ImageSet(name=name, pairs=pairs, kernel=kernel, digest=_digest(pairs))


def _paired(name: str, high: Path, low: Path, scale: int, kernel: str, *, marked: bool = False) -> ImageSet:
    """With ``marked``, names say which of the two a picture is."""
    highs = _by_name([one for one in list_pictures(high) if not marked or one.stem.upper().endswith("_HR")], scale)
    lows = _by_name([one for one in list_pictures(low) if not marked or one.stem.upper().endswith("_LR")], scale)
    alone = sorted(set(highs) ^ set(lows))
    if alone:
        raise UsageError(
            f"expected a partner for every picture of {name}, found none for {', '.join(alone[:5])}",
            hint=f"names may differ by x{scale} at the end, as in baby.png and babyx{scale}.png",
        )
    pairs = tuple(ImagePair(name=one, high=highs[one], low=lows[one]) for one in sorted(highs))
    return ImageSet(name=name, pairs=pairs, kernel=kernel, digest=_digest(pairs))


def _by_name(paths: list[Path], scale: int) -> dict[str, Path]:
    """Picture's name, without what layouts add to it -> file."""
    added = re.compile(rf"(_SRF_{scale})?_(HR|LR)$|(_(LRBI|LR|HR))?_?x{scale}$", re.IGNORECASE)
    return {added.sub("", path.stem): path for path in paths}


def _digest(pairs: tuple[ImagePair, ...]) -> str:
    lines = [f"{file_digest(pair.high)}  hr {pair.name}\n" for pair in pairs]
    lines += [f"{file_digest(pair.low)}  lr {pair.name}\n" for pair in pairs if pair.low is not None]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _words(low: Path) -> str:
    """What the names of the folders say about the kernel."""
    named = next((part for part in (low.name, low.parent.name) if re.search("bic", part, re.IGNORECASE)), None)
    return f"not stated; the folder is called {named}" if named else "not stated"


def _name(folder: Path) -> str:
    folder = folder.absolute()
    return folder.parent.name if _HIGH.fullmatch(folder.name) and not folder.name.count("_") else folder.name


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink())


def _holds_pictures(folder: Path) -> bool:
    return any(one.suffix.lower() in SUFFIXES and one.is_file() for one in folder.iterdir())
