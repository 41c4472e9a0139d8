"""Bookkeeping of the release flow: which files a form consists of, and how each is listed in the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from aethernet.artifact import Artifact
from aethernet.manifest import FileEntry, TensorContract
from aethernet.network.config import Form
from aethernet.precision import Precision
from aethernet.spec import ReleaseSpec
from tasks.benchmark import Contender
from tasks.export import Exported
from tasks.fuse import Weights
from tasks.load import Loaded

__all__ = ["NOT_MADE", "artifact_of", "file_entries", "form_files", "metadata_of"]

NOT_MADE = {Precision.INT8: "this version of aethernet does not make int8 forms yet"}
"""Precision -> why no release has it."""


def metadata_of(spec: ReleaseSpec, reference: Loaded) -> dict[str, str]:
    """What every ONNX file says about itself beside precision, scale and shapes."""
    return {
        "name": spec.name,
        "version": spec.version,
        "network": "AetherNet",
        "source_sha256": reference.facts.sha256,
        "license": spec.license,
    }


def form_files(
    weights: Mapping[Precision, Weights], models: Mapping[Precision, Exported]
) -> list[tuple[Precision, list[Artifact]]]:
    """Every form that computes a picture: its precision, and the files that hold it."""
    forms = [(precision, [one.safetensors, one.pth]) for precision, one in weights.items()]
    return forms + [(precision, [one.file]) for precision, one in models.items()]


def file_entries(
    reference: Loaded,
    released: Sequence[Contender],
    models: Mapping[Precision, Exported],
    config: Artifact,
    images: Mapping[str, Artifact],
) -> list[FileEntry]:
    """The manifest's file list."""
    entries = [
        FileEntry(
            path=reference.weights.name,
            sha256=reference.weights.sha256,
            size=reference.weights.size,
            role="weights",
            precision=Precision.FP32,
            form=reference.facts.form,
        ),
        FileEntry(path="config.json", sha256=config.sha256, size=config.size, role="config"),
    ]
    for one in released:
        if PurePosixPath(one.file.name).suffix == ".onnx":
            entries.append(_onnx_entry(models[one.precision], one.precision))
        else:
            entries.append(
                FileEntry(
                    path=one.file.name,
                    sha256=one.file.sha256,
                    size=one.file.size,
                    role="weights",
                    precision=one.precision,
                    form=Form.FUSED.value,
                )
            )
    entries += [
        FileEntry(path=path, sha256=image.sha256, size=image.size, role="picture") for path, image in images.items()
    ]
    return entries


def _onnx_entry(exported: Exported, precision: Precision) -> FileEntry:
    described = exported.description
    (name, (dtype, shape)), (out_name, (out_dtype, out_shape)) = (*described.inputs.items(), *described.outputs.items())
    return FileEntry(
        path=exported.file.name,
        sha256=exported.file.sha256,
        size=exported.file.size,
        role="onnx",
        precision=precision,
        form=Form.FUSED.value,
        opset=described.opset,
        ir_version=described.ir_version,
        operators=described.operators,
        input=TensorContract(name=name, dtype=dtype, shape=shape),
        output=TensorContract(name=out_name, dtype=out_dtype, shape=out_shape),
        kept_fp32=exported.kept_fp32,
        largest_activation=exported.largest_activation,
    )


def artifact_of(entry: FileEntry) -> Artifact:
    """The artifact a manifest entry lists."""
    return Artifact(name=PurePosixPath(entry.path).name, sha256=entry.sha256, size=entry.size)
