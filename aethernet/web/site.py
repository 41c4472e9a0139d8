"""Writing the site: the page, the release's ONNX files and images, onnxruntime-web, and ``site.json`` about them."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from aethernet.artifact import file_digest, fsync_tree
from aethernet.comparison.gate import DEFAULT_LIMITS
from aethernet.errors import BundleError, StoreError, UsageError
from aethernet.networks.config import describe
from aethernet.precision import Precision
from aethernet.records import canonical_json
from aethernet.release.assembly import replace_folder
from aethernet.release.bundle import CHECK_INPUT, CHECK_OUTPUT, Bundle, open_bundle
from aethernet.release.manifest import MANIFEST, Manifest
from aethernet.release.summary import fill_template, mean_quality
from aethernet.upscale.memory import bytes_per_pixel
from aethernet.web.onnxruntime_web import DIGESTS, PACKAGE, VERSION

__all__ = ["LARGEST_SITE", "SAMPLE_KINDS", "SITE", "Site", "space_card", "write_site"]

SITE = "site.json"
"""What the page knows about the release and about its own files."""
LARGEST_SITE = 40 * 10**6
"""Bytes that a site may have: visitors load a part of it, hubs and Pages all of it."""
SAMPLE_KINDS = (".png", ".jpg", ".jpeg", ".webp")
"""Files that can be offered as sample images."""

_PAGE = ("app.js", "worker.js", "tiles.js", "pixels.js", "png.js", "isolation.js", "style.css", "icon.svg")
_NOTICE = "onnxruntime-web-LICENSE.txt"
_BUILDS = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded"),
    "webgpu": ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify"),
}
_MOST_SAMPLES = 6
_EIGHT_BITS = 50.0
"""dB: no more is asked of PSNR between outputs that are rounded to 8 bits, which alone costs up to 58.9 dB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A finished site."""

    root: Path
    files: int
    size: int
    """Bytes of all files."""


def write_site(
    bundle: Bundle | Path | str,
    destination: Path,
    runtime: Path,
    *,
    samples: Mapping[str, Path] | None = None,
    home: str = "",
    space: bool = False,
) -> Site:
    """Write a static site that runs a release in the browser; one that stands there already is replaced in one step.

    Args:
        bundle: The release folder, or an opened release. Its ONNX files are checked against the manifest.
        destination: The site's folder.
        runtime: A folder of :func:`~aethernet.web.onnxruntime_web.onnxruntime_web`.
        samples: Images to offer beside the release's check image, small ones best: file name -> file.
        home: Where the release can be downloaded, an address of a page; may be empty.
        space: Add a ``README.md`` that makes the folder a static Space of the Hub.

    Raises:
        BundleError: Not a release, one without an fp32 ONNX file, or one whose files have changed.
        UsageError: The network is not from RGB to RGB or grey to grey, a sample is no image, the site would be too
            large, or ``destination`` holds something that is no site.
        StoreError: It cannot be written.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if destination.is_symlink() or (destination.exists() and not _replaceable(destination)):
        raise UsageError(f"expected a site or nothing at {destination}, found other files; nothing was touched")
    taken = _samples(opened, samples or {})
    facts = _facts(opened, taken)
    part = destination.with_name(f".{destination.name}.{secrets.token_hex(6)}.part")
    try:
        part.mkdir(parents=True)
        _write_page(part, opened, facts, home)
        _write_release(part, opened, facts, taken)
        _write_runtime(part, runtime)
        if space:
            (part / "README.md").write_text(space_card(opened.manifest, home), encoding="utf-8")
        files = [path for path in part.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        if size > LARGEST_SITE:
            raise UsageError(
                f"expected a site of at most {LARGEST_SITE / 1e6:.0f} MB, found {size / 1e6:.1f} MB",
                hint="a network this large is too slow in a browser as well; leave out [web]",
            )
        fsync_tree(part)
        replace_folder(part, destination)
    except OSError as error:
        raise StoreError(
            f"could not write {destination}: {error.strerror or error}", hint="free space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Site(root=destination, files=len(files), size=size)


def space_card(manifest: Manifest, home: str = "") -> str:
    """``README.md`` of a static Space: the Hub's metadata, with the headers that several threads need.

    Args:
        manifest: Of the release.
        home: The release's repository on the Hub as ``owner/name``, or another address; may be empty.
    """
    lines = {
        "title": f"{manifest.name} in your browser",
        "emoji": "\N{FRAME WITH PICTURE}",
        "colorFrom": "blue",
        "colorTo": "gray",
        "sdk": "static",
        "app_file": "index.html",
        "pinned": False,
        "short_description": f"{describe(manifest.network.config).scale}x super-resolution on your own device",
        "tags": ["super-resolution", "image-upscaling", "onnxruntime-web", "aethernet"],
    }
    if _is_repository(home):
        lines["models"] = [home]
    headers = {
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "cross-origin",
    }
    # JSON is YAML, and needs no library that quotes.
    front = "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in lines.items())
    front += "custom_headers:\n" + "".join(f"  {name}: {value}\n" for name, value in headers.items())
    where = f"[{home}]({_link(home)})" if home else "its release"
    return (
        f"---\n{front}---\n\n# {manifest.name} {manifest.version}\n\n"
        f"The network of {where}, identity `{manifest.identity}`, run by this page on the visitor's own device: "
        "images are sent nowhere.\n"
    )


def _is_repository(home: str) -> bool:
    return home.count("/") == 1 and ":" not in home


def _link(home: str) -> str:
    return f"https://huggingface.co/{home}" if _is_repository(home) else home


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and ((folder / SITE).is_file() or not any(folder.iterdir()))


def _samples(bundle: Bundle, samples: Mapping[str, Path]) -> list[tuple[str, Path]]:
    """(path in the site, file) of the images to offer; the check image is always among them."""
    taken = [("images/check_input.png", bundle.root / CHECK_INPUT)]
    for index, (name, path) in enumerate(list(samples.items())[:_MOST_SAMPLES]):
        stem, suffix = Path(name).stem, Path(name).suffix.lower()
        if suffix not in SAMPLE_KINDS or not path.is_file():
            raise UsageError(f"expected sample images as {', '.join(SAMPLE_KINDS)}, found {name}")
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", stem)  # part of an address
        taken.append((f"images/sample_{index + 1}_{plain}{suffix}", path))
    return taken


def _facts(bundle: Bundle, samples: Sequence[tuple[str, Path]]) -> dict[str, Any]:
    """The content of :data:`SITE`."""
    manifest = bundle.manifest
    network = describe(manifest.network.config)
    if network.in_channels not in (1, 3) or network.out_channels != network.in_channels:
        raise UsageError(
            f"expected a network from grey to grey or RGB to RGB, found one from {network.in_channels} to "
            f"{network.out_channels} channels"
        )
    files = {
        precision.value: {"path": f"models/{entry.path}", "sha256": entry.sha256, "size": entry.size}
        for precision in (Precision.FP32, Precision.FP16, Precision.INT8)
        if (entry := manifest.file("onnx", precision, f"_{precision.value}.onnx")) is not None
    }
    if Precision.FP32.value not in files:
        raise BundleError(f"expected an fp32 ONNX file in {manifest.name}, found none")
    if missing := [path for path in (CHECK_INPUT, CHECK_OUTPUT) if not (bundle.root / path).is_file()]:
        raise BundleError(f"expected the release's check images in {bundle.root}, found no {', '.join(missing)}")
    from PIL import Image

    with Image.open(bundle.root / CHECK_INPUT) as image:
        width, height = image.size
    stated = {entry.path: entry.sha256 for entry in manifest.files}
    return {
        "schema_version": 1,
        "name": manifest.name,
        "version": manifest.version,
        "identity": manifest.identity,
        "network": {
            "scale": network.scale,
            "channels": network.in_channels,
            "receptive_radius": network.receptive_radius,
            "pools_globally": network.pools_globally,
            "size": network.size.to_json(),
            "bytes_per_pixel": {
                "fp32": bytes_per_pixel(manifest.network.config),
                "fp16": bytes_per_pixel(manifest.network.config, half=True),
            },
        },
        "files": files,
        "check": {
            "input": {"path": CHECK_INPUT, "sha256": stated[CHECK_INPUT]},
            "output": {"path": CHECK_OUTPUT, "sha256": stated[CHECK_OUTPUT]},
            "width": width,
            "height": height,
            "limits": {name: _limits(manifest, Precision(name)) for name in files},
        },
        "runtime": {"name": PACKAGE, "version": VERSION, **{name: _build(name) for name in _BUILDS}},
        "samples": [path for path, _ in samples],
    }


def _limits(manifest: Manifest, precision: Precision) -> dict[str, float | None]:
    """What a browser's output of the check image is held against: the limits the release itself passed, in 8 bits.

    fp32 may be off by one level, as ``aethernet verify`` asks; other precisions by what their gate allowed.
    """
    if precision is Precision.FP32:
        return {"max_level": 1, "min_psnr": None}
    limits = manifest.limits.get(precision, DEFAULT_LIMITS[precision])
    psnr = limits.min_psnr
    return {"max_level": limits.max_level, "min_psnr": None if psnr is None else min(psnr, _EIGHT_BITS)}


def _build(name: str) -> dict[str, Any]:
    module, code = _BUILDS[name]
    return {
        "module": f"ort/{module}",
        "binary": {"path": f"ort/{code}.wasm.gz", "sha256": DIGESTS[f"{code}.wasm"]},
    }


def _write_page(part: Path, bundle: Bundle, facts: dict[str, Any], home: str) -> None:
    page = resources.files("aethernet.web") / "page"
    for name in _PAGE:
        (part / name).write_bytes((page / name).read_bytes())
    manifest = bundle.manifest
    network = describe(manifest.network.config)
    html = fill_template(
        "the page",
        page / "index.html.jinja",
        {},
        html=True,
        release=manifest,
        network=network,
        facts=facts,
        means=_means(manifest),
        kernel=manifest.conditions.kernel,
        home=_link(home) if home else "",
        runtime=f"{PACKAGE} {VERSION}",
        notice=_NOTICE,
    )
    (part / "index.html").write_text(html, encoding="utf-8")
    (part / SITE).write_bytes(canonical_json(facts))


def _means(manifest: Manifest) -> list[dict[str, Any]]:
    """Rows of the quality table: bicubic, then the files that the site holds."""
    means = mean_quality(manifest)
    labels = {"bicubic": "bicubic"}
    for precision in (Precision.FP32, Precision.FP16, Precision.INT8):
        entry = manifest.file("onnx", precision, f"_{precision.value}.onnx")
        if entry is not None:
            labels[entry.path] = f"this network, {precision.value}"
    return [
        {"label": label, "psnr": means[form]["psnr_rgb"], "ssim": means[form]["ssim_rgb"]}
        for form, label in labels.items()
        if form in means and math.isfinite(means[form].get("psnr_rgb", math.nan)) and "ssim_rgb" in means[form]
    ]


def _write_release(part: Path, bundle: Bundle, facts: dict[str, Any], samples: Sequence[tuple[str, Path]]) -> None:
    (part / "models").mkdir()
    (part / "images").mkdir()
    copies = {
        one["path"]: (bundle.root / one["path"].removeprefix("models/"), one["sha256"])
        for one in facts["files"].values()
    }
    for one in (facts["check"]["input"], facts["check"]["output"]):
        copies[one["path"]] = (bundle.root / one["path"], one["sha256"])
    for path, (source, sha256) in copies.items():
        if not source.is_file() or file_digest(source) != sha256:
            raise BundleError(f"expected {source} as {MANIFEST} states it, found it missing or changed")
        shutil.copyfile(source, part / path)
    for path, source in samples[1:]:
        shutil.copyfile(source, part / path)
    shutil.copyfile(bundle.root / MANIFEST, part / MANIFEST)


def _write_runtime(part: Path, runtime: Path) -> None:
    """The scripts as they are; WebAssembly compressed, because most servers do not, and it is four times smaller."""
    (part / "ort").mkdir()
    for name, sha256 in DIGESTS.items():
        content = (runtime / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise UsageError(f"expected {name} of {PACKAGE} {VERSION} in {runtime}, found other content")
        if name.endswith(".wasm"):
            (part / "ort" / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
        else:
            (part / "ort" / name).write_bytes(content)
    page = resources.files("aethernet.web") / "page"
    (part / "ort" / _NOTICE).write_bytes((page / _NOTICE).read_bytes())
