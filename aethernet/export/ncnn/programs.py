"""Which programs can run an ncnn file: each was built with some of ncnn's layers, and asks for blobs by name.

The table is ``programs.toml``, taken from the programs' build files; source and date stand beside each.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from aethernet.graphs.ncnn import NcnnModel, read_param

__all__ = ["Fitness", "NcnnLintReport", "Program", "fitness", "known_programs", "lint_ncnn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program that runs ncnn files."""

    name: str
    source: str
    """Address of its repository."""
    file: str
    """File in it that the layers were read from."""
    commit: str
    date: date
    """Day of that commit."""
    blobs: tuple[str, ...]
    """Input and output it asks for; empty where it takes them from the file."""
    margin: int
    """Pixels around its tiles; 0 where it has no fixed margin."""
    note: str
    lacks: frozenset[str] = frozenset()
    """Layers it was built without, in lower case."""
    knows: frozenset[str] = frozenset()
    """All layers it takes, in lower case; empty where ``lacks`` says it."""

    def missing(self, model: NcnnModel) -> tuple[str, ...]:
        """Kinds of layers in ``model`` that it has not, sorted."""
        return tuple(
            kind
            for kind in model.kinds
            if kind.lower() in self.lacks or (self.knows and kind.lower() not in self.knows)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitness:
    """Whether one program runs one file."""

    program: Program
    missing: tuple[str, ...]
    """Layers it was built without."""
    blobs: tuple[str, ...]
    """Input and output it asks for and the file has not."""

    @property
    def runs(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing and not self.blobs

    def __str__(self) -> str:
        """One line, such as ``realesrgan-ncnn-vulkan: no, lacks ConvolutionDepthWise, Swish``."""
        if self.runs:
            return f"{self.program.name}: yes ({self.program.note})"
        reasons = [f"lacks {', '.join(self.missing)}"] if self.missing else []
        reasons += [f"asks for blobs {' and '.join(self.program.blobs)}"] if self.blobs else []
        return f"{self.program.name}: no, {'; '.join(reasons)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NcnnLintReport:
    """What is to say about one parameter file."""

    file: str
    kinds: dict[str, int]
    """Count by kind of layer."""
    programs: tuple[Fitness, ...]

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "file": self.file,
            "layers": self.kinds,
            "programs": [
                {
                    "name": one.program.name,
                    "runs": one.runs,
                    "missing": list(one.missing),
                    "blobs": list(one.blobs),
                    "source": one.program.source,
                    "commit": one.program.commit,
                    "date": one.program.date.isoformat(),
                }
                for one in self.programs
            ],
        }


@cache
def known_programs() -> tuple[Program, ...]:
    """Every program of the table, in its order."""
    table = tomllib.loads((files("aethernet.export.ncnn") / "programs.toml").read_text(encoding="utf-8"))
    return tuple(
        Program(
            **{
                **entry,
                "blobs": tuple(entry["blobs"]),
                "lacks": frozenset(entry.get("lacks", ())),
                "knows": frozenset(entry.get("knows", ())),
            }
        )
        for entry in table["program"]
    )


def fitness(model: NcnnModel) -> tuple[Fitness, ...]:
    """For each known program, whether it runs ``model`` and what is missing."""
    ends = (*model.inputs[:1], *model.outputs[:1])
    return tuple(
        Fitness(
            program=program,
            missing=program.missing(model),
            blobs=tuple(blob for blob in program.blobs if blob not in ends),
        )
        for program in known_programs()
    )


def lint_ncnn(path: Path | str) -> NcnnLintReport:
    """Hold a parameter file, ours or another tool's, against every known program.

    Raises:
        ExportError: It is not a parameter file.
    """
    model = read_param(path)
    return NcnnLintReport(file=Path(path).name, kinds=model.kinds, programs=fitness(model))
