"""Spoilt video files: bytes cut, flipped, swapped; and a judge that reads what came out afresh.

``python -m tests.support.video_fuzz SECONDS`` goes on by hand for as long as it is told, from a random beginning.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import av

from aethernet.errors import AethernetError
from aethernet.upscale import Upscaler
from aethernet.upscale.video import VideoOptions, upscale_video

__all__ = ["SEEDS", "spoilt", "tried"]

SEEDS = 6
"""Files of each kind in the tests."""
_UNNOTICED = 7
"""Images at the end that may be missing before a head's length gives it away: a quarter of a second."""


def spoilt(files: dict[str, bytes], name: str, seed: int) -> bytes:
    """One of the files after an accident, the same for the same seed."""
    chance = random.Random(f"{name} {seed}")
    data = bytearray(files[name])
    kind = chance.choice(("cut", "bits", "zeros", "hole", "swap", "twice", "other"))
    if kind == "cut":
        del data[chance.randrange(1, len(data)) :]
    elif kind == "bits":
        for _ in range(chance.choice((1, 5, 50))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "zeros":
        place = chance.randrange(len(data))
        data[place : place + 200] = bytes(len(data[place : place + 200]))
    elif kind == "hole":
        place = chance.randrange(len(data))
        del data[place : place + chance.randrange(1, 2000)]
    elif kind == "swap":
        size = len(data) // 5
        one, other = sorted(chance.sample(range(5), 2))
        first, second = data[one * size : (one + 1) * size], data[other * size : (other + 1) * size]
        data[one * size : (one + 1) * size], data[other * size : (other + 1) * size] = second, first
    elif kind == "twice":
        data += data[chance.randrange(len(data)) :]
    else:  # continued by a file of another kind
        data = data[: len(data) // 2] + bytearray(files[chance.choice(sorted(files))][len(data) // 3 :])
    return bytes(data)


def tried(upscaler: Upscaler, data: bytes, folder: Path, name: str, count: int) -> str:
    """Upscale a file; "whole", "damaged" or "refused".

    Args:
        upscaler: Any.
        data: The file.
        folder: Where it may be written.
        name: Of the file.
        count: Images the file had before its accident.

    Raises:
        AssertionError: The video that came out is not what was told, or lost images without a word.
    """
    source, made = folder / f"spoilt_{name}", folder / f"made_{name}.mkv"
    source.write_bytes(data)
    made.unlink(missing_ok=True)
    try:
        told = upscale_video(upscaler, source, made, VideoOptions(preset="ffv1", segment_seconds=0.2))
    except AethernetError:
        assert not made.exists()
        return "refused"
    finally:
        # What was done before a video turned out to be two of different sizes is kept for --resume.
        for path in folder.glob(".*"):
            assert path.name.endswith(".parts")
            assert not made.exists()
            shutil.rmtree(path)
    with av.open(str(made)) as opened:
        times = [image.pts for image in opened.decode(video=0)]
    assert len(times) == told["frames"]
    assert all(one <= other for one, other in pairwise(times))
    if told["damaged"]:
        assert any(word in note for note in told["notes"] for word in ("damaged", "cut off", "cannot be read"))
        return "damaged"
    # FFmpeg's own reading of a stream that nothing was said about is the measure, unless its head says how long it was.
    read = _second_reader(source)
    least = read if count - read < _UNNOTICED or name.endswith(".ts") else count
    assert len(times) >= least or _says_so(told["notes"]), f"{least - len(times)} images lost without a word"
    return "whole"


def _second_reader(source: Path) -> int:
    with av.open(str(source)) as opened:
        found = 0
        for packet in opened.demux(video=0):
            with suppress(av.FFmpegError):
                found += len(packet.decode())
        return found


def _says_so(notes: list[str]) -> bool:
    return any(word in note for note in notes for word in ("missing", "mended", "cut off", "did not go up"))


def _by_hand(seconds: float) -> None:
    from tests.aethernet.upscale.test_video_kinds import video
    from tests.support.upscaling import smoothing_bundle

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bundle").mkdir()
        (folder / "work").mkdir()
        files = {}
        for ending, codec in ((".mkv", "libx264"), (".mp4", "libx264"), (".ts", "mpeg2video"), (".avi", "mpeg4")):
            files[f"a{ending}"] = video(folder / f"a{ending}", 40, codec=codec, sound=True).read_bytes()
        found: Counter[str] = Counter()
        seed, end = random.randrange(10**9), time.monotonic() + seconds
        with Upscaler(smoothing_bundle(folder / "bundle"), "fp32", "onnxruntime-cpu", threads=1) as upscaler:
            while time.monotonic() < end:
                for kind in files:
                    try:
                        found[tried(upscaler, spoilt(files, kind, seed), folder / "work", kind, 40)] += 1
                    except Exception as error:
                        found["wrong"] += 1
                        print(f"{kind} {seed}: {type(error).__name__}: {str(error)[:200]}")
                seed += 1
        print(dict(found))


if __name__ == "__main__":
    _by_hand(float(sys.argv[1]))
