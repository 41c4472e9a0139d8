"""``aethernet benchmark``: every form of a release side by side, as table, chart and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aethernet.cli.inputs import case_of_size, images_of, sizes_of, whole_bundle
from aethernet.cli.options import AsJson, Chart
from aethernet.cli.output import emit_json, print_table, require_png, say, write_chart

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.table import Table

__all__ = ["benchmark", "benchmark_bundle", "benchmark_tables", "benchmark_words"]


def benchmark(
    bundle: Annotated[Path, typer.Argument(help="Release folder.")],
    sizes: Annotated[str, typer.Option(metavar="HxW,…", help="Input sizes.")] = "256x256",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of each form (default: all there are).")] = 0,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs of each form at each size.")] = 7,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Put another ONNX or .param file or checkpoint beside; repeatable."),
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(metavar="A/B=R", help="Exit 1 unless A is R times as fast as B, as in int8/fp32=1.5; repeatable."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="Time after loading: fewer runs, then without the slowest forms; 0: no limit.")
    ] = 120,
    chart: Chart = None,
    as_json: AsJson = False,
) -> None:
    """Time every form that runs here, interleaved in one run: latency, throughput, memory, load time."""
    require_png(chart)
    facts = benchmark_bundle(
        bundle,
        sizes=sizes,
        threads=threads,
        runs=runs,
        against=against or (),
        floors=floor or (),
        seconds=seconds,
        chart=chart,
    )
    if as_json:
        emit_json(facts)
    else:
        for table in benchmark_tables(facts):
            print_table(table)
    for line in benchmark_words(facts):
        say(line)
    if not all(one["holds"] for one in facts["floors"]):
        raise typer.Exit(1)


def benchmark_bundle(
    path: Path,
    *,
    sizes: str,
    threads: int,
    runs: int,
    against: Sequence[Path],
    floors: Sequence[str],
    seconds: float,
    chart: Path | None,
) -> dict[str, Any]:
    """Hold the benchmark; JSON values, described in ``docs/benchmarks.md``.

    Raises:
        BenchmarkError: A file that was put beside cannot run here.
    """
    from aethernet.benchmark.run import Floor, entries_of, run_benchmark, third_party_candidate
    from aethernet.host import describe_host, toolchain

    bundle, wanted = whole_bundle(path), sizes_of(sizes)
    manifest = bundle.manifest
    entries = entries_of(bundle)
    for file in against:
        entries.append(third_party_candidate(file, [entry.name for entry in entries]))
    asked = [Floor.parse(text, [entry.name for entry in entries]) for text in floors]
    own = images_of(None)
    shown = [case_of_size(own, manifest.network.config["in_channels"], size) for size in wanted]
    timed = run_benchmark(entries, shown, runs=runs, threads=threads, seconds=seconds or None, progress=say)
    labels = [f"{height}x{width}" for height, width in wanted]
    facts = {
        "schema_version": 1,
        "release": {"name": manifest.name, "version": manifest.version, "identity": manifest.identity},
        "scale": manifest.network.config["scale"],
        "host": describe_host(),
        "toolchain": toolchain() | _others(),
        "threads": timed.threads,
        "runs": timed.runs,
        "seconds": timed.seconds,
        "sizes": [
            {"size": label, "shape": list(shape), "results": _with_ratios([one.to_json() for one in results])}
            for label, (shape, results) in zip(labels, timed.sizes, strict=True)
        ],
        "skipped": [{"name": name, "reason": reason} for name, reason in timed.skipped],
        "floors": [
            {
                "faster": floor.faster,
                "slower": floor.slower,
                "times": floor.times,
                "reached": {
                    label: ratio and round(ratio, 4) for label, ratio in zip(labels, floor.ratios(timed), strict=True)
                },
                "holds": floor.holds(timed),
            }
            for floor in asked
        ],
    }
    if chart is not None:
        write_chart(_chart(facts), chart)
    return facts


def _others() -> dict[str, str]:
    """Versions of the libraries that not every installation has."""
    from aethernet.host import package_version

    return {name: version for name in ("ncnn", "openvino") if (version := package_version(name)) is not None}


def _with_ratios(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times as fast each is as the first, the training form, and as fp32 in ONNX Runtime."""
    medians = {one["name"]: one["median_ms"] for one in results}
    for one in results:
        for key, name in (("times_first", results[0]["name"]), ("times_fp32", "fp32")):
            one[key] = round(medians[name] / one["median_ms"], 4) if name in medians else None
    return results


def benchmark_tables(facts: dict[str, Any]) -> Iterator[Table]:
    """One table per size, within 80 columns."""
    from rich.table import Table

    for size in facts["sizes"]:
        first = size["results"][0]["name"] if size["results"] else "first"
        runs = size["results"][0]["runs"] if size["results"] else 0
        title = f"{facts['release']['name']}, {size['size']}, {facts['threads']} threads, {runs} runs"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("form", overflow="fold")
        for name in ("median ms", "spread", "MP/s", f"x {first.removeprefix('torch-')}", "x fp32", "MB", "load ms"):
            table.add_column(name, justify="right", no_wrap=True)
        for one in size["results"]:
            table.add_row(
                one["name"],
                _short(one["median_ms"]),
                f"{_short(one['fastest_ms'])}–{_short(one['slowest_ms'])}",
                f"{one['megapixels_per_second']:.3g}",
                *("–" if one[key] is None else f"{one[key]:.2f}" for key in ("times_first", "times_fp32")),
                "–" if one["peak_memory_mb"] is None else f"{one['peak_memory_mb']:.0f}",
                _short(one["load_ms"]),
            )
        yield table


def benchmark_words(facts: dict[str, Any]) -> Iterator[str]:
    """What did not run, and which floors hold."""
    for one in facts["skipped"]:
        yield f"{one['name']} {one['reason']}"
    for one in facts["floors"]:
        reached = ", ".join(
            f"{size}: {'not measured' if ratio is None else f'{ratio:.2f}'}" for size, ratio in one["reached"].items()
        )
        verdict = "holds" if one["holds"] else "is missed"
        yield f"floor {one['faster']}/{one['slower']} = {one['times']:g} {verdict} ({reached})"


def _chart(facts: dict[str, Any]) -> Image:
    """Medians of every size, each on a scale of its own: sizes differ by more than forms do."""
    from aethernet.release.chart import Bars, bar_chart

    rows = []
    for size in facts["sizes"]:
        slowest = max(one["median_ms"] for one in size["results"])
        rows += [
            Bars(
                label=one["name"] if len(facts["sizes"]) == 1 else f"{one['name']}, {size['size']}",
                values=(one["median_ms"] / slowest,),
                note=f"{_short(one['median_ms'])} ms, {one['megapixels_per_second']:.3g} MP/s",
            )
            for one in size["results"]
        ]
    sizes = ", ".join(size["size"] for size in facts["sizes"])
    return bar_chart(f"{facts['release']['name']}: time per image, {sizes}", ["time"], rows)


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.1f}"
