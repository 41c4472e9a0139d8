"""What workers run: the flows with parameters that a form in Prefect's UI can hold, as ``prefect.yaml`` registers them.

Imports are inside, so that registering and scheduling need no PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from prefect import State, flow
from prefect.states import Completed

from aethernet.precision import Precision

__all__ = ["qat_finetune", "release", "release_all", "reverify"]


def _run_name() -> str:
    from prefect import runtime

    from flows.packing import named_in

    return f"release {named_in(runtime.flow_run.parameters['spec'])}"


@flow(name="release", flow_run_name=_run_name, persist_result=False)
def release(
    spec: str = "releases/aether_tiny_2x",
    precisions: list[Precision] | None = None,
    hub: str | None = None,
    private: bool = False,
    store: str | None = None,
    output: str = "out",
    sign_key: str | None = None,
) -> State:
    """Make, prove, assemble, sign and publish one release.

    Args:
        spec: The release's folder or release.toml, in the worker's checkout or anywhere it can read.
        precisions: Forms that must be made and pass; empty: all that can be made.
        hub: Where to publish, such as hf://your-organisation; empty: nowhere.
        private: Whether a repository that has to be made is for invited readers only.
        store: The store all workers share, such as s3://bucket/prefix; empty: the worker's AETHERNET_STORE or cache.
        output: Folder on the worker in which the release folder is put.
        sign_key: PEM private key on the worker to sign with; its password in AETHERNET_KEY_PASSWORD.
    """
    from prefect import runtime

    from aethernet.release.signing import Signer
    from aethernet.release.spec import make_spec
    from flows.deploying import located
    from flows.packing import opened_spec, pack_bundle
    from flows.release import release as make
    from flows.running import opened_store, summarised
    from flows.session import limited

    artifacts = opened_store(store)
    signer = Signer(private_key=Path(sign_key)) if sign_key else None
    with opened_spec(located(spec), artifacts) as read, limited("aethernet-releases"):
        chosen = make_spec({**read.model_dump(exclude_unset=True), "precisions": precisions}) if precisions else read
        outcome, summary = summarised(
            artifacts,
            chosen,
            lambda: make.fn(chosen, Path(output).absolute(), hub, signer, private),
            run=str(runtime.flow_run.id),
        )
        # Results of runs are not kept by Prefect; this one is a line of text and a folder in the store.
        packed = pack_bundle(outcome.bundle, artifacts)
    published = f", published as {summary['published']}" if summary["published"] else ""
    return Completed(message=f"{chosen.name} {chosen.version} is {packed}{published}")


@flow(name="release-all", flow_run_name="release-all {folder}", persist_result=False)
def release_all(
    folder: str = "releases",
    hub: str | None = None,
    private: bool = False,
    store: str | None = None,
    output: str = "out",
    work_pool: str = "aethernet",
) -> None:
    """Release every spec of a folder, each as a run of its own on the workers of a pool.

    Args:
        folder: Folder with NAME/release.toml in it, in the worker's checkout or anywhere it can read.
        hub: Where to publish, such as hf://your-organisation; empty: nowhere.
        private: Whether repositories that have to be made are for invited readers only.
        store: The store all workers share, such as s3://bucket/prefix; empty: the worker's AETHERNET_STORE.
        output: Folder on this worker in which the release folders are put.
        work_pool: Whose workers make the releases; one of them is busy waiting for the others.
    """
    from aethernet.errors import AethernetError
    from flows.deploying import located
    from flows.release_all import read_specs, release_on_workers
    from flows.running import opened_store

    specs, unreadable = read_specs(Path(located(folder)))
    results = unreadable + release_on_workers(
        specs, opened_store(store), Path(output), {"hub": hub, "private": private}, work_pool
    )
    failed = [f"{result.name}: {result.error}" for result in results if result.error]
    if failed:
        raise AethernetError(f"{len(failed)} of {len(results)} releases failed: " + "; ".join(failed))


@flow(name="qat-finetune", flow_run_name="qat-finetune {checkpoint}", persist_result=False)
def qat_finetune(
    checkpoint: str,
    images: str,
    output: str = "runs/finetuned_qat.safetensors",
    validation: str | None = None,
    steps: int = 500,
    learning_rate: float = 0.02,
    patch: int = 40,
    batch: int = 4,
    octaves: int = 1,
    seed: int = 0,
    keep_float: list[str] | None = None,
    residual_scale: float | None = None,
    device: Literal["cpu", "cuda"] | None = None,
) -> None:
    """Fine-tune a network for int8 without originals; the same parameters continue an interrupted run.

    Args:
        checkpoint: Float checkpoint, a file the worker can read.
        images: Folder of pictures as the network gets them.
        output: The .safetensors to write, on the worker; the state to continue from lies beside it.
        validation: Folder of held-out pictures to choose the best by; empty: the same, other crops.
        steps: Optimiser steps.
        learning_rate: Peak step size, in steps of each tensor's grid.
        patch: Side of a crop in pixels of the network's input.
        batch: Crops per step.
        octaves: Sizes each picture is used at, each half of the one before.
        seed: Seeds calibration and batches.
        keep_float: Parts to leave in float, such as conv_after_body.
        residual_scale: Generation 3's, where the file lacks it.
        device: Empty: a GPU where there is one.
    """
    from contextlib import nullcontext

    from aethernet.training import FinetuningRecipe
    from flows.deploying import located
    from flows.qat_finetune import qat_finetune as run
    from flows.session import limited

    recipe = FinetuningRecipe(
        steps=steps,
        seed=seed,
        patch=patch,
        batch=batch,
        octaves=octaves,
        learning_rate=learning_rate,
        keep_float=tuple(keep_float) if keep_float else None,
    )
    with nullcontext() if device == "cpu" else limited("aethernet-gpu"):
        run.fn(
            recipe,
            Path(located(checkpoint)),
            Path(located(images)),
            Path(located(output)),
            Path(located(validation)) if validation else None,
            residual_scale,
            device,
        )


@flow(name="reverify", flow_run_name="reverify {hub}", persist_result=False)
def reverify(hub: str, specs: str | None = None, images: list[str] | None = None, seconds: float = 3600) -> None:
    """Look at everything that is published again: download, check, run, hold against what it promises.

    Args:
        hub: Place whose releases are looked at, such as hf://your-organisation.
        specs: Only releases that specs in this folder, NAME/release.toml, name; empty: all.
        images: Folders with the pictures that stated numbers were measured on.
        seconds: What looking at one release may take.
    """
    from aethernet.errors import AethernetError
    from aethernet.hub.reverify import issue_text
    from flows.deploying import located
    from flows.reverify import reverify as run

    folders = [Path(located(folder)) for folder in images or []]
    findings = run.fn(hub, None, Path(located(specs)) if specs else None, folders, None, seconds)
    if not all(finding.ok for finding in findings):
        raise AethernetError(issue_text(findings))
