"""``aethernet evaluate``: quality of every form against originals, as tables, chart and JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aethernet.cli.inputs import whole_bundle
from aethernet.cli.options import AsJson, Chart, Only, split_list
from aethernet.cli.output import emit_json, print_table, require_png, say, write_chart
from aethernet.cli.progress import Bar

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.table import Table

__all__ = ["evaluate", "evaluate_bundle", "evaluation_tables", "evaluation_words"]

_COLUMNS = {"psnr_rgb": ("PSNR RGB", ".3f"), "ssim_rgb": ("SSIM RGB", ".4f"), "psnr_y": ("PSNR Y", ".3f")}
_COLUMNS["ssim_y"] = ("SSIM Y", ".4f")
_COLUMNS |= {"lpips": ("LPIPS", ".4f"), "dists": ("DISTS", ".4f")}
_PERCEPTUAL = {
    "lpips": "LPIPS 0.1 on AlexNet (pyiqa), RGB, nothing cropped; lower is better",
    "dists": "DISTS (pyiqa), RGB, nothing cropped; lower is better",
}


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Release folder.")],
    hr: Annotated[
        Path, typer.Option(help="Folder of originals, a set such as Set5 with HR and LR in it, or a folder of sets.")
    ],
    lr: Annotated[Path | None, typer.Option(help="Their low-resolution partners (default: the set's own).")] = None,
    kernel: Annotated[
        str | None,
        typer.Option(help="Without partners: matlab-bicubic (default), bicubic, box, dpid. With: how they were made."),
    ] = None,
    crop: Annotated[
        int | None, typer.Option(min=0, help="Pixels cut off every side for Y (default: the scale); never for RGB.")
    ] = None,
    only: Only = "",
    perceptual: Annotated[
        str, typer.Option(help="Also lpips, dists or both (lpips,dists); needs the extra `perceptual`.")
    ] = "",
    chart: Chart = None,
    as_json: AsJson = False,
) -> None:
    """Measure every form against high-resolution images: PSNR and SSIM, RGB and Y, per image and mean."""
    require_png(chart)
    facts = evaluate_bundle(
        bundle, hr=hr, lr=lr, kernel=kernel, crop=crop, only=only, perceptual=perceptual, chart=chart
    )
    if as_json:
        emit_json(facts)
    else:
        for table in evaluation_tables(facts):
            print_table(table)
    for line in evaluation_words(facts):
        say(line)
    if facts["failed"]:
        raise typer.Exit(1)


def evaluate_bundle(
    path: Path,
    *,
    hr: Path,
    lr: Path | None,
    kernel: str | None,
    crop: int | None,
    only: str,
    perceptual: str,
    chart: Path | None,
) -> dict[str, Any]:
    """Measure a release; JSON values, described in ``docs/evaluation.md``."""
    from aethernet.evaluation import evaluate as measure
    from aethernet.evaluation import find_sets
    from aethernet.evaluation.perceptual import perceptual_metrics
    from aethernet.host import describe_host, toolchain

    bundle = whole_bundle(path)
    manifest = bundle.manifest
    scale = int(manifest.network.config["scale"])
    sets = find_sets(hr, lr, scale, kernel)
    distances = perceptual_metrics(split_list(perceptual))
    with Bar(0, "runs") as bar:
        found = measure(
            bundle,
            sets,
            crop=crop,
            only=split_list(only),
            perceptual=distances,
            progress=lambda words, done, total: bar.show(done, words, total=total),
        )
    facts = {
        "schema_version": 1,
        "release": {"name": manifest.name, "version": manifest.version, "identity": manifest.identity},
        "scale": scale,
        "host": describe_host(),
        "toolchain": toolchain(),
        "definitions": {
            "rounding": "8 bits, clipped",
            "psnr_rgb, ssim_rgb": "all channels, nothing cropped",
            "psnr_y, ssim_y": "BT.601 Y in 16 to 235, not rounded, `crop` pixels cut off every side",
            "mean": "of the images' values",
            **{name: _PERCEPTUAL[name] for name in distances},
        },
        "results": [one.to_json() for one in found.results],
        "skipped": [{"form": name, "reason": reason} for name, reason in found.skipped],
        "failed": [{"form": name, "reason": reason} for name, reason in found.failed],
    }
    if chart is not None and facts["results"]:
        write_chart(_chart(facts), chart)
    return facts


def evaluation_tables(facts: dict[str, Any]) -> Iterator[Table]:
    """Per set: the means of every form, then every image."""
    from rich.table import Table

    columns = [name for name in _COLUMNS if any(name in one for one in facts["results"])]

    def table(title: str, *heads: str) -> Table:
        made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for head in heads:
            made.add_column(head, overflow="fold")
        for name in columns:
            made.add_column(_COLUMNS[name][0], justify="right", no_wrap=True)
        return made

    for name in dict.fromkeys(one["set"] for one in facts["results"]):
        rows = [one for one in facts["results"] if one["set"] == name]
        first = rows[0]
        title = (
            f"{name}, {len(first['pictures'])} images, sha256 {first['digest'][:16]}\n"
            f"kernel: {first['kernel']}\n"
            f"{first['channels']} without crop; Y with {first['crop']} pixels cropped; rounded to 8 bits"
        )
        means = table(title, "mean of", "runtime")
        for one in rows:
            means.add_row(one["form"], one["runtime"], *_values(one, columns))
        yield means
        each = table("", "picture", "form")
        for index, image in enumerate(first["pictures"]):
            for one in rows:
                each.add_row(image["picture"], one["form"], *_values(one["pictures"][index], columns))
        yield each


def evaluation_words(facts: dict[str, Any]) -> Iterator[str]:
    """What was not measured, and why."""
    for one in facts["skipped"]:
        yield f"{one['form']} was not measured: {one['reason']}"
    for one in facts["failed"]:
        yield f"{one['form']} failed: {one['reason']}"


def _values(measured: dict[str, Any], columns: list[str]) -> list[str]:
    return ["–" if measured[key] is None else format(measured[key], _COLUMNS[key][1]) for key in columns]


def _chart(facts: dict[str, Any]) -> Image:
    """PSNR over bicubic's, which is what a network adds."""
    from aethernet.release.chart import Bars, bar_chart

    rows = []
    for name in dict.fromkeys(one["set"] for one in facts["results"]):
        own = [one for one in facts["results"] if one["set"] == name and one["psnr_rgb"] is not None]
        base = min((one["psnr_rgb"] for one in own), default=0.0)
        rows += [
            Bars(
                label=f"{one['form']}, {name}",
                values=(one["psnr_rgb"] - base,),
                note=f"{one['psnr_rgb']:.2f} dB, SSIM {one['ssim_rgb'] or 0:.4f}",
            )
            for one in own
        ]
    return bar_chart(f"{facts['release']['name']}: PSNR (RGB) above the lowest", ["dB"], rows)
