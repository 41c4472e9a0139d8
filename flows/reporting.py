"""What a run shows while it runs and when it ends: lines with an ETA on stderr, artifacts in Prefect's UI."""

from __future__ import annotations

import base64
import io
import json
import math
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException
from rich.console import Console

from aethernet.artifact import Artifact, atomic_path
from aethernet.comparison import measurement_table
from aethernet.errors import StoreError
from aethernet.release.manifest import Manifest
from flows.actions import summarize
from tasks.caching import StageEvent, current_context

__all__ = ["Progress", "ProgressArtifact", "log_event", "report_release", "slug"]


_USUAL_STEPS = 35
"""Of a release with all forms and engines."""
_PREVIEW_QUALITY = 92
"""Of the images in Prefect's UI, as JPEG: they lie in the server's database. The release's own are PNG."""


def report_release(manifest: Manifest, card: Artifact, images: Mapping[str, Artifact]) -> None:
    """Put table, images and card where Prefect's UI and the summary of a GitHub Actions job show them.

    Args:
        manifest: Of the release.
        card: Its model card.
        images: Path in the release -> image; those that the card shows are shown.
    """
    table = measurement_table(manifest.measurements, manifest.quality, manifest.limits)
    create_markdown_artifact(
        table, key=slug(f"comparison-{manifest.name}"), description="Every form against the reference"
    )
    text = current_context().store.get(card).read_text(encoding="utf-8")
    body = text.split("\n---\n", 1)[1] if text.startswith("---\n") else text  # what stands in front is the Hub's
    for path, image in images.items():
        if f"]({path})" in body:
            preview = _preview(current_context().store.get(image))
            key = slug(f"{Path(path).stem}-image-{manifest.name}")
            create_image_artifact(preview, key=key, description=f"Before and after: {path}")
            body = body.replace(f"]({path})", f"]({preview})")
    create_markdown_artifact(body, key=slug(f"card-{manifest.name}"), description="Model card")
    forms = [
        f"- {form.precision.value}: {form.status}" + (f": {form.reason}" if form.reason else "")
        for form in manifest.forms
    ]
    summarize("\n".join([f"# {manifest.name} {manifest.version}", "", *forms, "", table]))


def _preview(image: Path) -> str:
    """An image as an address that holds it, for pages that cannot read our files."""
    from PIL import Image

    with Image.open(image) as opened, io.BytesIO() as stream:
        opened.convert("RGB").save(stream, format="JPEG", quality=_PREVIEW_QUALITY, subsampling=0)
        return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


class ProgressArtifact:
    """How far a release is, as a bar in Prefect's UI that moves at most once a second."""

    def __init__(self, name: str, expected: Mapping[str, float]) -> None:
        """Nothing is shown before the first stage.

        Args:
            name: Of the release.
            expected: Seconds of each step, as far as an earlier run tells.
        """
        self.name = name
        self.expected = dict(expected)
        self.done: set[str] = set()
        self._artifact: UUID | None = None
        self._shown = -math.inf

    def __call__(self, event: StageEvent) -> None:
        """Take note of one stage event."""
        if event.kind in ("ran", "cached"):
            self.done.add(event.step)
        if event.kind != "rebuilding" and time.monotonic() - self._shown >= 1:
            self._show(min(99.0, self.percent), event.stage)

    @property
    def percent(self) -> float:
        """By seconds where an earlier run tells them, else by the number of steps."""
        if whole := sum(self.expected.values()):
            return 100 * sum(self.expected.get(step, 0.0) for step in self.done) / whole
        return 100 * len(self.done) / _USUAL_STEPS

    def finish(self) -> None:
        """All is done."""
        if self._artifact is not None:
            self._show(100.0, "released")

    def _show(self, percent: float, doing: str) -> None:
        # An image of the work must not stop the work: a server may be away for a while.
        with suppress(httpx.HTTPError, PrefectException, RuntimeError):
            if self._artifact is None:
                self._artifact = cast(UUID, create_progress_artifact(percent, slug(f"progress-{self.name}"), doing))
            else:
                update_progress_artifact(self._artifact, percent, doing)
        self._shown = time.monotonic()


def log_event(event: StageEvent) -> None:
    """One line in the run's log, which Prefect's UI shows, for whatever became of a stage."""
    if event.kind == "started":
        return
    told = {"ran": f"ran, {event.seconds:.1f} s", "cached": "unchanged", "rebuilding": f"made again: {event.detail}"}
    get_run_logger().info("%s: %s", event.step, told.get(event.kind, f"{event.kind}: {event.detail}"))


def slug(text: str) -> str:
    """A key Prefect accepts: lower-case letters, digits and dashes."""
    return "-".join(
        "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in text.lower()).split()
    )


class Progress:
    """Prints one line per finished step and, before longer ones, what is left to do.

    How long steps take is remembered between runs, in the store. A first release borrows the memory of another one; the
    very first run has no ETA.
    """

    def __init__(self, title: str, memory: Path, *, quiet: bool = False) -> None:
        self.console = Console(file=sys.stderr, quiet=quiet, highlight=False, soft_wrap=True)
        self.title = title
        self.memory = memory
        self.ran: list[str] = []
        self.cached: list[str] = []
        self.remembered: dict[str, float] = _read(memory) or _read_latest(memory.parent)
        self.seconds: dict[str, float] = {}
        self.own_seconds = 0.0
        """In the steps' own work; the rest of :attr:`elapsed` is what cache, records and Prefect's engine take."""
        self.elapsed = 0.0
        """From the start to :meth:`finish`."""
        self._lock = threading.Lock()
        self._start = time.perf_counter()

    def __call__(self, event: StageEvent) -> None:
        """Take note of one stage event and show it."""
        step = event.step
        with self._lock:
            if event.kind == "started":
                self.console.print(f"[dim]{self.title}  … {step}{self._eta(step)}[/dim]")
            elif event.kind == "rebuilding":
                self.console.print(f"[yellow]{self.title}  ! {step}: {event.detail}; making it again[/yellow]")
            elif event.kind == "failed":
                self.console.print(f"[red]{self.title}  ✗ {step}[/red] after {event.seconds:.1f} s")
            elif event.kind == "cached":
                self.cached.append(step)
                self.console.print(f"[green]{self.title}  ✓[/green] {step} [dim]unchanged[/dim]")
            else:
                self.ran.append(step)
                self.seconds[step] = event.seconds
                self.own_seconds += event.own_seconds
                self.console.print(f"[green]{self.title}  ✓[/green] {step} [dim]{event.seconds:.1f} s[/dim]")

    def _eta(self, step: str) -> str:
        done = {*self.ran, *self.cached}
        left = sum(seconds for name, seconds in self.remembered.items() if name not in done)
        return f" (about {left:.0f} s left if nothing is cached)" if step in self.remembered and left >= 1 else ""

    def finish(self) -> None:
        """Remember how long steps took and print the sum."""
        self.elapsed = time.perf_counter() - self._start
        told = f"{len(self.ran)} steps ran, {len(self.cached)} unchanged, {self.elapsed:.1f} s"
        inside = f", {self.own_seconds:.1f} of them in the steps" if self.ran else ""
        self.console.print(f"{self.title}  {told}{inside}")
        try:
            with atomic_path(self.memory) as temporary:
                temporary.write_text(json.dumps({**self.remembered, **self.seconds}, sort_keys=True), encoding="utf-8")
        except StoreError:
            pass  # only the next run's ETA is lost


def _read_latest(folder: Path) -> dict[str, float]:
    memories = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime) if folder.is_dir() else []
    return _read(memories[-1]) if memories else {}


def _read(memory: Path) -> dict[str, float]:
    try:
        content: Mapping[str, object] = json.loads(memory.read_text(encoding="utf-8"))
        return {name: float(str(seconds)) for name, seconds in content.items()}
    except (OSError, ValueError, AttributeError):
        return {}
