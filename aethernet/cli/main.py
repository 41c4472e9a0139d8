"""``aethernet``: single steps and everything a downloaded release needs, without the workflow engine."""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from aethernet.cli.output import emit_json, exit_code_for, print_error, print_table, require_png, say
from aethernet.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

engine_app = typer.Typer(no_args_is_help=True, help="TensorRT engines: build, look at, check.")
app.add_typer(engine_app, name="engine")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
ResidualScale = Annotated[
    float | None, typer.Option(help="Residual scale of a generation-3 checkpoint that does not record it.")
]
PublicKey = Annotated[
    Path | None, typer.Option(help="PEM file: the release must be signed with the private key to this one.")
]
Certificates = Annotated[
    Path | None, typer.Option(help="PEM file: the signer's certificate must lead back to one of these.")
]
Identity = Annotated[
    str | None,
    typer.Option(
        help="The Sigstore identity that must have signed; several, any of which counts, separated by spaces."
    ),
]
Issuer = Annotated[str | None, typer.Option(help="Who must vouch for the identity, an address.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    del version, debug  # the one has its callback, the other is read by main(), which reports errors


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="Checkpoint, ONNX file, engine or release folder.")],
    as_json: AsJson = False,
) -> None:
    """Say what a file is."""
    from aethernet.cli import inspection

    _show(inspection.inspect_path(file), as_json)


@app.command()
def fuse(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Checkpoint of any form.")],
    destination: Annotated[
        Path, typer.Argument(metavar="OUT", help=".safetensors (with config) or .pth (plain tensors).")
    ],
    half: Annotated[bool, typer.Option("--half", help="Store the weights as fp16.")] = False,
    residual_scale: ResidualScale = None,
    as_json: AsJson = False,
) -> None:
    """Fold everything linear into the convolutions; a fused network comes back equal."""
    from aethernet.cli import steps

    _show(steps.fuse_file(source, destination, half=half, residual_scale=residual_scale), as_json)
    say(f"wrote {destination}; next: aethernet export {destination} {destination.with_suffix('.onnx')} --verify")


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Checkpoint of any form.")],
    destination: Annotated[Path, typer.Argument(metavar="OUT.onnx")],
    precision: Annotated[str, typer.Option(help="fp32 or fp16.")] = "fp32",
    opset: Annotated[int, typer.Option(help="17 to 21.")] = 17,
    static: Annotated[
        str | None, typer.Option(metavar="HxW", help="Fixed input size, batch 1 (default: all axes free).")
    ] = None,
    minimum: Annotated[
        str, typer.Option("--min", metavar="NxHxW", help="Smallest input, recorded for engines.")
    ] = "1x16x16",
    optimum: Annotated[
        str, typer.Option("--opt", metavar="NxHxW", help="Best input, recorded for engines.")
    ] = "1x256x256",
    maximum: Annotated[
        str, typer.Option("--max", metavar="NxHxW", help="Largest input, recorded for engines.")
    ] = "4x1080x1920",
    fold: Annotated[bool, typer.Option(help="Fuse before exporting.")] = True,
    images: Annotated[
        Path | None, typer.Option(help="Pictures to measure on (default: the library's own two).")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run the file beside PyTorch; exit 1 when they differ.")
    ] = False,
    atol: Annotated[
        float | None, typer.Option(help="With --verify: absolute tolerance (default 1e-4, fp16 8e-3).")
    ] = None,
    rtol: Annotated[float, typer.Option(help="With --verify: relative tolerance.")] = 0.0,
    residual_scale: ResidualScale = None,
    as_json: AsJson = False,
) -> None:
    """Write one ONNX file and check it against the contract."""
    from aethernet.cli import steps

    shapes = {"minimum": minimum, "optimum": optimum, "maximum": maximum}
    result = steps.export_file(
        source,
        destination,
        precision=precision,
        opset=opset,
        static=static,
        shapes=shapes,
        fold=fold,
        images=images,
        tolerances=(atol, rtol) if verify else None,
        residual_scale=residual_scale,
    )
    _show(result, as_json)
    if verify and not result["verified"]["passes"]:
        say("the file does not compute the same picture within the tolerances; it was kept for study")
        raise typer.Exit(1)


@app.command()
def compare(
    bundle: Annotated[Path, typer.Argument(help="Release folder.")],
    images: Annotated[Path | None, typer.Option(help="Folder of pictures (default: the library's own two).")] = None,
    hr: Annotated[Path | None, typer.Option(help="Folder of their HR partners, paired by file stem.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write what every form made of the pictures into this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure every form against the trained network again, on your pictures, on your machine."""
    from aethernet.cli import steps

    result, table, passes = steps.compare_bundle(bundle, images=images, hr=hr, write=write)
    if as_json:
        emit_json(result)
    else:
        print(table)
    say("every form keeps the release's limits" if passes else "at least one form misses the release's limits")
    if not passes:
        raise typer.Exit(1)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Release folder.")],
    run: Annotated[bool, typer.Option(help="Also run the network on the release's check picture.")] = True,
    partial: Annotated[
        bool, typer.Option("--partial", help="Files may be missing, as after a download of some forms.")
    ] = False,
    public_key: PublicKey = None,
    certificates: Certificates = None,
    identity: Identity = None,
    issuer: Issuer = None,
    as_json: AsJson = False,
) -> None:
    """Find changed, missing and extra files, unsafe paths and links; check who signed; then try one picture."""
    from aethernet.release.signing import make_trust
    from aethernet.release.verification import verify_bundle

    trust = make_trust(public_key, certificates, identity, issuer)
    found = verify_bundle(bundle, run=run, partial=partial, trust=trust)
    if as_json:
        facts: dict[str, Any] = {"files": found.files, "identity": found.identity, "picture": found.picture}
        facts |= {"signature": found.signature, "missing": list(found.missing)}
        emit_json({"ok": found.ok, "problems": list(found.problems), **facts})
    else:
        for problem in found.problems:
            print(problem)
        if found.ok:
            part = f" (a part: {len(found.missing)} files are not here)" if found.missing else ""
            print(f"{bundle}: {found.files} files as released, identity {found.identity}{part}")
    if found.picture and not as_json:
        say(f"check picture: {found.picture}")
    if found.signature:
        say(found.signature)
    if not found.ok:
        say(f"{bundle} is not what was released; download it again")
        raise typer.Exit(1)


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Release folder.")],
    private_key: Annotated[
        Path | None,
        typer.Option(help="PEM file, elliptic curve; the password, if any, in AETHERNET_KEY_PASSWORD."),
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file: the key's certificate.")] = None,
    chain: Annotated[
        list[Path] | None, typer.Option(help="PEM file: a certificate on the way to the root; the root last.")
    ] = None,
    sigstore: Annotated[
        bool, typer.Option("--sigstore", help="Sign as who you are: the workflow in GitHub Actions, or by log-in.")
    ] = False,
) -> None:
    """Sign a release folder: every file of it, into model.sig."""
    from aethernet.errors import BundleError
    from aethernet.release.bundle import open_bundle
    from aethernet.release.signing import Signer, sign_bundle
    from aethernet.release.verification import verify_bundle

    signer = Signer(private_key=private_key, certificate=certificate, chain=tuple(chain or ()), sigstore=sigstore)
    opened = open_bundle(bundle)
    broken = [line for line in verify_bundle(bundle, run=False).problems if not line.startswith("model.sig")]
    if broken:
        raise BundleError(f"refusing to sign a changed release: {'; '.join(broken)}")
    written = sign_bundle(opened, signer)
    print(bundle / "model.sig")
    say("signed" if written else "was signed so already")


@app.command()
def publish(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Release folder.")],
    address: Annotated[str, typer.Argument(help="Where to: hf://org/name, file:///folder/name.")],
    private: Annotated[
        bool, typer.Option("--private", help="A repository that has to be made is for invited readers only.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Download it afresh afterwards; take it back if that fails.")
    ] = True,
    run: Annotated[bool, typer.Option(help="Also run the network on the release's check picture then.")] = True,
    public_key: PublicKey = None,
    certificates: Certificates = None,
    identity: Identity = None,
    issuer: Issuer = None,
    as_json: AsJson = False,
) -> None:
    """Publish a release in one step: all of it or nothing, and never over another one."""
    from aethernet.cli import hub
    from aethernet.release.signing import make_trust

    trust = make_trust(public_key, certificates, identity, issuer)
    result = hub.publish(bundle, address, private=private, verify=check, run=run, trust=trust)
    if as_json:
        emit_json(result)
    else:
        print(result["address"])
    verified = result["verified"]
    say("the same release was published already" if result["already_published"] else "published")
    if verified:
        say(f"fetched afresh and verified; {verified['signature']}")
    say(f"next: aethernet download {result['address']}")


@app.command()
def download(
    address: Annotated[str, typer.Argument(help="hf://org/name[@1.0.0], file:///folder/name; newest without version.")],
    to: Annotated[Path | None, typer.Option("--to", help="Becomes the release folder (default: ./NAME).")] = None,
    only: Annotated[str, typer.Option(help="Forms to fetch, such as fp16,int8; all without.")] = "",
    runtime: Annotated[
        str | None, typer.Option(help="Fetch what this can use: onnxruntime, pytorch, tensorrt_rtx, openvino…")
    ] = None,
    public_key: PublicKey = None,
    certificates: Certificates = None,
    identity: Identity = None,
    issuer: Issuer = None,
    as_json: AsJson = False,
) -> None:
    """Download a release: verified while it arrives, put in place in one step, resumed when interrupted."""
    from aethernet.cli import hub
    from aethernet.release.signing import make_trust

    trust = make_trust(public_key, certificates, identity, issuer)
    result = hub.download(address, to, only=only, runtime=runtime, trust=trust)
    if as_json:
        emit_json(result)
    else:
        print(result["path"])
    left_out = f", {len(result['left_out'])} not asked for" if result["left_out"] else ""
    say(f"{'was here already' if result['already_there'] else 'downloaded'}: {result['files']} files{left_out}")
    say(result["signature"])
    say(f"next: aethernet verify {result['path']}{' --partial' if left_out else ''}")


@app.command("list")
def list_place(
    place: Annotated[str, typer.Argument(help="hf://org or file:///folder.")], as_json: AsJson = False
) -> None:
    """List the releases at a place: versions, presets, scales, quality, size."""
    import dataclasses

    from aethernet.cli import hub
    from aethernet.hub.catalogue import list_releases
    from aethernet.hub.connecting import connect

    offers = list_releases(connect(place, tell=say))
    if as_json:
        emit_json([dataclasses.asdict(offer) for offer in offers])
    elif offers:
        print("\n".join(hub.offer_lines(offers)))
    if not offers:
        say(f"no releases at {place} (or none that you may see)")


@app.command()
def yank(
    address: Annotated[str, typer.Argument(help="With version: hf://org/name@1.0.0.")],
    reason: Annotated[str | None, typer.Option(help="Why nobody should use it any more.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the mark away.")] = False,
) -> None:
    """Mark a version as not to be used: download warns, the newest version skips it. Nothing is deleted."""
    from aethernet.cli import hub

    print(hub.yank(address, reason, undo=undo))
    say("the mark is gone" if undo else "marked; download warns from now on")


@app.command()
def lint(
    file: Annotated[Path, typer.Argument(help="Quantised ONNX file, of ours or of another tool.")],
    run: Annotated[
        bool, typer.Option(help="Also count what ONNX Runtime runs in integer kernels (unsigned form).")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Check an int8 ONNX file: layers, zero-points, scales, biases, types, and what really runs in integers."""
    from aethernet.cli import inspection
    from aethernet.export.lint import lint_onnx

    report = lint_onnx(file, run=run)
    if as_json:
        emit_json(report.to_json())
    else:
        _show(inspection.lint_facts(report), False)
        for line in inspection.lint_lines(report):
            print(line)
    if not report.ok:
        say(f"{file} breaks the rules of int8 files; every error above has to go before it ships")
        raise typer.Exit(1)
    say(f"{file} keeps the rules of int8 files")


@app.command()
def sensitivity(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of any form.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures to measure on (default: the library's own two).")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="DB", help="Also choose parts to keep float for this PSNR to float.")
    ] = None,
    time: Annotated[bool, typer.Option(help="Also time every part in ONNX Runtime, fp32 beside int8.")] = True,
    size: Annotated[str, typer.Option(metavar="HxW", help="Input size for times.")] = "256x256",
    threads: Annotated[int, typer.Option(min=0, help="Of ONNX Runtime (default: its own choice).")] = 0,
    chart: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the result.")] = None,
    residual_scale: ResidualScale = None,
    as_json: AsJson = False,
) -> None:
    """Measure, part by part, what int8 costs in quality and gains in time."""
    from aethernet.cli.sensitivity import measure_file, sensitivity_table
    from aethernet.cli.steps import sizes_of

    require_png(chart)
    (only,) = sizes_of(size)[:1]
    facts = measure_file(
        checkpoint,
        images=images,
        budget=budget,
        timed=time,
        size=only,
        threads=threads,
        chart=chart,
        residual_scale=residual_scale,
    )
    if as_json:
        emit_json(facts)
    else:
        print_table(sensitivity_table(facts))
    if budget is not None:
        kept = ", ".join(facts["kept_float"]) or "none"
        say(f"kept float for {budget:g} dB: {kept}; in a spec: [quantization] budget_db = {budget:g}")


@app.command()
def benchmark(
    bundle: Annotated[Path, typer.Argument(help="Release folder.")],
    sizes: Annotated[str, typer.Option(metavar="HxW,…", help="Input sizes.")] = "256x256",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of each form (default: all there are).")] = 0,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs of each form at each size.")] = 7,
    against: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Put another ONNX file or checkpoint beside; repeatable.")
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(metavar="A/B=R", help="Exit 1 unless A is R times as fast as B, as in int8/fp32=1.5; repeatable."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0, help="Time after loading: fewer runs, then without the slowest forms; 0: no limit.")
    ] = 120,
    chart: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the result.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time every form that runs here, interleaved in one run: latency, throughput, memory, load time."""
    from aethernet.cli import benchmark as command

    require_png(chart)
    facts = command.benchmark_bundle(
        bundle,
        sizes=sizes,
        threads=threads,
        runs=runs,
        against=against or (),
        floors=floor or (),
        seconds=seconds,
        chart=chart,
    )
    if as_json:
        emit_json(facts)
    else:
        for table in command.benchmark_tables(facts):
            print_table(table)
    for line in command.benchmark_words(facts):
        say(line)
    if not all(one["holds"] for one in facts["floors"]):
        raise typer.Exit(1)


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Release folder.")],
    hr: Annotated[
        Path, typer.Option(help="Folder of originals, a set such as Set5 with HR and LR in it, or a folder of sets.")
    ],
    lr: Annotated[Path | None, typer.Option(help="Their low-resolution partners (default: the set's own).")] = None,
    kernel: Annotated[
        str | None,
        typer.Option(help="Without partners: matlab-bicubic (default), bicubic, box, dpid. With: how they were made."),
    ] = None,
    crop: Annotated[
        int | None, typer.Option(min=0, help="Pixels cut off every side for Y (default: the scale); never for RGB.")
    ] = None,
    only: Annotated[str, typer.Option(help="Forms, such as fp32,int8; all without.")] = "",
    perceptual: Annotated[
        str, typer.Option(help="Also lpips, dists or both (lpips,dists); needs the extra `perceptual`.")
    ] = "",
    chart: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the result.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure every form against high-resolution pictures: PSNR and SSIM, RGB and Y, per picture and mean."""
    from aethernet.cli import evaluate as command

    require_png(chart)
    facts = command.evaluate_bundle(
        bundle, hr=hr, lr=lr, kernel=kernel, crop=crop, only=only, perceptual=perceptual, chart=chart
    )
    if as_json:
        emit_json(facts)
    else:
        for table in command.evaluation_tables(facts):
            print_table(table)
    for line in command.evaluation_words(facts):
        say(line)
    if facts["failed"]:
        raise typer.Exit(1)


@app.command()
def upscale(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Pictures, films, or folders of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A file for one input; otherwise a folder.")],
    bundle: Annotated[str, typer.Option("--bundle", "-b", help="Release folder, or its address on a hub.")],
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or int8.")] = "auto",
    runtime: Annotated[
        str,
        typer.Option(help="auto, or onnxruntime, openvino, pytorch, tensorrt, tensorrt-rtx; -cpu, -cuda, -directml."),
    ] = "auto",
    tile: Annotated[int | None, typer.Option(help="Largest side of a tile (default: by memory).")] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Pixels tiles overlap by on each side (default: what the network sees).")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="What the network may take, such as 8G (default: half of what is free, up to 3G)."),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 lets the runtime choose.")] = 0,
    form: Annotated[
        str | None, typer.Option("--format", help="png, jpg, webp, tif or avif (default: as the input).")
    ] = None,
    quality: Annotated[int | None, typer.Option(min=1, max=100, help="Of jpg, webp and avif.")] = None,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave results alone that exist.")] = False,
    compare_sheet: Annotated[
        Path | None, typer.Option("--compare", metavar="SHEET.png", help="Also draw nearest, bicubic and ours.")
    ] = None,
    hr: Annotated[Path | None, typer.Option(help="With --compare: the original, or a folder of them.")] = None,
    preset: Annotated[
        str, typer.Option(help="Films: x264, x265, svtav1, ffv1, h264-nvenc, hevc-nvenc or av1-nvenc.")
    ] = "x265",
    encoder_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Films: passed to the encoder, such as crf=18.")
    ] = None,
    bits: Annotated[int, typer.Option(help="Films: 10 or 8 bits per channel.")] = 10,
    start: Annotated[str | None, typer.Option(help="Films: from here, such as 1:30 or 90.5.")] = None,
    end: Annotated[str | None, typer.Option(help="Films: up to here.")] = None,
    segment: Annotated[float, typer.Option(help="Films: seconds that a killed run loses at most.")] = 10.0,
    resume: Annotated[bool, typer.Option("--resume", help="Films: go on with an interrupted run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Enlarge pictures and films with a release."""
    from aethernet.cli import upscaling

    request = upscaling.Request(
        inputs=inputs,
        output=output,
        bundle=bundle,
        precision=precision,
        runtime=runtime,
        tile=tile,
        overlap=overlap,
        memory=None if memory is None else upscaling.parse_bytes(memory),
        threads=threads,
        format=form,
        quality=quality,
        skip_existing=skip_existing,
        compare=compare_sheet,
        hr=hr,
        film={
            "preset": preset,
            "options": tuple(encoder_option or ()),
            "bits": bits,
            "start": start,
            "end": end,
            "segment_seconds": segment,
            "resume": resume,
        },
    )
    result = upscaling.run(request)
    if as_json:
        emit_json(result)
    else:
        for one in result["results"]:
            if "error" not in one:
                print(one["destination"])
    if result["failed"]:
        say(f"{result['failed']} of {len(result['results'])} failed; the others are done")
        raise typer.Exit(1)


@engine_app.command("build")
def engine_build(
    source: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Release folder, or one ONNX file of ours.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for engines and their identities.")] = Path(
        "engines"
    ),
    precisions: Annotated[
        str | None, typer.Option(help="Forms of the release, such as fp16,int8 (default: all it has).")
    ] = None,
    backend: Annotated[
        str, typer.Option(help="tensorrt_rtx (needs no GPU) or tensorrt (tuned on the GPU here).")
    ] = "tensorrt_rtx",
    profile: Annotated[
        list[str] | None,
        typer.Option(help="tile (default), image, video_720p, video_1080p, NxHxW or MIN:OPT:MAX; may be repeated."),
    ] = None,
    capabilities: Annotated[
        str | None, typer.Option(help="Compute capabilities for tensorrt_rtx, such as 7.5,8.9 (default: all it knows).")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds one engine may take.")] = 1800,
    memory: Annotated[
        float | None, typer.Option(help="GiB of GPU memory that must be enough (default: the card's).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build engines; precision is what the ONNX file says."""
    from aethernet.cli import engines

    made, failed = engines.build_engines(
        source,
        output,
        precisions=precisions,
        backend=backend,
        profiles=profile or ["tile"],
        capabilities=capabilities,
        timeout=timeout,
        memory=memory,
    )
    if as_json:
        emit_json({"engines": made, "failed": failed})
    for facts in made:
        if not as_json:
            print(facts["file"])
        for finding in facts["findings"]:
            say(f"{Path(facts['file']).name}: {finding}")
    for line in failed:
        say(f"not built: {line}")
    if failed:
        raise typer.Exit(1)
    say(f"next: aethernet engine check {made[0]['file']}")


@engine_app.command("info")
def engine_info(
    file: Annotated[Path, typer.Argument(metavar="FILE.engine", help="Engine, its identity beside it.")],
    as_json: AsJson = False,
) -> None:
    """Say what an engine is tied to and what was counted in it."""
    from aethernet.cli.engines import record_facts
    from aethernet.engines.identity import read_record

    _show(record_facts(read_record(file)), as_json)


@engine_app.command("check")
def engine_check(
    file: Annotated[Path, typer.Argument(metavar="FILE.engine", help="Engine, its identity beside it.")],
    onnx: Annotated[
        Path | None,
        typer.Option(help="ONNX file it must belong to (default: the one beside it or in the folder above)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find out whether an engine is whole and fits this machine, without loading it; exit 1 when not."""
    from aethernet.cli.engines import check_file

    facts = check_file(file, onnx)
    if as_json:
        emit_json(facts)
    else:
        print(f"{file}: {facts['precision']} for {facts['backend']}, whole")
    for note in facts["notes"]:
        say(f"not checked: {note}")


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit_json(facts)
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {_words(value)}")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_words(item) for item in value) or "none"
    return "–" if value is None else str(value)


def main() -> None:
    """Run the command line; errors become words and exit codes."""
    debug = "--debug" in sys.argv[1:]
    if debug and sys.argv[1] != "--debug":
        # Accepted anywhere, because it is added after something went wrong.
        sys.argv = [sys.argv[0], "--debug", *(word for word in sys.argv[1:] if word != "--debug")]
    # As Ctrl-C: what is half written is removed on the way out.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(prog_name="aethernet", auto_envvar_prefix="AETHERNET")
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 (here everything ends)
        if debug:
            traceback.print_exception(error)
        else:
            print_error(error)
        raise SystemExit(exit_code_for(error)) from None
    finally:
        signal.signal(signal.SIGTERM, before)
