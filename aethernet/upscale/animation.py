"""Images of several images: animations (GIF, APNG, WebP, AVIF) with their delays, and TIFFs of several pages.

Readers compose each image of an animation whole, so how the file disposed of the ones before is settled here; every
image is written whole as well, and replaces what was there.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aethernet.errors import ImageError
from aethernet.upscale.metadata import Metadata, resized_exif, resized_xmp

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["ANIMATED", "Animation", "animation_of", "is_animated", "on_white", "write_animation"]

ANIMATED = {"GIF": "gif", "PNG": "png", "WEBP": "webp", "AVIF": "avif"}
"""Pillow's name of a format that holds animations -> ours."""
_TICKS = {"gif": Fraction(1, 100), "png": Fraction(1, 1000), "webp": Fraction(1, 1000), "avif": Fraction(1, 1000)}
"""Seconds that a delay is a multiple of; APNG has fractions, which Pillow writes as milliseconds."""
_SHORTEST = Fraction(2, 100)
"""Browsers take anything shorter in a GIF for a tenth of a second."""
_INSTEAD = Fraction(1, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Animation:
    """An animation that can be read to its end."""

    path: Path
    form: str
    """As :data:`ANIMATED` calls it."""
    size: tuple[int, int]
    """Width and height."""
    delays: tuple[Fraction, ...]
    """Seconds that each image is shown for."""
    plays: int
    """How often it is shown; 0 is for ever."""
    alpha: bool
    """Whether any image has a pixel that is not opaque."""
    hidden_first: bool
    """Whether the first image of the file is for programs that know no animation, and not part of it."""
    notes: tuple[str, ...] = ()

    def images(self, *, hidden_too: bool = False) -> Iterator[NDArray[np.uint8]]:
        """[H, W, 3 or 4], in order; all of them with alpha, or none. The hidden one only where it is asked for."""
        with _open(self.path) as image:
            for index in range(len(self.delays) + self.hidden_first):
                image.seek(index)
                if index or hidden_too or not self.hidden_first:
                    yield np.asarray(image.convert("RGBA" if self.alpha else "RGB"))

    def shown_delays(self) -> tuple[Fraction, ...]:
        """Delays as browsers keep them: what a GIF says is shorter than two hundredths is a tenth of a second."""
        if self.form != "gif":
            return self.delays
        return tuple(one if one >= _SHORTEST else _INSTEAD for one in self.delays)


def is_animated(path: Path) -> bool:
    """Whether a file is an animation; False for what cannot be read."""
    try:
        with _open(path) as image:
            return image.format in ANIMATED and bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 (whoever reads it says what is wrong with it)
        return False


def animation_of(path: Path) -> Animation:
    """Everything about an animation but its pixels.

    Raises:
        ImageError: It is no animation.
    """
    delays: list[Fraction] = []
    alpha, notes = False, []
    with _open(path) as image:
        if image.format not in ANIMATED or not getattr(image, "is_animated", False):
            raise ImageError(f"expected an animation at {path}, found a single image")
        form, size = ANIMATED[image.format], image.size
        hidden = bool(getattr(image, "default_image", False))
        plays = _plays(form, image.info.get("loop"))
        told = _count(image)
        index = 0
        while told is None or index < told:
            try:
                image.seek(index)
                image.load()
            except EOFError:
                break
            except Exception as error:
                if not delays:
                    raise
                words = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
                notes.append(f"the animation ends after {len(delays)} images: the next one is damaged ({words})")
                break
            if index or not hidden:
                delays.append(Fraction(str(image.info.get("duration", 0) or 0)).limit_denominator(10**6) / 1000)
            alpha = alpha or _is_transparent(image)
            index += 1
    return Animation(
        path=path,
        form=form,
        size=size,
        delays=tuple(delays),
        plays=plays,
        alpha=alpha,
        hidden_first=hidden,
        notes=tuple(notes),
    )


def _open(path: Path) -> Image:
    from PIL import Image as Images

    return Images.open(path)


def _count(image: Image) -> int | None:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001 (a GIF is counted by walking through it)
        return None


def _plays(form: str, loop: Any) -> int:
    """How often it is shown, 0 for ever. GIF counts repetitions, and says nothing for one showing."""
    if form == "gif":
        return 1 if loop is None else 0 if loop == 0 else int(loop) + 1
    return int(loop or 0)


def _is_transparent(image: Image) -> bool:
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return False
    (lowest, _) = image.convert("RGBA").getchannel("A").getextrema()
    return bool(lowest < 255)  # type: ignore[operator]


def on_white(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] of [H, W, 3 or 4]."""
    if image.shape[2] == 3:
        return image
    alpha = image[..., 3:] / np.float32(255)
    white: NDArray[np.uint8] = np.rint(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return white


# --- writing ---------------------------------------------------------------------------------------------------------


def write_animation(
    path: Path,
    form: str,
    images: Iterable[NDArray[np.uint8]],
    delays: Sequence[Fraction],
    *,
    plays: int,
    metadata: Metadata,
    quality: int | None = None,
    hidden_first: bool = False,
) -> list[str]:
    """Write an animation.

    Args:
        path: Where to; the caller makes this atomic.
        form: As :data:`ANIMATED` calls it.
        images: [H, W, 3 or 4] each, all of one shape.
        delays: Seconds that each is shown for; one fewer than ``images`` where the first is hidden.
        plays: How often it is shown; 0 is for ever.
        metadata: What is said beside the pixels.
        quality: 1 to 100, for formats with loss.
        hidden_first: The first image is no part of the animation (PNG only).

    Returns:
        What a user should be told.
    """
    notes: list[str] = []
    made: Callable[[NDArray[np.uint8]], Image] = _as_image
    if form == "gif":
        palettes = _Palettes()
        made = palettes.image
    frames = [made(one) for one in images]
    delays, slower = _in_ticks(delays, form)
    notes += slower
    options: dict[str, Any] = {
        "save_all": True,
        "append_images": frames[1:],
        "duration": [int(delay * 1000) for delay in delays],
    }
    size = frames[0].size
    if metadata.xmp:
        metadata = replace(metadata, xmp=resized_xmp(metadata.xmp, *size))
    exif = resized_exif(metadata.exif, *size) if metadata.exif else None
    if form == "gif":
        options |= {"comment": metadata.comment.encode()} if metadata.comment else {}
        options |= {"optimize": False} | ({} if plays == 1 else {"loop": max(0, plays - 1)})
        if palettes.transparent:
            options["disposal"] = 2  # each image replaces what was there
        notes += palettes.notes()
        lost = [name for name, there in _beside(metadata) if there]
        if lost:
            notes.append(f"gif holds no {', no '.join(lost)}: dropped")
    else:
        options |= {"icc_profile": metadata.icc} if metadata.icc else {}
        options |= {"exif": exif} if exif else {}
        if form == "png":
            options |= {"loop": plays, "disposal": 0, "blend": 0, "default_image": hidden_first}
            options["pnginfo"] = _png_chunks(metadata)
        else:
            options |= {"quality": quality}
            options |= {"xmp": metadata.xmp} if metadata.xmp else {}
        if metadata.text and form != "png":
            texts = ", ".join(name for name, _ in metadata.text)
            notes.append(f"{form} does not hold these texts, which were dropped: {texts}")
        if form == "webp":
            options |= {"loop": plays, "method": 4, "exact": True, "lossless": quality == 100}
        if form == "avif":
            options |= {"speed": 6, "subsampling": "4:4:4"}
            if plays:
                notes.append(f"avif cannot say that the animation is shown {plays} times: it is shown for ever")
    formats = {ours: theirs for theirs, ours in ANIMATED.items()}
    encoded = io.BytesIO()  # Pillow's encoders do not notice a full disk; Python's files do
    frames[0].save(encoded, format=formats[form], **options)
    path.write_bytes(encoded.getvalue())
    return notes


def _beside(metadata: Metadata) -> list[tuple[str, bool]]:
    return [
        ("colour profile", metadata.icc is not None),
        ("EXIF", bool(metadata.exif)),
        ("XMP", metadata.xmp is not None),
    ]


def _as_image(pixels: NDArray[np.uint8]) -> Image:
    from PIL import Image as Images

    return Images.fromarray(np.ascontiguousarray(pixels))


def _in_ticks(delays: Sequence[Fraction], form: str) -> tuple[list[Fraction], list[str]]:
    """Delays as the format holds them; their sum is off by less than a tick, however many there are."""
    tick = _TICKS[form]
    least = 1 if form != "gif" else 2
    found: list[Fraction] = []
    exact = shown = Fraction(0)
    slower = 0
    for delay in delays:
        exact += delay
        ticks = round((exact - shown) / tick)
        if (delay / tick).denominator == 1:  # the file's own number, also one that players do not keep to
            ticks = int(delay / tick)
        elif ticks < least:
            ticks, slower = least, slower + 1
        found.append(ticks * tick)
        shown += ticks * tick
    if slower and shown - exact > len(found) * tick / 10:
        return found, [f"{form} shows an image for {float(least * tick):g} s at least: the animation plays slower"]
    return found, []


def _png_chunks(metadata: Metadata) -> Any:
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for name, data in metadata.png_colour:
        chunks.add(name, data)
    for keyword, words in metadata.text:
        chunks.add_itxt(keyword, words)
    if metadata.xmp:
        chunks.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    return chunks


class _Palettes:
    """Images of at most 256 colours, one of which may be transparency; counts what that cost."""

    def __init__(self) -> None:
        self.count = self.reduced = self.hardened = 0
        self.transparent = False

    def image(self, pixels: NDArray[np.uint8]) -> Image:
        """In palette mode."""
        from PIL import Image as Images

        self.count += 1
        colours, hidden = pixels[..., :3], None
        if pixels.shape[2] == 4:
            hidden = pixels[..., 3] < 128
            self.hardened += bool(((pixels[..., 3] > 0) & (pixels[..., 3] < 255)).any())
            self.transparent = True
            colours = np.where(hidden[..., None], np.uint8(0), colours)
        most = 256 if hidden is None else 255
        packed = colours.astype(np.uint32) @ np.array([65536, 256, 1], dtype=np.uint32)
        values, index = np.unique(packed, return_inverse=True)
        if len(values) <= most:
            palette = np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1).astype(np.uint8)
            index = index.reshape(packed.shape).astype(np.uint8)
        else:
            self.reduced += 1
            few = Images.fromarray(np.ascontiguousarray(colours)).quantize(most)
            palette = np.array(few.getpalette(), dtype=np.uint8).reshape(-1, 3)
            index = np.array(few)
        if hidden is not None:
            index[hidden] = 255
            palette = np.concatenate([palette, np.zeros((256 - len(palette), 3), dtype=np.uint8)])
        image = Images.fromarray(index)
        image.putpalette(palette.tobytes())
        if hidden is not None:
            image.info["transparency"] = 255
        return image

    def notes(self) -> list[str]:
        """What a user should be told."""
        found = []
        if self.reduced:
            found.append(f"gif holds 256 colours: those of {self.reduced} of {self.count} images were reduced")
        if self.hardened:
            found.append("gif knows transparent and opaque only: half-transparent pixels became one of them")
        return found
