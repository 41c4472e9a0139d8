"""``python -m flows release`` and ``release-all``: from specs to releases."""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from aethernet.cli.application import ENVIRONMENT
from aethernet.cli.interruption import keeps
from aethernet.cli.options import AsJson, PublishOptions, ResidualScale, StoreAddress, split_list
from aethernet.cli.output import emit_json, say, write_text
from aethernet.errors import GateError, UsageError
from flows.session import embedded_server

if TYPE_CHECKING:
    from aethernet.release.signing import Signer
    from aethernet.release.spec import ReleaseSpec
    from aethernet.store.store import Store
    from flows.outcome import Outcome
    from flows.preflight import Findings

__all__ = ["Runner", "SpecOptions", "release", "release_all"]

Output = Annotated[Path, typer.Option(help="Folder in which the release folder NAME is put.")]


class Runner(enum.StrEnum):
    """What runs the releases of ``release-all``."""

    PROCESSES = "processes"
    DASK = "dask"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecOptions:
    """What is released, over a spec or without one; fields of :class:`aethernet.release.spec.ReleaseSpec`."""

    PANEL: ClassVar[str] = "What is released"

    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint, a file or an address (https://…), instead of a spec.")
    ] = None
    checkpoint_sha256: Annotated[str | None, typer.Option(help="Digest the checkpoint must have.")] = None
    name: Annotated[str | None, typer.Option(help="Name of the release.")] = None
    images: Annotated[Path | None, typer.Option(help="Folder of validation images (LR).")] = None
    hr: Annotated[Path | None, typer.Option(help="Folder of their HR partners, paired by file stem.")] = None
    version: Annotated[str | None, typer.Option(help="Version of the release (default 1.0.0).")] = None
    license: Annotated[str | None, typer.Option(help="Licence of the weights (default unknown).")] = None
    precisions: Annotated[
        str | None, typer.Option(help="Forms that must be made and pass, such as fp32,fp16 (default: all that can be).")
    ] = None
    residual_scale: ResidualScale = None

    @property
    def remote(self) -> bool:
        """Whether the checkpoint has to be fetched."""
        if self.checkpoint is None or "://" not in self.checkpoint:
            return False  # without the import below, which brings PyTorch along
        from aethernet.checkpoint.remote import is_remote

        return is_remote(self.checkpoint)

    def require_with(self, spec: Path | None) -> None:
        """Holds that one thing is released.

        Raises:
            UsageError: Neither or both of a spec and a checkpoint are given.
        """
        if spec is None and (self.checkpoint is None or self.name is None):
            raise UsageError("expected a spec, or --checkpoint and --name", hint="python -m flows release --help")
        if spec is not None and self.checkpoint is not None:
            raise UsageError("expected a spec or --checkpoint, found both")

    def given(self) -> dict[str, Any]:
        """What was said, as the spec has it; paths are absolute."""
        said: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        said["precisions"] = split_list(self.precisions) or None
        if self.checkpoint is not None:
            said |= {"origin": self.checkpoint} if self.remote else {"checkpoint": Path(self.checkpoint)}
        return {
            key: value.absolute() if isinstance(value, Path) else value
            for key, value in said.items()
            if value is not None
        }


def release(
    options: SpecOptions,
    publishing: PublishOptions,
    spec: Annotated[
        Path | None,
        typer.Argument(help="release.toml, or the folder that holds it.", envvar=f"{ENVIRONMENT}_RELEASE_SPEC"),
    ] = None,
    output: Output = Path("out"),
    table: Annotated[
        Path | None, typer.Option(help="Write the comparison table (Markdown) there, also when the gate stays shut.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run the flow also where everything is known to be unchanged.")
    ] = False,
    store: StoreAddress = None,
    as_json: AsJson = False,
) -> None:
    """Make, prove, assemble, sign and publish one release."""
    from aethernet.store.store import Store
    from flows.preflight import Findings

    options.require_with(spec)
    artifacts = Store(store)
    keeps(f"finished steps are kept in {artifacts.address}; the same command goes on behind them")
    findings, signer = Findings(), None
    with findings.noting():
        signer = publishing.signer()
    with _final_spec(spec, options, artifacts) as final, _tabled(table):
        outcome, summary = _released(final, output, publishing, artifacts, signer, findings, fresh=fresh)
    if table is not None:
        from aethernet.comparison import measurement_table

        manifest = outcome.manifest
        write_text(table, measurement_table(manifest.measurements, manifest.quality, manifest.limits))
    if as_json:
        emit_json(summary)
    else:
        print(outcome.bundle)
        _next_steps(outcome)


def _released(
    spec: ReleaseSpec,
    output: Path,
    publishing: PublishOptions,
    store: Store,
    signer: Signer | None,
    findings: Findings,
    *,
    fresh: bool,
) -> tuple[Outcome, dict[str, Any]]:
    """The outcome and its summary, of a run or of the one that is known to have changed nothing since."""
    from flows.preflight import look_first
    from flows.unchanged import known_release, release_key, remember_release

    key = ""
    if not findings:  # without its signing key the release cannot be one that is known
        code = Path(__file__).resolve().parents[2]
        key = release_key(spec, output, publishing.hub, signer, publishing.private, code=code)
        if not fresh and (known := known_release(store, key, signer)) is not None:
            say(f"{spec.name}  nothing has changed since its last run")
            return known.outcome, known.summary
    look_first(spec, output, publishing.hub, store, findings)
    findings.require_none()
    with embedded_server(_import_libraries):
        from flows.release import release as flow
        from flows.running import summarised

        outcome, summary = summarised(
            store, spec, lambda: flow(spec, output.absolute(), publishing.hub, signer, publishing.private)
        )
    remember_release(store, key, outcome, summary)
    return outcome, summary


def release_all(
    publishing: PublishOptions,
    folder: Annotated[Path, typer.Argument(help="Folder with NAME/release.toml in it.")] = Path("releases"),
    output: Output = Path("out"),
    jobs: Annotated[int, typer.Option(min=1, help="Releases at a time, on this machine.")] = 2,
    work_pool: Annotated[
        str | None, typer.Option(help="Let this pool's workers make them; --output is here, keys are on the workers.")
    ] = None,
    runner: Annotated[
        Runner, typer.Option(help="Who runs them: processes of this machine, or workers of Dask's.")
    ] = Runner.PROCESSES,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Dask scheduler that runs already, such as tcp://host:8786 (default: one of --jobs processes here)."
        ),
    ] = None,
    store: StoreAddress = None,
    as_json: AsJson = False,
) -> None:
    """Release every spec in a folder; one failure does not stop the others, and makes the exit code 1."""
    from aethernet.store.store import Store
    from flows.release_all import read_specs, release_on_workers
    from flows.release_all import release_all as flow

    _require_one_place(publishing, work_pool, runner, scheduler)
    specs, results = read_specs(folder)
    artifacts = Store(store)
    keeps(f"what is finished is kept in {artifacts.address}; the same command goes on behind them")
    if work_pool is not None:
        key = publishing.sign_key
        parameters = {"hub": publishing.hub, "private": publishing.private, "sign_key": str(key) if key else None}
        results += release_on_workers(specs, artifacts, output.absolute(), parameters, work_pool)
    else:
        with embedded_server():
            if runner is Runner.DASK:
                from flows.dask import release_on_dask

                arguments = publishing.arguments()
                results += release_on_dask(specs, artifacts, output.absolute(), arguments, jobs, scheduler)
            else:
                places = ["--output", str(output), "--store", artifacts.address]
                results += flow(specs, [*places, *publishing.arguments()], jobs)
    if as_json:
        emit_json([result.model_dump(mode="json") for result in results])
    else:
        for result in results:
            outcome = "failed" if result.error else "released"
            print(f"{result.name}\t{outcome}\t{result.error or result.bundle}")
    if any(result.error for result in results):
        raise typer.Exit(1)


@contextlib.contextmanager
def _final_spec(path: Path | None, options: SpecOptions, store: Store) -> Iterator[ReleaseSpec]:
    """The spec with the options over it; what had to be fetched is there for the time of the block."""
    from aethernet.release.spec import make_spec
    from flows.packing import opened_spec

    with contextlib.ExitStack() as opened:
        said = options.given()
        if path is not None:
            # What another machine has put into the store instead of a path, too.
            read = opened.enter_context(opened_spec(str(path), store))
            said = {**read.model_dump(exclude_unset=True), **said}
        if options.remote:
            from aethernet.checkpoint.remote import fetched_file

            said["checkpoint"] = opened.enter_context(fetched_file(options.checkpoint or "", options.checkpoint_sha256))
        yield make_spec(said)


def _require_one_place(
    publishing: PublishOptions, work_pool: str | None, runner: Runner, scheduler: str | None
) -> None:
    if scheduler is not None and runner is not Runner.DASK:
        raise UsageError("expected --runner dask with --scheduler")
    if work_pool is not None and runner is Runner.DASK:
        raise UsageError("expected --work-pool or --runner dask, found both: Prefect's workers or Dask's")
    if work_pool is not None and (publishing.sign_certificate or publishing.sign_chain or publishing.sigstore):
        raise UsageError("expected --sign-key alone: workers sign with a key of theirs")


def _import_libraries() -> None:
    """What nearly every release needs, and takes seconds to import."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch  # noqa: F401

    import flows.release  # noqa: F401


def _next_steps(outcome: Outcome) -> None:
    for form in outcome.manifest.forms:
        reason = f": {form.reason}" if form.reason else ""
        say(f"{form.precision.value}: {form.status}{reason}")
    if outcome.publication and outcome.verified:
        state = "was already published as" if outcome.publication.already_there else "published as"
        say(f"{state} {outcome.publication.address}; fetched afresh and verified")
        say(outcome.verified.signature)
    if outcome.site:
        say(f"to try it in the browser: python -m http.server --directory {os.path.relpath(outcome.site)}")
    say(f"next: aethernet verify {os.path.relpath(outcome.bundle)}")


@contextlib.contextmanager
def _tabled(table: Path | None) -> Iterator[None]:
    """Keeps the table of a gate that stays shut, and shows it in the summary of a GitHub Actions job."""
    from flows.actions import summarize

    try:
        yield
    except GateError as error:
        summarize(f"# Not released\n\n{error}\n\n{error.table}")
        if table is not None:
            write_text(table, error.table)
        raise
