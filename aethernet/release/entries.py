"""The files of a release in the making, and how the manifest lists each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

from aethernet.artifact import Artifact
from aethernet.networks.config import FoldState
from aethernet.precision import Precision
from aethernet.release.manifest import FileEntry, TensorContract

if TYPE_CHECKING:
    from aethernet.graphs.contract import OnnxDescription

__all__ = [
    "OnnxFile",
    "PrecisionFiles",
    "artifact_of",
    "config_entry",
    "engine_entries",
    "image_entries",
    "ncnn_entries",
    "reference_entry",
    "sbom_entry",
]


class OnnxFile(Protocol):
    """An exported ONNX file, as the steps of a release hand it on."""

    @property
    def file(self) -> Artifact:
        """Its content and name."""

    @property
    def description(self) -> OnnxDescription:
        """Its contract and what is in it."""

    @property
    def kept_fp32(self) -> tuple[str, ...]:
        """Operations of an fp16 file that stay fp32."""

    @property
    def largest_activation(self) -> float | None:
        """Largest magnitude seen while choosing them; None for other precisions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionFiles:
    """One precision's files: every one of them is a variant of the network that people can run."""

    precision: Precision
    models: tuple[OnnxFile, ...]
    """ONNX files; the first is the one that speed is measured on, the last the one that engines are built from."""
    weights: tuple[Artifact, ...]
    """Files for PyTorch."""
    fold_state: str = FoldState.FUSED.value
    """How far the files for PyTorch are folded."""

    @property
    def fastest(self) -> Artifact:
        """The ONNX file for ONNX Runtime, which speed is measured on."""
        return self.models[0].file

    @property
    def for_engines(self) -> Artifact:
        """The ONNX file that engines are built from: of int8, the one on TensorRT's grid."""
        return self.models[-1].file

    @property
    def compared_together(self) -> list[list[Artifact]]:
        """The files in the groups that are compared in one step: all of int8's, because they are held against each
        other, too.
        """
        models = [model.file for model in self.models]
        if self.precision is Precision.INT8:
            return [[*models, *self.weights]]
        return [list(self.weights), *([one] for one in models)]

    def entries(self) -> list[FileEntry]:
        """How the manifest lists them."""
        return [
            *(_onnx_entry(model, self.precision) for model in self.models),
            *(_weights_entry(file, self.precision, self.fold_state) for file in self.weights),
        ]


def reference_entry(weights: Artifact, fold_state: str) -> FileEntry:
    """Of the weights that every variant was compared with."""
    return _weights_entry(weights, Precision.FP32, fold_state)


def config_entry(config: Artifact) -> FileEntry:
    """Of ``config.json``."""
    return FileEntry(path="config.json", sha256=config.sha256, size=config.size, role="config")


def image_entries(images: Mapping[str, Artifact]) -> list[FileEntry]:
    """Of images: path in the release -> file."""
    return [
        FileEntry(path=path, sha256=image.sha256, size=image.size, role="picture") for path, image in images.items()
    ]


def engine_entries(engine: Artifact, sidecar: Artifact, precision: Precision) -> list[FileEntry]:
    """Of a TensorRT engine and its fingerprint beside it."""
    return [
        FileEntry(
            path=f"engines/{engine.name}", sha256=engine.sha256, size=engine.size, role="engine", precision=precision
        ),
        FileEntry(
            path=f"engines/{sidecar.name}",
            sha256=sidecar.sha256,
            size=sidecar.size,
            role="engine identity",
            precision=precision,
        ),
    ]


def ncnn_entries(files: Iterable[Artifact], weights: Precision) -> list[FileEntry]:
    """Of the parameter file and the weights of the ncnn form, whose kernels are stored in ``weights``."""
    return [
        FileEntry(
            path=file.name,
            sha256=file.sha256,
            size=file.size,
            role="ncnn",
            precision=weights,
            form=FoldState.FUSED.value,
        )
        for file in files
    ]


def sbom_entry(path: str, sbom: Artifact) -> FileEntry:
    """Of the software bill of materials."""
    return FileEntry(path=path, sha256=sbom.sha256, size=sbom.size, role="bill")


def artifact_of(entry: FileEntry) -> Artifact:
    """The artifact that a manifest's entry lists."""
    return Artifact(name=PurePosixPath(entry.path).name, sha256=entry.sha256, size=entry.size)


def _weights_entry(file: Artifact, precision: Precision, fold_state: str) -> FileEntry:
    return FileEntry(
        path=file.name, sha256=file.sha256, size=file.size, role="weights", precision=precision, form=fold_state
    )


def _onnx_entry(model: OnnxFile, precision: Precision) -> FileEntry:
    described = model.description
    (name, (dtype, shape)), (out_name, (out_dtype, out_shape)) = (*described.inputs.items(), *described.outputs.items())
    return FileEntry(
        path=model.file.name,
        sha256=model.file.sha256,
        size=model.file.size,
        role="onnx",
        precision=precision,
        form=FoldState.FUSED.value,
        opset=described.opset,
        ir_version=described.ir_version,
        operators=described.operators,
        input=TensorContract(name=name, dtype=dtype, shape=shape),
        output=TensorContract(name=out_name, dtype=out_dtype, shape=out_shape),
        kept_fp32=model.kept_fp32,
        largest_activation=model.largest_activation,
    )
