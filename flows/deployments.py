"""Releases as workers make them, for a form in Prefect's UI: a spec by its path, the result in the shared store.

``prefect.yaml`` registers these two, and :mod:`flows.qat_finetune` and :mod:`flows.reverify` as they are. What a form
asks for stands once, in a class of options. Imports are inside, so that registering and scheduling need no PyTorch.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prefect import State, flow
from prefect.states import Completed
from pydantic import BaseModel, Field

from aethernet.precision import Precision

__all__ = ["release_all", "release_on_worker"]

Options = TypeVar("Options", bound=BaseModel)
Result = TypeVar("Result")


class WorkerOptions(BaseModel):
    """What is asked for every release on workers."""

    hub: str | None = Field(
        default=None, description="Where to publish, such as hf://your-organisation; empty: nowhere."
    )
    private: bool = Field(
        default=False, description="Whether a repository that has to be made is for invited readers only."
    )
    store: str | None = Field(
        default=None,
        description="The store all workers share, such as s3://bucket/prefix; "
        "empty: the worker's AETHERNET_STORE or cache.",
    )
    output: str = Field(default="out", description="Folder on the worker in which release folders are put.")


class ReleaseOptions(WorkerOptions):
    """One release."""

    spec: str = Field(
        default="releases/aether_tiny_2x",
        description="The release's folder or release.toml, in the worker's checkout or anywhere it can read.",
    )
    precisions: list[Precision] | None = Field(
        default=None, description="Precisions that must be made and pass; empty: all that can be made."
    )
    sign_key: str | None = Field(
        default=None,
        description="PEM private key on the worker to sign with; its password in AETHERNET_KEY_PASSWORD.",
    )


class ReleaseAllOptions(WorkerOptions):
    """The releases of a folder."""

    folder: str = Field(
        default="releases",
        description="Folder with NAME/release.toml in it, in the worker's checkout or anywhere it can read.",
    )
    work_pool: str = Field(
        default="aethernet",
        description="Whose workers make the releases; one of them is busy waiting for the others.",
    )


def _asking(options: type[Options]) -> Callable[[Callable[[Options], Result]], Callable[..., Result]]:
    """Makes a function of one options object one of its fields, with the descriptions that Prefect's form shows."""

    def spread(function: Callable[[Options], Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def call(**given: Any) -> Result:
            return function(options(**given))

        own = options.__annotations__  # first in the form, what all have in common last
        fields = sorted(options.model_fields.items(), key=lambda item: item[0] not in own)
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what inspect, and so Prefect, looks for
            [
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation
                )
                for name, field in fields
            ]
        )
        described = "\n".join(f"    {name}: {field.description}" for name, field in fields)
        call.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:\n{described}\n"
        return call

    return spread


def _run_name() -> str:
    from prefect import runtime

    from flows.packing import named_in

    return f"release {named_in(runtime.flow_run.parameters['spec'])}"


@flow(name="release", flow_run_name=_run_name, persist_result=False)
@_asking(ReleaseOptions)
def release_on_worker(options: ReleaseOptions) -> State:
    """Make, prove, assemble, sign and publish one release."""
    from prefect import runtime

    from aethernet.release.signing import Signer
    from aethernet.release.spec import make_spec
    from flows.packing import is_packed, opened_spec, pack_bundle
    from flows.release import release
    from flows.running import opened_store, summarised
    from flows.session import limited, located

    artifacts = opened_store(options.store)
    signer = Signer(private_key=Path(options.sign_key)) if options.sign_key else None
    where = options.spec if is_packed(options.spec) else str(located(Path(options.spec)))
    with opened_spec(where, artifacts) as spec, limited("aethernet-releases"):
        if options.precisions:
            spec = make_spec({**spec.model_dump(exclude_unset=True), "precisions": options.precisions})
        output = Path(options.output).absolute()
        outcome, summary = summarised(
            artifacts,
            spec,
            lambda: release.fn(spec, output, options.hub, signer, options.private),
            run=str(runtime.flow_run.id),
        )
        # Results of runs are not kept by Prefect; this one is a line of text and a folder in the store.
        packed = pack_bundle(outcome.bundle, artifacts)
    published = f", published as {summary['published']}" if summary["published"] else ""
    return Completed(message=f"{spec.name} {spec.version} is {packed}{published}")


@flow(name="release-all", flow_run_name="release-all {folder}", persist_result=False)
@_asking(ReleaseAllOptions)
def release_all(options: ReleaseAllOptions) -> None:
    """Release every spec of a folder, each as a run of its own on the workers of a pool."""
    from aethernet.errors import AethernetError
    from flows.release_all import read_specs, release_on_workers
    from flows.running import opened_store
    from flows.session import located

    specs, unreadable = read_specs(located(Path(options.folder)))
    given = {"hub": options.hub, "private": options.private}
    results = unreadable + release_on_workers(
        specs, opened_store(options.store), Path(options.output), given, options.work_pool
    )
    failed = [f"{result.name}: {result.error}" for result in results if result.error]
    if failed:
        raise AethernetError(f"{len(failed)} of {len(results)} releases failed: " + "; ".join(failed))
