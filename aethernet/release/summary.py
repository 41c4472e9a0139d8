"""What a manifest says, made short for people: the card and the report show the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources.abc import Traversable
from typing import Any

from aethernet.comparison.gate import CHANNEL_SHIFT_SIDE
from aethernet.comparison.measurement import Quality
from aethernet.errors import BundleError
from aethernet.precision import Precision
from aethernet.release.manifest import FileEntry, Manifest

__all__ = ["file_use", "fill_template", "mean_quality", "quality_rows", "readable_size", "worst_measurements"]

_USES = {
    ("onnx", Precision.FP32): "ONNX Runtime, chaiNNer, vs-mlrt, anything that reads ONNX; the exact form",
    ("onnx", Precision.FP16): "GPUs: TensorRT, CUDA and DirectML; half the size, not faster on a CPU",
    ("param", Precision.FP16): "Vulkan on cards of every make: Upscayl and other programs of ncnn; layers",
    ("bin", Precision.FP16): "the same, weights",
    ("param", Precision.FP32): "Vulkan on cards of every make: Upscayl and other programs of ncnn; layers",
    ("bin", Precision.FP32): "the same, weights, twice as large as in fp16",
    ("safetensors", Precision.FP32): "PyTorch, spandrel with our plugin",
    ("safetensors", Precision.FP16): "PyTorch on a GPU",
    ("onnx", Precision.INT8): "CPUs: ONNX Runtime, OpenVINO; DirectML. The fast form",
    ("trt.onnx", Precision.INT8): "building TensorRT engines: the same numbers as TensorRT wants them",
    ("safetensors", Precision.INT8): "the int8 network in PyTorch, through `aethernet.load`; the smallest file",
    ("pth", Precision.INT8): "tools that only take .pth, through `aethernet.load`",
    ("pth", Precision.FP32): "tools that only take .pth",
    ("pth", Precision.FP16): "tools that only take .pth, on a GPU",
}


def quality_rows(manifest: Manifest) -> list[dict[str, Any]]:
    """Every image's values, released form by form; files whose values are equal as far as shown share a row.

    A row has ``image``, ``forms`` (names), ``label`` (for people) and ``quality`` (the values).
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in _released(manifest):
        values = tuple(map(_shown_digits, (one.psnr_rgb, one.ssim_rgb, one.psnr_y, one.ssim_y), (2, 4, 2, 4)))
        key = (one.image, one.precision, *(values if one.precision else (one.form,)))
        row = rows.setdefault(key, {"image": one.image, "forms": [], "quality": one})
        row["forms"].append(one.form)
    for row in rows.values():
        row["label"] = _label(manifest.name, row["quality"].precision, row["forms"])
    order = list(dict.fromkeys(one.image for one in manifest.quality))
    return sorted(rows.values(), key=lambda row: order.index(row["image"]))


def _released(manifest: Manifest) -> list[Quality]:
    """Of baselines and of released forms; ``release.json`` keeps the others' numbers too."""
    released = [form.precision for form in manifest.forms if form.status == "released"]
    return [one for one in manifest.quality if one.precision is None or one.precision in released]


def mean_quality(manifest: Manifest) -> dict[str, dict[str, float]]:
    """Released form -> measure -> mean over the images it has a value for."""
    found: dict[str, dict[str, list[float]]] = {}
    for one in _released(manifest):
        for measure in ("psnr_rgb", "ssim_rgb", "psnr_y", "ssim_y"):
            value = getattr(one, measure)
            if value is not None:
                found.setdefault(one.form, {}).setdefault(measure, []).append(value)
    return {
        form: {measure: sum(each) / len(each) for measure, each in measures.items()} for form, measures in found.items()
    }


def _label(name: str, precision: Precision | None, forms: list[str]) -> str:
    """``int8 (.onnx, _trt.onnx)``: which files of one precision."""
    if precision is None:
        return "trained network" if forms == ["reference"] else ", ".join(forms)
    return f"{precision.value} ({', '.join(form.removeprefix(f'{name}_{precision.value}') for form in forms)})"


def _shown_digits(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def worst_measurements(manifest: Manifest) -> list[dict[str, Any]]:
    """Per released file: the worst value of each measure over all inputs.

    PSNR and colour shift are means, and those of an input of one pixel are of no image: they are taken over inputs
    with sides of :data:`~aethernet.comparison.gate.CHANNEL_SHIFT_SIDE` pixels or more, where there are any.
    """
    rows = []
    for entry in manifest.files:
        measured = [item for item in manifest.measurements if item.form.file == entry.path]
        if not measured:
            continue
        large = [item for item in measured if min(item.shape[1:]) >= CHANNEL_SHIFT_SIDE] or measured
        rows.append(
            {
                "file": entry.path,
                "runtime": measured[0].form.runtime,
                "inputs": len(measured),
                "psnr": min((item.psnr for item in large if item.psnr is not None), default=None),
                "max_abs": max((item.max_abs for item in measured if item.max_abs is not None), default=None),
                "level": max((item.levels_largest or 0 for item in measured), default=0),
                "shift": max((abs(v) * 255 for item in large for v in item.signed_mean if v is not None), default=None),
            }
        )
    return rows


def file_use(entry: FileEntry) -> str:
    """Who should take a file."""
    if entry.form in ("training", "merged"):
        return "the trained weights before folding: the reference, for fine-tuning"
    if entry.role == "engine":
        return "NVIDIA cards it was built for; `aethernet engine check` says whether it fits yours"
    kind = "trt.onnx" if entry.path.endswith("_trt.onnx") else entry.path.rpartition(".")[2]
    return _USES.get((kind, entry.precision), "") if entry.precision else ""


def readable_size(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def fill_template(
    what: str, template: Traversable, filters: Mapping[str, Callable[..., Any]], *, html: bool, **values: Any
) -> str:
    """Render a template, with the filters that the card and the report share: ``bytes``, ``number``, ``use``.

    Args:
        what: Which page it is, for the error.
        template: A Jinja template's file.
        filters: Further filters by name.
        html: Escape what is filled in.
        values: What the template sees.

    Raises:
        BundleError: The template needs something the records do not hold.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=html,
    )
    environment.filters.update(bytes=readable_size, number=_number, use=file_use, **filters)
    try:
        return environment.from_string(template.read_text(encoding="utf-8")).render(**values)
    except jinja2.UndefinedError as error:
        raise BundleError(f"{what}'s template asks for something the release does not record: {error}") from error


def _number(value: float | None, form: str, missing: str = "–") -> str:
    return missing if value is None else format(value, form)
