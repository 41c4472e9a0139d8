"""Every error a user can meet, one class per kind of trouble.

A message says what was expected and what was found; ``hint`` says what to do next. ``cli.main`` and ``python -m flows``
print both and choose the exit code: 2 where the call itself was wrong (:class:`UsageError`), 1 for everything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from aethernet.install import EXTRAS, requirement


class AethernetError(Exception):
    """Base of all errors raised on purpose."""

    hint: str = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        if hint:
            self.hint = hint

    @property
    def reason(self) -> str:
        """Message and hint in one line, for records of what could not be made."""
        return f"{self} ({self.hint})" if self.hint else str(self)


class UsageError(AethernetError):
    """The command or the spec asks for something that cannot be."""


class MissingDependencyError(AethernetError):
    """An optional library is needed and not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"this step needs the Python package '{module}', which is not installed",
            hint=f"install it with: pip install '{requirement(extra)}'",
        )
        self.module = module
        self.extra = extra

    @property
    def reason(self) -> str:
        """Without the hint, which names a place on this machine."""
        return f"{self} (extra '{self.extra}')"


def named_extra(error: BaseException) -> BaseException:
    """An import that failed because an extra is not installed, as the error that says which; any other as it is."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return error
    module = error.name.partition(".")[0]
    return MissingDependencyError(module, EXTRAS[module]) if module in EXTRAS and not find_spec(module) else error


# --- checkpoints -----------------------------------------------------------------------------------------------------


class CheckpointError(AethernetError):
    """A checkpoint cannot be used."""


class NotACheckpointError(CheckpointError):
    """The file is not a PyTorch or safetensors checkpoint at all."""

    hint = "give a .pth, .pt, .ckpt or .safetensors file as the training framework saved it"


class TruncatedCheckpointError(CheckpointError):
    """The file starts like a checkpoint and ends too early or is damaged inside."""

    hint = "download or copy the file again and compare its size and sha256 with the source"


class UnsafeCheckpointError(CheckpointError):
    """The file would have to run code to be read. Nothing was executed."""

    hint = "ask the author for a state dict saved as .safetensors; this tool never unpickles code"


class UnknownNetworkError(CheckpointError):
    """The tensors do not belong to a network this version knows."""

    hint = (
        "known are AetherNet generations 1, 2 and 3, and what spandrel recognises; "
        "check that the file holds the generator (net_g), not a discriminator or an optimizer state"
    )


class KeyMismatchError(CheckpointError):
    """Tensors are missing, superfluous or of another shape or type than the network needs."""

    hint = "the file was changed after training or belongs to another variant; use the file as the trainer saved it"

    def __init__(self, missing: Iterable[str], unexpected: Iterable[str], misshapen: Iterable[str] = ()) -> None:
        self.missing = sorted(missing)
        self.unexpected = sorted(unexpected)
        self.misshapen = sorted(misshapen)
        parts = [
            f"{len(names)} {label}: {', '.join(names)}"
            for label, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of the wrong shape or type", self.misshapen),
            )
            if names
        ]
        super().__init__("the checkpoint's tensors do not fit the network; " + "; ".join(parts))


class NonFiniteWeightsError(CheckpointError):
    """A weight is NaN or infinite."""

    hint = "the training run diverged; take an earlier checkpoint"

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted(names)
        super().__init__(f"expected finite weights, found NaN or infinity in {', '.join(self.names)}")


class HalfFusedError(CheckpointError):
    """Some blocks hold merged kernels and others the training branches."""

    hint = "fuse the whole network or none of it; best start from the training checkpoint"

    def __init__(self, fused: Iterable[str], unfused: Iterable[str]) -> None:
        self.fused = sorted(fused)
        self.unfused = sorted(unfused)
        super().__init__(
            "expected all large kernels in one form; "
            f"{len(self.fused)} are merged ({', '.join(self.fused)}) "
            f"and {len(self.unfused)} are not ({', '.join(self.unfused)})"
        )


class SpecMismatchError(CheckpointError):
    """The spec states one thing about the checkpoint, the file says another."""

    hint = "correct the spec, or use the checkpoint it was written for"


# --- stages ----------------------------------------------------------------------------------------------------------


class FusionError(AethernetError):
    """A network could not be folded completely."""


class QuantizationError(AethernetError):
    """A network cannot be quantised as asked."""


class CalibrationError(QuantizationError):
    """There is nothing to take ranges from; int8 is left out rather than invented."""

    hint = "give images with --images, or a checkpoint with records of quantisation-aware training"


class ExportError(AethernetError):
    """An exported file breaks its contract."""


class ComparisonError(AethernetError):
    """A comparison could not be carried out (bad numbers never raise this; the gate judges them)."""


class BenchmarkError(AethernetError):
    """A form cannot be timed here."""


class GateError(AethernetError):
    """At least one form that must pass missed its limits. ``table`` holds every measurement."""

    hint = "nothing was published; the table lists every form, image and size, the forms stay in the store for study"

    def __init__(self, message: str, table: str) -> None:
        super().__init__(message)
        self.table = table


class ImageError(AethernetError):
    """An image cannot be read or written as asked."""


class VideoError(AethernetError):
    """A video cannot be read or written as asked."""


class UpscaleError(AethernetError):
    """A network cannot be run on what it was given."""


class WebError(AethernetError):
    """A page that runs a release in the browser cannot be made."""


class SpecError(UsageError):
    """A release spec is not valid."""


class StoreError(AethernetError):
    """The content-addressed store cannot hold or give back a file."""


class UnreachableStoreError(StoreError):
    """The object storage behind a shared store does not answer, or not to us."""


class EngineError(AethernetError):
    """An engine cannot be built, or is not what its identity says."""


class BuilderError(EngineError):
    """The builder refused, crashed, ran out of memory or out of time. ``log`` holds what it said."""

    def __init__(self, message: str, *, log: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.log = log


class EngineMismatchError(EngineError):
    """An engine was built for something else: another library, GPU, system or ONNX file."""


class BundleError(AethernetError):
    """A release folder is not what its manifest says, or is unsafe to touch."""

    hint = "download the release again; if this is your own build, run the release flow again"


class SignatureError(BundleError):
    """A release is not signed as it must be, or its signature is not for this content."""

    hint = "do not use these files; ask whoever published them, or check that this is the right key or identity"


class HubError(AethernetError):
    """A hub refused, or gave an answer that makes no sense."""


class UnreachableError(HubError):
    """A hub does not answer, breaks off, or says that it is busy: the one kind of trouble worth trying again."""

    hint = "try again later: finished files are kept and not sent again"

    def __init__(self, message: str, *, wait: float | None = None, final: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        """Seconds the hub asked to wait, or None."""
        self.final = final
        """Whether it was tried again already, or cannot pass by itself."""


class ConflictError(HubError):
    """Somebody else changed the place at the same time; nothing of theirs was overwritten."""

    hint = "run the same command again: it starts from what is there now"


class AlreadyPublishedError(HubError):
    """Another release already stands under this name and version."""

    hint = "a published version is never changed; raise `version` in the spec"


class TrainingError(AethernetError):
    """Training cannot start or go on."""
