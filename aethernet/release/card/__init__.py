"""The model card: ``README.md`` rendered from ``release.json`` and ``build.json`` alone; a hole in the data is an
error.
"""

from __future__ import annotations

import re
from importlib import resources

from aethernet.engines.commands import build_commands
from aethernet.install import WHEEL, public_requirement
from aethernet.networks.config import describe
from aethernet.networks.descriptor import Descriptor
from aethernet.precision import Precision
from aethernet.release.manifest import BuildRecord, FileEntry, Manifest
from aethernet.release.summary import fill_template, mean_quality, quality_rows, worst_measurements

__all__ = ["render_card"]

_HUB_LICENSES = (
    *("apache-2.0", "mit", "isc", "zlib", "unlicense", "wtfpl", "bsd-2-clause", "bsd-3-clause", "mpl-2.0", "osl-3.0"),
    *("agpl-3.0", "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "openrail", "cc0-1.0", "cc-by-2.0", "cc-by-3.0"),
    *("cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
)
"""What the Hub takes for a licence without further words, as far as networks have them."""


def render_card(manifest: Manifest, build: BuildRecord) -> str:
    """Markdown with the Hub's metadata in front.

    Raises:
        BundleError: The template needs something the records do not hold.
    """
    body = fill_template(
        "the card",
        resources.files(__name__) / "template.md.jinja",
        {
            "commands": _commands,
            "plain": _plain,
            "title": lambda network: describe(network.config).title,
            "sizes": lambda network: _sizes(describe(network.config)),
        },
        html=False,
        release=_shown(manifest),
        build=build,
        summary=worst_measurements(manifest),
        rows=quality_rows(_shown(manifest)),
        means=mean_quality(manifest),
        onnx=_onnx_files(manifest),
        ncnn_file=_ncnn_file(manifest),
        ncnn_scale_in_name=_says_scale(manifest),
        requirement=public_requirement,
        wheel=WHEEL,
    )
    return f"---\n{_metadata(manifest)}---\n\n{body}"


def _shown(manifest: Manifest) -> Manifest:
    """What stands in tables and comes from outside, made fit for them."""
    quality = tuple(entry.model_copy(update={"image": _plain(entry.image)}) for entry in manifest.quality)
    return manifest.model_copy(update={"license": _plain(manifest.license), "quality": quality})


def _metadata(manifest: Manifest) -> str:
    """The YAML in front, by the Hub's own library, so that it is what the Hub accepts."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-to-image",
            task_name="Super-resolution",
            dataset_type="validation-pictures",
            dataset_name=f"validation image {entry.image}",
            # The library merges results of one type and config; each image is one.
            dataset_config=entry.image,
            metric_type=metric,
            metric_name=f"{name}, {entry.form}",
            metric_value=value,
        )
        for entry in manifest.quality
        if entry.precision is Precision.FP32 and entry.form.endswith(".onnx")
        for metric, name, value in (("psnr", "PSNR (RGB, dB)", entry.psnr_rgb), ("ssim", "SSIM (RGB)", entry.ssim_rgb))
        if value is not None
    ]
    data = ModelCardData(
        license=_license(manifest.license),
        license_name=_plain(manifest.license) if _license(manifest.license) == "other" else None,
        library_name="aethernet",
        pipeline_tag="image-to-image",
        tags=[
            "super-resolution",
            "image-upscaling",
            "onnx",
            *(["ncnn"] if _ncnn_file(manifest) else []),
            manifest.network.family.lower(),
        ],
        model_name=manifest.name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml()).rstrip("\n") + "\n"


def _license(name: str) -> str:
    """The Hub spells SPDX identifiers in lower case; what it does not list is ``other`` and has a name beside."""
    plain = re.sub(r"-(only|or-later)$", "", name.lower())
    return plain if plain in (*_HUB_LICENSES, "unknown") else "other"


def _onnx_files(manifest: Manifest) -> dict[str, FileEntry]:
    """Precision -> the ONNX file that people run as it is."""
    found = {one: manifest.file("onnx", one, "_int8.onnx" if one is Precision.INT8 else ".onnx") for one in Precision}
    return {precision.value: entry for precision, entry in found.items() if entry is not None}


def _ncnn_file(manifest: Manifest) -> FileEntry | None:
    """The parameter file of the ncnn form."""
    return next((one for one in manifest.files if one.role == "ncnn" and one.path.endswith(".param")), None)


def _says_scale(manifest: Manifest) -> bool:
    """Whether Upscayl reads the right scale from the name: it takes the first of these that the name contains."""
    found = next(
        (scale for scale in (1, 2, 3, 4, 8, 16) if f"x{scale}" in manifest.name or f"{scale}x" in manifest.name), 4
    )
    return bool(found == manifest.network.config["scale"])


def _commands(manifest: Manifest) -> dict[str, dict[str, str]]:
    """ONNX file -> tool -> command, for every file that an engine was built from."""
    identities = [entry.record.identity for entry in manifest.engines if entry.record is not None]
    return {one.onnx: build_commands(one.onnx, one.precision, one.profiles, one.channels) for one in identities}


def _sizes(network: Descriptor) -> str:
    """What images have to be padded to, in words; empty where any size will do."""
    size = network.size
    if size.fixed is not None:
        return f"{size.fixed[0]} x {size.fixed[1]} pixels (height x width) only; aethernet pads and cuts"
    words = [
        f"at least {size.minimum} pixels a side" if size.minimum > 1 else "",
        f"multiples of {size.multiple}" if size.multiple > 1 else "",
        "square" if size.square else "",
    ]
    told = ", ".join(word for word in words if word)
    return f"{told}; aethernet pads others and cuts the rest off" if told else ""


def _plain(text: str) -> str:
    """Text from a spec, on one line of a table; text that is fit already stays as it is."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))
