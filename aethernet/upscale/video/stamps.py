"""Time stamps that do not go up: recordings joined end to end, containers that store none, rates that were rounded."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

__all__ = ["ByOrder", "may_jump", "mended_packets", "packets", "regular_times"]

_BACK = Fraction(1, 10)
_AHEAD = Fraction(10)
"""Seconds by which time stamps may go back, or leap ahead, without being another recording's; FFmpeg's own bounds."""

_MAY_JUMP = 0x200
_WITHOUT_TIMES = ("avi",)


def may_jump(container: Any) -> bool:
    """Whether a container's time stamps may begin anew on the way, as where transport streams were joined."""
    return bool(container.format.flags & _MAY_JUMP)


def packets(container: Any, streams: Sequence[Any]) -> Iterator[Any]:
    """Packets of some streams, their time stamps in one line; both the images' and the others' reader come to the same.

    Raises:
        av.FFmpegError: The container cannot be read on from here.
    """
    if may_jump(container):
        wanted = {stream.index for stream in streams}
        paced = [stream for stream in container.streams if stream.type in ("audio", "video", "subtitle")]
        yield from (packet for packet in mended_packets(container.demux(*paced)) if packet.stream.index in wanted)
    else:
        yield from container.demux(*streams)


def mended_packets(given: Iterator[Any]) -> Iterator[Any]:
    """Packets with what comes after a jump moved behind what was before it.

    A stream is in its n-th recording after n jumps. The first stream to get there decides how far that recording is
    moved, so that all streams of it stay together.
    """
    moved = [Fraction(0)]
    recording: dict[int, int] = {}
    last: dict[int, Fraction] = {}
    reached: Fraction | None = None
    for packet in given:
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None or packet.stream.type == "subtitle":
            # Too sparse to see a jump in; they go with the others.
            _move(packet, moved[max(recording.values(), default=0)])
            yield packet
            continue
        index, time = packet.stream.index, stamp * packet.time_base
        number = recording.setdefault(index, 0)
        before = last.get(index)
        if before is not None and (time < before - _BACK or time > before + _AHEAD):
            number = recording[index] = number + 1
            if number == len(moved):
                moved.append((reached or Fraction(0)) - time)
        last[index] = time
        end = time + moved[number] + (packet.duration or 0) * packet.time_base
        reached = end if reached is None else max(reached, end)
        _move(packet, moved[number])
        yield packet


def _move(packet: Any, seconds: Fraction) -> None:
    if seconds:
        ticks = round(seconds / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks


class ByOrder:
    """Times of showing for containers that only say when an image is decoded, as AVI does.

    Images come out of the decoder in the order they are shown in: the n-th of them has the n-th time.
    """

    def __init__(self, container: Any) -> None:
        self.needed = container.format.name in _WITHOUT_TIMES
        self._waiting: list[int] = []

    def entered(self, packet: Any) -> None:
        """A packet goes into the decoder."""
        if self.needed and packet.size and packet.dts is not None:
            heapq.heappush(self._waiting, packet.dts)

    def lost(self, packet: Any) -> None:
        """That packet will give no image."""
        if packet.dts in self._waiting:
            self._waiting.remove(packet.dts)
            heapq.heapify(self._waiting)

    def time(self, pts: int | None) -> int | None:
        """Of the image that comes out now; ``pts`` is what the decoder says."""
        return heapq.heappop(self._waiting) if self.needed and self._waiting else pts


def regular_times(stamps: Sequence[int], tick: Fraction, rate: Fraction) -> list[int] | None:
    """The number of each image at a constant rate, counted from the first one, or None where the rate varies.

    Args:
        stamps: Rising, in units of ``tick`` seconds, which may have rounded them.
        tick: Seconds.
        rate: Images per second to hold them against.
    """
    numbers = [round((stamp - stamps[0]) * tick * rate) for stamp in stamps]
    off = max((abs((stamp - stamps[0]) * tick - number / rate) for stamp, number in zip(stamps, numbers, strict=True)))
    rising = all(one < other for one, other in pairwise(numbers))
    return numbers if rising and off <= tick and off < 1 / rate / 4 else None
