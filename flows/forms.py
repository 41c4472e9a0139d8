"""Bookkeeping of the release flow: which files a form consists of, and how each is listed in the manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from aethernet.artifact import Artifact
from aethernet.engines.identity import EngineSpeed
from aethernet.networks.config import FoldState
from aethernet.networks.sizes import SizeRequirements
from aethernet.precision import Precision
from aethernet.release.manifest import FileEntry, QuantizationFacts, TensorContract
from aethernet.release.spec import EngineSpec, ReleaseSpec
from tasks.build import EngineOutcome
from tasks.compare import Compared
from tasks.export import Exported
from tasks.fuse import Weights
from tasks.load import LoadedCheckpoint
from tasks.quantize import Int8, Int8Model
from tasks.sensitivity import FloatParts

__all__ = [
    "FormFiles",
    "artifact_of",
    "engine_measurements",
    "engine_models",
    "engine_profiles",
    "engine_speeds",
    "file_entries",
    "int8_files",
    "metadata_of",
    "plain_files",
    "quantization_facts",
    "runs_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FormFiles:
    """One precision's files."""

    precision: Precision
    models: tuple[Exported, ...]
    """ONNX files; the first is the one that speed is measured on."""
    weights: tuple[Artifact, ...]
    """Files for PyTorch."""
    form: str = FoldState.FUSED.value
    """How far the files for PyTorch are folded."""

    @property
    def all(self) -> list[Artifact]:
        """Every file, ONNX first."""
        return [*(model.file for model in self.models), *self.weights]


def metadata_of(spec: ReleaseSpec, reference: LoadedCheckpoint) -> dict[str, str]:
    """What every ONNX file says about itself beside precision, scale and shapes."""
    return {
        "name": spec.name,
        "version": spec.version,
        "network": reference.architecture,
        "source_sha256": reference.facts.sha256,
        "license": spec.license,
    }


def plain_files(precision: Precision, weights: Weights, model: Exported) -> FormFiles:
    """The files of fp32 or fp16."""
    return FormFiles(
        precision=precision, models=(model,), weights=(weights.safetensors, weights.pth), form=weights.form
    )


def int8_files(int8: Int8, models: Sequence[Int8Model]) -> FormFiles | str:
    """The files of int8, or why there is no such form: it comes whole or not at all."""
    reasons = [one.reason for one in (int8, *models) if one.reason is not None]
    if reasons:
        return "; ".join(reasons)
    exported = [Exported(file=one.file, description=one.description) for one in models if one.file and one.description]
    weights = [one for one in (int8.safetensors, int8.pth) if one is not None]
    return FormFiles(precision=Precision.INT8, models=tuple(exported), weights=tuple(weights))


def runs_of(forms: Iterable[FormFiles]) -> list[tuple[Precision, list[Artifact]]]:
    """What is compared together: int8's files also with each other."""
    runs: list[tuple[Precision, list[Artifact]]] = []
    for form in forms:
        if form.precision is Precision.INT8:
            runs.append((form.precision, form.all))
        else:
            runs += [(form.precision, list(form.weights)), *((form.precision, [one.file]) for one in form.models)]
    return runs


def quantization_facts(int8: Int8 | None, models: Sequence[Int8Model], choice: FloatParts) -> QuantizationFacts | None:
    """What the manifest says about the int8 form."""
    if int8 is None or int8.facts is None:
        return None
    shares = [one.integer_share for one in models if one.integer_share is not None]
    return int8.facts.model_copy(update={"integer_share": min(shares, default=None), "sensitivity": choice.facts})


def engine_models(released: Iterable[FormFiles]) -> dict[Precision, Artifact]:
    """The ONNX file that engines of each form are built from: the last one, which for int8 is TensorRT's."""
    return {form.precision: form.models[-1].file for form in released}


def engine_profiles(spec: EngineSpec, size: SizeRequirements, static: tuple[int, int] | None) -> EngineSpec:
    """The spec with input shapes that the network takes, where it does not take all."""
    size = dataclasses.replace(size, fixed=static)
    if size.none:
        return spec
    texts = []
    for profile in spec.parsed_profiles:
        shapes = [profile.minimum, profile.optimum, profile.maximum]
        fits = [(batch, *(static or size.fit(height, width))) for batch, height, width in shapes]
        texts.append(":".join("x".join(map(str, (1, *shape[1:]) if static else shape)) for shape in fits))
    return spec.model_copy(update={"profiles": tuple(dict.fromkeys(texts))})


def engine_speeds(engines: Iterable[EngineOutcome]) -> dict[str, tuple[EngineSpeed, ...]]:
    """How fast engines ran, where they ran."""
    return {one.engine.name: one.trial.speeds for one in engines if one.engine and one.trial}


def engine_measurements(engines: Iterable[EngineOutcome]) -> list[Compared]:
    """What engines that ran computed, beside the measurements of all other files."""
    return [Compared(measurements=list(one.trial.measurements), quality=[]) for one in engines if one.trial]


def file_entries(
    reference: LoadedCheckpoint,
    released: Sequence[FormFiles],
    config: Artifact,
    images: Mapping[str, Artifact],
    engines: Sequence[EngineOutcome],
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
    for form in released:
        entries += [_onnx_entry(model, form.precision) for model in form.models]
        entries += [
            FileEntry(
                path=file.name,
                sha256=file.sha256,
                size=file.size,
                role="weights",
                precision=form.precision,
                form=form.form,
            )
            for file in form.weights
        ]
    for engine in engines:
        for file, role in ((engine.engine, "engine"), (engine.sidecar, "engine identity")):
            if file is not None:
                entries.append(
                    FileEntry(
                        path=f"engines/{file.name}",
                        sha256=file.sha256,
                        size=file.size,
                        role=role,  # type: ignore[arg-type]  # mypy widens literals of a tuple
                        precision=engine.entry.precision,
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
        form=FoldState.FUSED.value,
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
