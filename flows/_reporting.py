"""What a run shows while it runs and when it ends: lines with an ETA on stderr, artifacts in Prefect's UI."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from rich.console import Console

from aethernet.artifact import Artifact, atomic_path
from aethernet.comparison import measurement_table
from aethernet.errors import StoreError
from aethernet.manifest import Manifest
from flows._actions import summarize
from tasks._caching import StageEvent, current_context

__all__ = ["Progress", "log_event", "report_release", "slug"]


def report_release(manifest: Manifest, card: Artifact) -> None:
    """Put the comparison table and the card where Prefect's UI and the summary of a GitHub Actions job show them."""
    table = measurement_table(manifest.measurements, manifest.quality, manifest.limits)
    create_markdown_artifact(
        table, key=slug(f"comparison-{manifest.name}"), description="Every form against the reference"
    )
    text = current_context().store.get(card).read_text(encoding="utf-8")
    create_markdown_artifact(text, key=slug(f"card-{manifest.name}"), description="Model card")
    forms = [
        f"- {form.precision.value}: {form.status}" + (f": {form.reason}" if form.reason else "")
        for form in manifest.forms
    ]
    summarize("\n".join([f"# {manifest.name} {manifest.version}", "", *forms, "", table]))


def log_event(event: StageEvent) -> None:
    """One line in the run's log, which Prefect's UI shows, for whatever became of a stage."""
    if event.kind == "started":
        return
    told = {"ran": f"ran, {event.seconds:.1f} s", "cached": "unchanged", "rebuilding": f"made again: {event.detail}"}
    step = f"{event.stage} {event.label}".strip()
    get_run_logger().info("%s: %s", step, told.get(event.kind, f"{event.kind}: {event.detail}"))


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
        self._lock = threading.Lock()
        self._start = time.perf_counter()

    def __call__(self, event: StageEvent) -> None:
        """Take note of one stage event and show it."""
        step = f"{event.stage} {event.label}".strip()
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
                self.console.print(f"[green]{self.title}  ✓[/green] {step} [dim]{event.seconds:.1f} s[/dim]")

    def _eta(self, step: str) -> str:
        done = {*self.ran, *self.cached}
        left = sum(seconds for name, seconds in self.remembered.items() if name not in done)
        return f" (about {left:.0f} s left if nothing is cached)" if step in self.remembered and left >= 1 else ""

    def finish(self) -> None:
        """Remember how long steps took and print the sum."""
        seconds = time.perf_counter() - self._start
        self.console.print(f"{self.title}  {len(self.ran)} steps ran, {len(self.cached)} unchanged, {seconds:.1f} s")
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
