"""What lint has to report about one file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["LintFinding", "LintReport", "Macs", "Severity", "Signedness", "lint_error", "lint_warning"]


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"


class Signedness(StrEnum):
    """Which of the two int8 files one claims to be."""

    UNSIGNED = "unsigned"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFinding:
    """One broken rule at one place."""

    severity: Severity
    rule: str
    message: str
    """Names the place, then what was expected, what was found and, where it is not plain, what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Macs:
    """Multiply-accumulates of the quantised layers for one small image."""

    quantised_total: int
    """Of all layers with int8 weights."""
    integer: int | None
    """Of those that ONNX Runtime runs in integer kernels; None where it was not asked."""
    left_float: tuple[str, ...] = ()
    """Layers with int8 weights that it runs in float."""

    @property
    def share(self) -> float | None:
        """``integer`` over ``quantised_total``; None where ONNX Runtime was not asked or there is nothing to count."""
        if self.integer is None or not self.quantised_total:
            return None
        return self.integer / self.quantised_total


@dataclass(frozen=True, slots=True, kw_only=True)
class LintReport:
    """What was found in one file."""

    file: str
    form: Signedness | None
    """None where no activation is quantised."""
    layers: dict[str, tuple[int, int]]
    """Conv, MatMul and Gemm -> how many have int8 weights and input, and how many have not."""
    quantize_nodes: int
    dequantize_nodes: int
    findings: tuple[LintFinding, ...]
    macs: Macs | None
    """None where nothing is quantised, or shapes do not follow from the file."""

    @property
    def ok(self) -> bool:
        """Whether there are no errors; warnings do not count."""
        return all(finding.severity is not Severity.ERROR for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        macs = self.macs
        return {
            "ok": self.ok,
            "file": self.file,
            "form": self.form and self.form.value,
            "layers": {kind: {"quantised": of[0], "float": of[1]} for kind, of in self.layers.items()},
            "quantize_nodes": self.quantize_nodes,
            "dequantize_nodes": self.dequantize_nodes,
            "macs": macs
            and {
                "quantised_total": macs.quantised_total,
                "integer": macs.integer,
                "share": macs.share,
                "left_float": list(macs.left_float),
            },
            "findings": [
                {"severity": one.severity.value, "rule": one.rule, "message": one.message} for one in self.findings
            ],
        }


def lint_error(rule: str, message: str) -> LintFinding:
    """A finding that makes a file unfit."""
    return LintFinding(severity=Severity.ERROR, rule=rule, message=message)


def lint_warning(rule: str, message: str) -> LintFinding:
    """A finding that some runtime may mind."""
    return LintFinding(severity=Severity.WARNING, rule=rule, message=message)
