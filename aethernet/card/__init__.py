"""The model card: ``README.md`` rendered from ``release.json`` and ``build.json`` alone; a hole in the data is an
error.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

from aethernet.architectures import Descriptor, describe
from aethernet.engine.commands import build_commands
from aethernet.errors import BundleError
from aethernet.manifest import BuildRecord, Manifest
from aethernet.precision import Precision

__all__ = ["render_card"]

_USES = {
    ("onnx", Precision.FP32): "ONNX Runtime, chaiNNer, vs-mlrt, anything that reads ONNX; the exact form",
    ("onnx", Precision.FP16): "GPUs: TensorRT, CUDA and DirectML; half the size, not faster on a CPU",
    ("safetensors", Precision.FP32): "PyTorch, spandrel with our plugin",
    ("safetensors", Precision.FP16): "PyTorch on a GPU",
    ("onnx", Precision.INT8): "CPUs: ONNX Runtime, OpenVINO; DirectML. The fast form",
    ("trt.onnx", Precision.INT8): "building TensorRT engines: the same numbers as TensorRT wants them",
    ("safetensors", Precision.INT8): "the int8 network in PyTorch, through `aethernet.load`; the smallest file",
    ("pth", Precision.INT8): "tools that only take .pth, through `aethernet.load`",
    ("pth", Precision.FP32): "tools that only take .pth",
    ("pth", Precision.FP16): "tools that only take .pth, on a GPU",
}


def render_card(manifest: Manifest, build: BuildRecord) -> str:
    """Markdown with the Hub's metadata in front.

    Raises:
        BundleError: The template needs something the records do not hold.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(
        bytes=_bytes,
        commands=_commands,
        number=_number,
        plain=_plain,
        use=_use,
        title=lambda network: describe(network.config).title,
        sizes=lambda network: _sizes(describe(network.config)),
        finite=lambda values: [v for v in values if v is not None],
    )
    template = (resources.files(__name__) / "template.md.jinja").read_text(encoding="utf-8")
    try:
        body = environment.from_string(template).render(
            release=_shown(manifest), build=build, summary=_summary(manifest)
        )
    except jinja2.UndefinedError as error:
        raise BundleError(f"the card's template asks for something the release does not record: {error}") from error
    return f"---\n{_metadata(manifest)}---\n\n{body}"


def _shown(manifest: Manifest) -> Manifest:
    """What stands in tables and comes from outside, made fit for them."""
    quality = tuple(entry.model_copy(update={"picture": _plain(entry.picture)}) for entry in manifest.quality)
    return manifest.model_copy(update={"license": _plain(manifest.license), "quality": quality})


def _metadata(manifest: Manifest) -> str:
    """The YAML in front, by the Hub's own library, so that it is what the Hub accepts."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-to-image",
            task_name="Super-resolution",
            dataset_type="validation-pictures",
            dataset_name=f"validation picture {entry.picture}",
            # The library merges results of one type and config; each picture is one.
            dataset_config=entry.picture,
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
        # The Hub spells SPDX identifiers in lower case.
        license=manifest.license.lower() if manifest.license != "unknown" else None,
        library_name="aethernet",
        pipeline_tag="image-to-image",
        tags=["super-resolution", "image-upscaling", "onnx", manifest.network.family.lower()],
        model_name=manifest.name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml()).rstrip("\n") + "\n"


def _summary(manifest: Manifest) -> list[dict[str, Any]]:
    """Per released file: the worst value of each measure over all inputs."""
    rows = []
    for entry in manifest.files:
        measured = [item for item in manifest.measurements if item.form.file == entry.path]
        if not measured:
            continue
        rows.append(
            {
                "file": entry.path,
                "runtime": measured[0].form.runtime,
                "inputs": len(measured),
                "psnr": min((item.psnr for item in measured if item.psnr is not None), default=None),
                "max_abs": max((item.max_abs for item in measured if item.max_abs is not None), default=None),
                "level": max((item.levels_largest or 0 for item in measured), default=0),
                "shift": max(
                    (abs(v) * 255 for item in measured for v in item.signed_mean if v is not None), default=None
                ),
            }
        )
    return rows


def _use(path: str, precision: Precision | None) -> str:
    kind = "trt.onnx" if path.endswith("_trt.onnx") else path.rpartition(".")[2]
    return _USES.get((kind, precision), "") if precision else ""


def _commands(manifest: Manifest) -> dict[str, dict[str, str]]:
    """ONNX file -> tool -> command, for every file that an engine was built from."""
    identities = [entry.record.identity for entry in manifest.engines if entry.record is not None]
    return {one.onnx: build_commands(one.onnx, one.precision, one.profiles, one.channels) for one in identities}


def _sizes(network: Descriptor) -> str:
    """What pictures have to be padded to, in words; empty where any size will do."""
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


def _bytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _number(value: float | None, form: str, missing: str = "–") -> str:
    return missing if value is None else format(value, form)


def _plain(text: str) -> str:
    """Text from a spec, on one line of a table; text that is fit already stays as it is."""
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))
