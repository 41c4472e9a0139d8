"""``python -m flows release …``: the command line of the flows."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.session import embedded_server, prepare_prefect

prepare_prefect()

ENVIRONMENT = "AETHERNET"
"""Options can also be given as variables, AETHERNET_RELEASE_HUB for ``release --hub``; an empty one counts as none."""

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Store = Annotated[
    str | None,
    typer.Option(
        help="Folder or fsspec address (s3://bucket/prefix) of the store (default: the user's cache).",
        envvar="AETHERNET_STORE",
    ),
]
Output = Annotated[Path, typer.Option(help="Folder in which the release folder NAME is put.")]
HubPlace = Annotated[str | None, typer.Option("--hub", help="Place to publish to: hf://org, file:///folder.")]
SignKey = Annotated[
    Path | None, typer.Option(help="PEM private key to sign with; its password, if any, in AETHERNET_KEY_PASSWORD.")
]
SignCertificate = Annotated[Path | None, typer.Option(help="PEM certificate of the key.")]
SignChain = Annotated[list[Path] | None, typer.Option(help="PEM certificates up to the root; the root last.")]
Sigstore = Annotated[bool, typer.Option("--sigstore", help="Sign as who we are, in GitHub Actions the workflow.")]
Private = Annotated[bool, typer.Option("--private", help="A repository that has to be made is for invited readers.")]
PublicKey = Annotated[Path | None, typer.Option(help="PEM public key it must be signed for.")]
Certificates = Annotated[Path | None, typer.Option(help="PEM certificates its signer must lead back to.")]
Identity = Annotated[
    str | None,
    typer.Option(help="Sigstore identity that must have signed; several, any of which counts, separated by spaces."),
]
Issuer = Annotated[str | None, typer.Option(help="Who must vouch for the identity.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class Runner(enum.StrEnum):
    """What runs the releases of ``release-all``."""

    PROCESSES = "processes"
    DASK = "dask"


@app.callback()
def _root() -> None:
    """Release flows on Prefect's engine."""


@app.command()
def release(
    spec: Annotated[
        Path | None,
        typer.Argument(help="release.toml, or the folder that holds it.", envvar=f"{ENVIRONMENT}_RELEASE_SPEC"),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint, a file or an address (https://…), instead of a spec.")
    ] = None,
    checkpoint_sha256: Annotated[str | None, typer.Option(help="Digest the checkpoint must have.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the release.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of validation pictures (LR).")] = None,
    hr: Annotated[Path | None, typer.Option(help="Folder of their HR partners, paired by file stem.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of the release (default 1.0.0).")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the weights (default unknown).")] = None,  # noqa: A002
    precisions: Annotated[
        str | None, typer.Option(help="Forms that must be made and pass, such as fp32,fp16 (default: all that can be).")
    ] = None,
    residual_scale: Annotated[float | None, typer.Option(help="Generation 3's, where the file lacks it.")] = None,
    output: Output = Path("out"),
    hub: HubPlace = None,
    sign_key: SignKey = None,
    sign_certificate: SignCertificate = None,
    sign_chain: SignChain = None,
    sigstore: Sigstore = False,
    private: Private = False,
    table: Annotated[
        Path | None, typer.Option(help="Write the comparison table (Markdown) there, also when the gate stays shut.")
    ] = None,
    store: Store = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make, prove, assemble, sign and publish one release."""
    from aethernet.checkpoint.remote import fetched_file, is_remote
    from aethernet.errors import UsageError
    from aethernet.release.spec import make_spec
    from aethernet.store.store import Store as ArtifactStore
    from flows.packing import opened_spec

    remote = checkpoint is not None and is_remote(checkpoint)
    options = {
        "checkpoint": checkpoint if checkpoint is None or remote else Path(checkpoint),
        "checkpoint_sha256": checkpoint_sha256,
        "origin": checkpoint if remote else None,
        "name": name,
        "images": images,
        "hr": hr,
        "version": version,
        "license": license,
        "precisions": precisions.replace(" ", "").split(",") if precisions else None,
        "residual_scale": residual_scale,
    }
    given = {
        key: value.absolute() if isinstance(value, Path) else value
        for key, value in options.items()
        if value is not None
    }
    with _errors(debug), contextlib.ExitStack() as opened:
        if spec is None and not {"checkpoint", "name"} <= given.keys():
            raise UsageError("expected a spec, or --checkpoint and --name", hint="python -m flows release --help")
        if spec is not None and "checkpoint" in given:
            raise UsageError("expected a spec or --checkpoint, found both")
        base: dict[str, Any] = {}
        if spec is not None:
            # What another machine has put into the store instead of a path, too.
            read = opened.enter_context(opened_spec(str(spec), ArtifactStore(store)))
            base = read.model_dump(exclude_unset=True)
        signer = _signer(sign_key, sign_certificate, sign_chain, sigstore)
        with (
            fetched_file(checkpoint or "", checkpoint_sha256) if remote else contextlib.nullcontext(None) as fetched,
            _tabled(table),
        ):
            final = make_spec({**base, **given, **({"checkpoint": fetched} if fetched else {})})
            outcome, summary = _release(final, output, hub, store, signer, private)
            if table is not None:
                _write_table(table, outcome.manifest)
        if as_json:
            print(json.dumps(summary, indent=2))
        else:
            print(outcome.bundle)
            _next_steps(outcome)


@app.command("release-all")
def release_all(
    folder: Annotated[Path, typer.Argument(help="Folder with NAME/release.toml in it.")] = Path("releases"),
    output: Output = Path("out"),
    hub: HubPlace = None,
    sign_key: SignKey = None,
    sign_certificate: SignCertificate = None,
    sign_chain: SignChain = None,
    sigstore: Sigstore = False,
    private: Private = False,
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
    store: Store = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Release every spec in a folder; one failure does not stop the others, and makes the exit code 1."""
    with _errors(debug):
        from aethernet.errors import UsageError
        from aethernet.store.store import Store as ArtifactStore
        from flows.release_all import read_specs, release_on_workers
        from flows.release_all import release_all as flow

        if scheduler is not None and runner is not Runner.DASK:
            raise UsageError("expected --runner dask with --scheduler")
        if work_pool is not None and runner is Runner.DASK:
            raise UsageError("expected --work-pool or --runner dask, found both: Prefect's workers or Dask's")
        specs, results = read_specs(folder)
        artifacts = ArtifactStore(store)
        if work_pool is not None:
            if sign_certificate or sign_chain or sigstore:
                raise UsageError("expected --sign-key alone: workers sign with a key of theirs")
            given = {"hub": hub, "private": private, "sign_key": str(sign_key) if sign_key else None}
            results += release_on_workers(specs, artifacts, output.absolute(), given, work_pool)
        else:
            options = [
                *(["--hub", hub] if hub else []),
                *(["--sign-key", str(sign_key)] if sign_key else []),
                *(["--sign-certificate", str(sign_certificate)] if sign_certificate else []),
                *(word for path in sign_chain or () for word in ("--sign-chain", str(path))),
                *(["--sigstore"] if sigstore else []),
                *(["--private"] if private else []),
            ]
            with embedded_server():
                if runner is Runner.DASK:
                    from flows.dask import release_on_dask

                    results += release_on_dask(specs, artifacts, output.absolute(), options, jobs, scheduler)
                else:
                    places = ["--output", str(output), "--store", artifacts.address]
                    results += flow(specs, [*places, *options], jobs)
        if as_json:
            print(json.dumps([result.model_dump(mode="json") for result in results], indent=2))
        else:
            for result in results:
                outcome = "failed" if result.error else "released"
                print(f"{result.name}\t{outcome}\t{result.error or result.bundle}")
        if any(result.error for result in results):
            raise typer.Exit(1)


@app.command("verify-published")
def verify_published(
    address: Annotated[str, typer.Argument(help="place/name[@version], such as hf://org/name@1.0.0.")],
    public_key: PublicKey = None,
    certificates: Certificates = None,
    identity: Identity = None,
    issuer: Issuer = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fetch a published release into an empty folder, check every byte and who signed, run one picture."""
    with _errors(debug):
        from aethernet.release.signing import make_trust
        from flows.verify_published import verify_published as flow

        trust = make_trust(public_key, certificates, identity, issuer)
        with embedded_server():
            verified = flow(address, trust)
        if as_json:
            print(json.dumps(dataclasses.asdict(verified)))
        else:
            print(f"{address}: {verified.files} files, {verified.picture}")
            print(verified.signature, file=sys.stderr)


@app.command()
def status(
    store: Store = None,
    limit: Annotated[int, typer.Option(min=1, help="How many runs, the latest first.")] = 20,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the latest releases made with a store, on all machines that use it, and how they ended."""
    with _errors(debug):
        from rich.console import Console
        from rich.table import Table

        from aethernet.store.history import recent_runs
        from aethernet.store.store import Store as ArtifactStore

        runs = recent_runs(ArtifactStore(store), limit)
        if as_json:
            print(json.dumps([run.model_dump(mode="json", exclude={"beat"}) for run in runs], indent=2))
            return
        if not runs:
            print(f"no releases yet in the store {ArtifactStore(store).address}", file=sys.stderr)
            return
        table = Table(box=None, pad_edge=False)
        for heading in ("started (UTC)", "release", "outcome", "time", "where", "what came of it"):
            table.add_column(heading, overflow="fold")
        for run in runs:
            told = run.error.splitlines()[0] if run.error else run.published or (run.identity or "")[:12]
            started = f"{run.started:%Y-%m-%d %H:%M}"
            table.add_row(started, f"{run.name} {run.version}", run.outcome, f"{run.seconds:.0f} s", run.host, told)
        # Pipes have no width; what is cut off would be lost.
        Console(width=None if sys.stdout.isatty() else 240, highlight=False, markup=False).print(table)


@app.command()
def gc(
    keep_days: Annotated[float, typer.Option(help="Keep what releases of the last days need; at least 1.")] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    store: Store = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Remove from a store what no release of the last days needs; safe beside running flows."""
    with _errors(debug):
        from aethernet.store.collection import collect_garbage
        from aethernet.store.store import Store as ArtifactStore

        artifacts = ArtifactStore(store)
        found = collect_garbage(artifacts, keep_days, dry_run=dry_run)
        if as_json:
            told = {"removed": dict(found.removed), "freed": found.freed}
            told |= {"kept": dict(found.kept), "kept_bytes": found.kept_bytes}
            print(json.dumps({"store": artifacts.address, "dry_run": dry_run, **told}, indent=2))
            return
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(found.removed.items()) if count) or "nothing"
        print(f"{'would remove' if dry_run else 'removed'} {counts}: {found.freed / 2**20:.1f} MiB")
        kept = f"{found.kept_bytes / 2**20:.1f} MiB in {found.kept['objects']} objects"
        print(f"kept {kept} in {artifacts.address}", file=sys.stderr)


@app.command()
def reverify(
    releases: Annotated[
        list[str] | None, typer.Argument(help="Addresses place/name[@version]; by default what --hub has.")
    ] = None,
    hub: Annotated[
        str | None, typer.Option(help="Place whose releases are looked at: hf://org, file:///folder.")
    ] = None,
    specs: Annotated[
        Path | None, typer.Option(help="Only releases that specs in this folder, NAME/release.toml, name.")
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder with pictures that stated numbers were measured on.")
    ] = None,
    public_key: PublicKey = None,
    certificates: Certificates = None,
    identity: Identity = None,
    issuer: Issuer = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that looking at one release may take.")] = 3600,
    issue_file: Annotated[
        Path | None, typer.Option(help="Where to write what is wrong, as the text of an issue.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Look at published releases again: fetch, check, run, hold against what they promise; 1 if they broke it."""
    with _errors(debug):
        from aethernet.hub.reverify import issue_text
        from aethernet.release.signing import make_trust
        from flows.actions import summarize
        from flows.reverify import reverify as flow

        trust = make_trust(public_key, certificates, identity, issuer)
        with embedded_server():
            findings = flow(hub, releases, specs, images, trust, timeout)
        text = issue_text(findings)
        summarize(text)
        wrong = [finding for finding in findings if not finding.ok]
        if as_json:
            print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
        else:
            for finding in findings:
                told = "; ".join(finding.problems) or f"as promised, {finding.numbers} numbers measured again"
                print(f"{finding.address}\t{told}")
        if wrong and issue_file is not None:
            _write(issue_file, text)
            print(f"wrote {issue_file}", file=sys.stderr)
        if wrong:
            raise typer.Exit(1)


@app.command()
def plan(
    specs: Annotated[Path, typer.Option(help="Folder with NAME/release.toml in it.")] = Path("releases"),
    spec: Annotated[str | None, typer.Option(help="Release this one, by the name of its folder.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Release this checkpoint, a file or an address.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the checkpoint's release.")] = None,
    version: Annotated[str | None, typer.Option(help="Version of the checkpoint's release (default 1.0.0).")] = None,
    tag: Annotated[str | None, typer.Option(help="Release the spec that this tag, NAME-vVERSION, names.")] = None,
    since: Annotated[str | None, typer.Option(help="Release what changed since this commit.")] = None,
    hub: HubPlace = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Publish nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Say what the release workflow makes, as JSON and as outputs of a GitHub Actions job; by default all specs."""
    with _errors(debug):
        from flows.actions import plan_releases, set_outputs

        planned = plan_releases(
            specs,
            spec=spec,
            checkpoint=checkpoint,
            name=name,
            version=version,
            tag=tag,
            since=since,
            hub=hub,
            dry_run=dry_run,
        )
        set_outputs(planned.outputs)
        print(json.dumps(dataclasses.asdict(planned), indent=2))


@app.command()
def trigger(
    deployment: Annotated[str, typer.Argument(help="FLOW/DEPLOYMENT.", envvar=f"{ENVIRONMENT}_TRIGGER_DEPLOYMENT")],
    param: Annotated[
        list[str] | None, typer.Option(help="One parameter, name=value; the value as JSON or as text.")
    ] = None,
    parameters: Annotated[str, typer.Option(help="Several, as a JSON object.")] = "{}",
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the end; 1 unless it is Completed.")] = False,
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds to wait at most.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a deployment on the Prefect server of PREFECT_API_URL, in place of this machine."""
    with _errors(debug):
        from flows.actions import summarize
        from flows.trigger import trigger as run

        def tell(text: str) -> None:
            print(text, file=sys.stderr)

        given = {**_object(parameters), **dict(map(_parameter, param or ()))}
        found = run(deployment, given, timeout=timeout if watch else 0, tell=tell)
        summarize("\n\n".join([f"# {deployment}: {found.state}", found.message, *found.pages]))
        print(
            json.dumps(dataclasses.asdict(found), indent=2) if as_json else f"{found.name}\t{found.state}\t{found.id}"
        )
        if found.message:
            tell(found.message)
        if watch and not found.completed:
            raise typer.Exit(1)


def _object(text: str) -> dict[str, Any]:
    from aethernet.errors import UsageError

    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"expected --parameters as a JSON object, found '{text}'")
    return found


def _parameter(text: str) -> tuple[str, Any]:
    from aethernet.errors import UsageError

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"expected --param name=value, found '{text}'")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@app.command("open-issue")
def open_issue(
    file: Annotated[Path, typer.Argument(help="Markdown text, as `reverify --issue-file` writes it.")],
    title: Annotated[str, typer.Option(help="An open issue of this title gets a comment instead.")],
    debug: Debug = False,
) -> None:
    """Open an issue in the GitHub repository whose workflow this runs in."""
    with _errors(debug):
        from flows.actions import open_issue as write

        print(write(title, file.read_text(encoding="utf-8")))


@app.command("serve-builds")
def serve_builds(
    name: Annotated[str, typer.Option(help="Name of the deployment: build-engines/NAME.")] = "gpu",
    debug: Debug = False,
) -> None:
    """Build engines on this machine for releases that run elsewhere, until stopped; needs PREFECT_API_URL."""
    with _errors(debug):
        from prefect.settings import get_current_settings

        from aethernet.errors import UsageError
        from flows.build import build_engines

        if not get_current_settings().api.url:
            raise UsageError(
                "expected a Prefect server that the releases use too, found none configured",
                hint="start one with `prefect server start` and set PREFECT_API_URL on both machines",
            )
        build_engines.serve(name=name, tags=["gpu"], limit=1, pause_on_shutdown=False, print_starting_message=False)


@app.command()
def deploy(
    work_pool: Annotated[str, typer.Option(help="Pool of the workers; made, for processes, if missing.")] = "aethernet",
    gpu: Annotated[
        list[str] | None, typer.Option(help="Card to build engines on, such as 'NVIDIA GeForce RTX 4090'.")
    ] = None,
    releases: Annotated[
        int | None, typer.Option(min=1, help="Releases at a time on all workers (at first 64).")
    ] = None,
    gpu_jobs: Annotated[int | None, typer.Option(min=1, help="Jobs on GPUs at a time on all (at first 1).")] = None,
    debug: Debug = False,
) -> None:
    """Register deployments, work pool and concurrency limits on the Prefect server of PREFECT_API_URL."""
    with _errors(debug):
        from flows.deploying import deploy as run

        for name in run(work_pool, gpu or (), releases=releases, gpu_jobs=gpu_jobs):
            print(name)
        print(f"next: python -m flows worker --work-pool {work_pool}, on every machine", file=sys.stderr)


@app.command()
def worker(
    work_pool: Annotated[str, typer.Option(help="Pool whose runs are taken.")] = "aethernet",
    queue: Annotated[
        list[str] | None, typer.Option(help="Queues to take from; that of this machine's GPU is added.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of this worker in Prefect's UI.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Runs at a time on this machine.")] = 1,
    debug: Debug = False,
) -> None:
    """Run what a pool's queues hold on this machine, until stopped."""
    with _errors(debug):
        from flows.deploying import work

        work(work_pool, queue or ["default"], name=name, limit=limit)


@app.command()
def train(
    pictures: Annotated[Path, typer.Argument(help="Folder of training pictures, read recursively.")],
    output: Annotated[
        Path, typer.Option(help="Folder of the checkpoint and of the state a later run continues from.")
    ] = Path("runs"),
    name: Annotated[str, typer.Option(help="File stem of the checkpoint.")] = "aether_tiny_2x",
    generation: Annotated[int, typer.Option(help="1, 2 or 3.")] = 2,
    preset: Annotated[str, typer.Option(help="Such as tiny, small, medium, large.")] = "tiny",
    scale: Annotated[int, typer.Option(help="2, 3 or 4.")] = 2,
    hours: Annotated[float | None, typer.Option(help="End after this time, over all runs together.")] = None,
    steps: Annotated[int | None, typer.Option(help="End after this many steps.")] = None,
    validation: Annotated[Path | None, typer.Option(help="Folder of held-out pictures to measure on.")] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak step size.")] = 1e-3,
    patch: Annotated[int, typer.Option(help="Side of a training crop in low-resolution pixels.")] = 32,
    batch: Annotated[int, typer.Option(help="Crops per step.")] = 8,
    seed: Annotated[int, typer.Option(help="Seeds weights and batches.")] = 0,
    octaves: Annotated[int, typer.Option(help="Sizes each picture is used at, each half of the one before.")] = 2,
    candidates: Annotated[int, typer.Option(help="Random crops drawn for each one kept.")] = 3,
    batch_statistics: Annotated[
        float, typer.Option(help="Share of the training with batch statistics in norms.")
    ] = 0.1,
    kernel: Annotated[
        list[str] | None,
        typer.Option(help="How pictures are shrunk: bicubic, box or dpid, in equal shares. [default: bicubic, dpid]"),
    ] = None,
    extremes: Annotated[
        float, typer.Option(help="Share of crops replaced by noise, stripes and the like: they bound the network.")
    ] = 0.0,
    extreme_weight: Annotated[float, typer.Option(help="What such a crop's error counts beside a photograph's.")] = 1.0,
    loss: Annotated[str, typer.Option(help="l1 (mean absolute error) or psnr (each crop's decibels).")] = "l1",
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Convolve in bfloat16.")] = False,
    compile_step: Annotated[
        bool, typer.Option("--compile", help="Compile the training step; needs a C++ compiler.")
    ] = False,
    initial: Annotated[Path | None, typer.Option(help="Checkpoint to start from (default: fresh weights).")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a network; the same command continues an interrupted training."""
    with _errors(debug):
        from aethernet.networks.config import preset_config
        from aethernet.training import TrainingRecipe
        from flows.train import train as flow

        _show_log()
        recipe = TrainingRecipe(
            network=preset_config(generation, preset, scale),
            name=name,
            hours=hours,
            steps=steps,
            learning_rate=learning_rate,
            patch=patch,
            batch=batch,
            seed=seed,
            octaves=octaves,
            candidates=candidates,
            batch_statistics_share=batch_statistics,
            extreme_share=extremes,
            extreme_weight=extreme_weight,
            loss=loss,  # type: ignore[arg-type]  # the recipe checks it
            bfloat16=bfloat16,
            compile=compile_step,
            **({"kernels": tuple(kernel)} if kernel else {}),  # type: ignore[arg-type]  # the recipe checks the names
        )
        with embedded_server():
            result = flow(recipe, pictures.absolute(), output.absolute(), validation and validation.absolute(), initial)
        print(json.dumps(result, indent=2) if as_json else result["checkpoint"])
        if not as_json and result["psnr"] is not None:
            told = f"held-out pictures: {result['psnr']:.2f} dB, bicubic {result['bicubic_psnr']:.2f} dB"
            print(told, file=sys.stderr)


@app.command("qat-finetune")
def qat_finetune(
    checkpoint: Annotated[Path, typer.Argument(help="Float checkpoint whose int8 form is to be fine-tuned.")],
    images: Annotated[Path, typer.Option(help="Folder of pictures as the network gets them, read recursively.")],
    output: Annotated[
        Path | None, typer.Option(help="The .safetensors to write (default: runs/CHECKPOINT_qat.safetensors).")
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 500,
    validation: Annotated[
        Path | None,
        typer.Option(help="Folder of held-out pictures to choose the best by (default: the same, other crops)."),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak step size, in steps of each tensor's grid.")] = 0.02,
    patch: Annotated[int, typer.Option(help="Side of a crop in pixels of the network's input.")] = 40,
    batch: Annotated[int, typer.Option(help="Crops per step.")] = 4,
    octaves: Annotated[int, typer.Option(help="Sizes each picture is used at, each half of the one before.")] = 1,
    seed: Annotated[int, typer.Option(help="Seeds calibration and batches.")] = 0,
    keep_float: Annotated[
        str | None,
        typer.Option(help="Parts to leave in float, such as conv_after_body,quant_fusion_layer."),
    ] = None,
    residual_scale: Annotated[float | None, typer.Option(help="Generation 3's, where the file lacks it.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: a GPU where there is one).")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a network for int8 without originals; the same command continues an interrupted run."""
    with _errors(debug):
        from aethernet.training import FinetuningRecipe
        from flows.qat_finetune import qat_finetune as flow

        _show_log()
        recipe = FinetuningRecipe(
            steps=steps,
            seed=seed,
            patch=patch,
            batch=batch,
            octaves=octaves,
            learning_rate=learning_rate,
            keep_float=tuple(keep_float.replace(" ", "").split(",")) if keep_float else None,
        )
        output = output or Path("runs") / f"{checkpoint.stem}_qat.safetensors"
        with embedded_server():
            result = flow(
                recipe,
                checkpoint.absolute(),
                images.absolute(),
                output.absolute(),
                validation and validation.absolute(),
                residual_scale,
                device,
            )
        print(json.dumps(result, indent=2) if as_json else result["checkpoint"])
        if not as_json:
            before, after = result["before"], result["after"]
            print(
                f"beside the float network: {before['psnr']:.2f} dB before, {after['psnr']:.2f} dB after; "
                f"colour shift of a crop, at most: {before['tint']:.2f} levels before, {after['tint']:.2f} after",
                file=sys.stderr,
            )
            told = f"python -m flows release --checkpoint {os.path.relpath(result['checkpoint'])} --name NAME"
            print(f"next: {told}", file=sys.stderr)


def _show_log() -> None:
    """What the library logs, on stderr: where a training stands when nobody watches a terminal."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("aethernet")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _signer(key: Path | None, certificate: Path | None, chain: list[Path] | None, sigstore: bool) -> Any:
    from aethernet.release.signing import Signer

    if not any((key, certificate, chain, sigstore)):
        return None
    signer = Signer(private_key=key, certificate=certificate, chain=tuple(chain or ()), sigstore=sigstore)
    signer.trust()  # a key that cannot be read is better found now than at the end
    return signer


def _release(
    spec: Any, output: Path, hub: str | None, store: str | None, signer: Any, private: bool
) -> tuple[Any, dict[str, Any]]:
    from aethernet.store.store import Store as ArtifactStore

    with embedded_server(_import_libraries):
        from flows.release import release as flow
        from flows.running import summarised

        return summarised(ArtifactStore(store), spec, lambda: flow(spec, output.absolute(), hub, signer, private))


def _import_libraries() -> None:
    """What nearly every release needs, and takes seconds to import."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch  # noqa: F401

    import flows.release  # noqa: F401


def _next_steps(outcome: Any) -> None:
    for form in outcome.manifest.forms:
        reason = f": {form.reason}" if form.reason else ""
        print(f"{form.precision.value}: {form.status}{reason}", file=sys.stderr)
    if outcome.publication:
        told = "was already published as" if outcome.publication.already_there else "published as"
        print(f"{told} {outcome.publication.address}; fetched afresh and verified", file=sys.stderr)
        print(outcome.verified.signature, file=sys.stderr)
    print(f"next: aethernet verify {os.path.relpath(outcome.bundle)}", file=sys.stderr)


@contextlib.contextmanager
def _tabled(table: Path | None) -> Iterator[None]:
    """Keeps the table of a gate that stays shut, and shows it in the summary of a GitHub Actions job."""
    from aethernet.errors import GateError
    from flows.actions import summarize

    try:
        yield
    except GateError as error:
        summarize(f"# Not released\n\n{error}\n\n{error.table}")
        if table is not None:
            _write(table, error.table)
        raise


def _write_table(path: Path, manifest: Any) -> None:
    from aethernet.comparison import measurement_table

    _write(path, measurement_table(manifest.measurements, manifest.quality, manifest.limits))


def _write(path: Path, text: str) -> None:
    from aethernet.artifact import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(f"{text.rstrip()}\n", encoding="utf-8")


class _errors:  # noqa: N801 (reads as a statement)
    """Turns errors into words and exit codes: 2 for misuse, 1 for a failed check."""

    def __init__(self, debug: bool) -> None:
        self.debug = debug

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from aethernet.cli.output import exit_code_for, print_error

        if error is None or isinstance(error, SystemExit | typer.Exit):
            return
        if self.debug:
            traceback.print_exception(error)
        else:
            print_error(error)
        raise SystemExit(exit_code_for(error)) from None


def main() -> None:
    """Run the command line."""
    app(prog_name="python -m flows", auto_envvar_prefix=ENVIRONMENT)


if __name__ == "__main__":
    main()
