"""``aethernet verify``, ``compare`` and ``sign``: a release folder as it is, as it computes, and under a signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aethernet.cli.inputs import images_of, whole_bundle
from aethernet.cli.options import (
    AsJson,
    CertificateChain,
    KeyCertificate,
    PrivateKey,
    SigstoreSigner,
    TrustOptions,
    make_signer,
)
from aethernet.cli.output import emit_json, say
from aethernet.errors import BundleError, GateError

__all__ = ["compare", "compare_bundle", "sign", "verify"]


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Release folder.")],
    trust: TrustOptions,
    run: Annotated[bool, typer.Option(help="Also run the network on the release's check image.")] = True,
    partial: Annotated[
        bool, typer.Option("--partial", help="Files may be missing, as after a download of some forms.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find changed, missing and extra files, unsafe paths and links; check who signed; then try one image."""
    from aethernet.release.verification import verify_bundle

    found = verify_bundle(bundle, run=run, partial=partial, trust=trust.trust())
    if as_json:
        facts: dict[str, Any] = {"files": found.files, "identity": found.identity, "picture": found.image}
        facts |= {"signature": found.signature, "missing": list(found.missing)}
        emit_json({"ok": found.ok, "problems": list(found.problems), **facts})
    else:
        for problem in found.problems:
            print(problem)
        if found.ok:
            part = f" (a part: {len(found.missing)} files are not here)" if found.missing else ""
            print(f"{bundle}: {found.files} files as released, identity {found.identity}{part}")
    if found.image and not as_json:
        say(f"check image: {found.image}")
    if found.signature:
        say(found.signature)
    if not found.ok:
        say(f"{bundle} is not what was released; download it again")
        raise typer.Exit(1)


def compare(
    bundle: Annotated[Path, typer.Argument(help="Release folder.")],
    images: Annotated[Path | None, typer.Option(help="Folder of images (default: the library's own two).")] = None,
    hr: Annotated[Path | None, typer.Option(help="Folder of their HR partners, paired by file stem.")] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write what every form made of the images into this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure every form against the trained network again, on your images, on your machine."""
    result, table, passes = compare_bundle(bundle, images=images, hr=hr, write=write)
    if as_json:
        emit_json(result)
    else:
        print(table)
    say("every form keeps the release's limits" if passes else "at least one form misses the release's limits")
    if not passes:
        raise typer.Exit(1)


def sign(
    bundle: Annotated[Path, typer.Argument(metavar="DIR", help="Release folder.")],
    private_key: PrivateKey = None,
    certificate: KeyCertificate = None,
    chain: CertificateChain = None,
    sigstore: SigstoreSigner = False,
    as_json: AsJson = False,
) -> None:
    """Sign a release folder: every file of it, into model.sig."""
    from aethernet.release.bundle import open_bundle
    from aethernet.release.signing import sign_bundle
    from aethernet.release.verification import verify_bundle

    signer = make_signer(private_key, certificate, chain, sigstore)
    opened = open_bundle(bundle)
    broken = [line for line in verify_bundle(bundle, run=False).problems if not line.startswith("model.sig")]
    if broken:
        raise BundleError(f"refusing to sign a changed release: {'; '.join(broken)}")
    written = sign_bundle(opened, signer)
    if as_json:
        emit_json({"signature": str(bundle / "model.sig"), "identity": opened.manifest.identity, "written": written})
    else:
        print(bundle / "model.sig")
    say("signed" if written else "was signed so already")


def compare_bundle(
    path: Path, *, images: Path | None, hr: Path | None, write: Path | None
) -> tuple[dict[str, Any], str, bool]:
    """Measure a release again.

    Returns:
        The numbers as JSON values, the table, and whether every form keeps the release's limits.
    """
    from aethernet.comparison import judge, measurement_table
    from aethernet.images.files import list_images, pair_by_stem, save_image
    from aethernet.release.again import compare_again

    bundle = whole_bundle(path)
    manifest, named_images = bundle.manifest, images_of(images)
    again = compare_again(
        bundle, named_images, pair_by_stem(list(named_images.values()), list_images(hr)) if hr is not None else {}
    )
    measurements, quality = again.measurements, again.quality
    if write is not None:
        for name, outputs in again.outputs.items():
            for case in again.cases:
                if case.window is not None and case.name in outputs:
                    save_image(outputs[case.name], write / case.image / f"{name}.png")
    released = [form.precision for form in manifest.forms if form.status == "released"]
    try:
        judge(measurements, quality, manifest.limits, required=released)
        passes = True
    except GateError:
        passes = False
    result = {
        "passes": passes,
        "measurements": [item.model_dump(mode="json") for item in measurements],
        "quality": [item.model_dump(mode="json") for item in quality],
    }
    return result, measurement_table(measurements, quality, manifest.limits), passes
