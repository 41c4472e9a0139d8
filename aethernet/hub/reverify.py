"""Looking at published releases again: are they still there, still whole, and do they still do what they promise?

A promise is what the manifest says: limits every form keeps, and the numbers measured at the release. Where the spec of
a release is at hand, it is a promise, too: this version, made of this checkpoint. The numbers need the pictures they
were measured on, which a release does not contain; they are taken from the spec's folders and recognised by digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aethernet.errors import AethernetError, GateError, HubError, SpecError, UsageError
from aethernet.hub.address import Address, printable
from aethernet.hub.connecting import connect

if TYPE_CHECKING:
    from aethernet.hub.publishing import Tell
    from aethernet.release.again import Remeasured
    from aethernet.release.manifest import Manifest
    from aethernet.release.signing import Trust
    from aethernet.release.spec import ReleaseSpec

__all__ = ["ReverifyFinding", "Target", "issue_text", "released_at", "reverify", "specified_in"]

NOISE_FLOOR = 80.0
"""dB of PSNR to the reference above which differences are floating-point noise, another on every processor."""

ALLOWED_LOSS = 6.0
"""dB a form may be further from the reference than at the release: the kernels of another processor round elsewhere."""

ALLOWED_QUALITY = 0.1
"""dB by which PSNR against originals may differ from the number stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A release to look at."""

    address: str
    spec: ReleaseSpec | None = None
    """What it was made from, where that is at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReverifyFinding:
    """What a look at one release found."""

    address: str
    problems: tuple[str, ...]
    identity: str | None = None
    files: int = 0
    signature: str = ""
    picture: str | None = None
    """How the network did on its check picture."""
    forms: tuple[str, ...] = ()
    """Files that were run beside the reference."""
    numbers: int = 0
    """Stated numbers that were measured again."""
    note: str = ""
    """What could not be looked at, and why."""

    @property
    def ok(self) -> bool:
        """Whether the release is as it was promised."""
        return not self.problems


def specified_in(folder: Path, place: str) -> tuple[list[Target], list[ReverifyFinding]]:
    """The releases that specs in a folder (``NAME/release.toml``) name, and what is wrong with specs that say nothing.

    Raises:
        UsageError: There is no spec.
    """
    from aethernet.release.spec import read_spec

    targets, unreadable = [], []
    for path in sorted(folder.glob("*/release.toml")):
        try:
            spec = read_spec(path)
        except SpecError as error:
            unreadable.append(ReverifyFinding(address=f"{place}/{path.parent.name}", problems=(f"{path}: {error}",)))
        else:
            targets.append(Target(address=f"{place}/{spec.name}@{spec.version}", spec=spec))
    if not targets and not unreadable:
        raise UsageError(f"expected NAME/release.toml in {folder}, found none")
    return targets, unreadable


def released_at(place: str) -> list[Target]:
    """Every version of every release at a place that is not yanked, whether or not its manifest can be read.

    Raises:
        HubError: The hub cannot be reached, or has none.
    """
    hub = connect(place)
    found = []
    for name in hub.names():
        versions = hub.versions(name)
        yanked = hub.yanked(name) if versions else {}
        found += [Target(address=f"{hub.place}/{name}@{version}") for version in versions if version not in yanked]
    if not found:
        raise HubError(f"expected releases at {place}, found none")
    return found


def reverify(
    target: Target, *, trust: Trust | None = None, images: Sequence[Path] = (), tell: Tell = lambda _: None
) -> ReverifyFinding:
    """Download a release, check every byte and its signature, run every form, hold it against what it promises.

    Whatever goes wrong is a finding and never raised.

    Args:
        target: Which release.
        trust: Whose signature must be on it; None accepts releases that are not signed.
        images: Folders that may hold the pictures its numbers were measured on, and their originals; the spec's and
            the library's own are looked at anyway.
        tell: Told, in words, what is worth knowing.
    """
    from aethernet.comparison import judge
    from aethernet.hub.publishing import fetched
    from aethernet.release.again import compare_again

    try:
        with fetched(Address.parse(target.address), trust=trust, tell=tell) as found:
            manifest, verified = found.bundle.manifest, found.verified
            pictures, partners, note = _pictures(manifest, target.spec, images)
            again = compare_again(found.bundle, pictures, partners)
    except AethernetError as error:
        return ReverifyFinding(address=target.address, problems=(str(error),))
    except Exception as error:  # noqa: BLE001 (a stranger's file may make a library throw anything)
        return ReverifyFinding(address=target.address, problems=(f"could not be run: {type(error).__name__}: {error}",))
    problems = _broken_word(manifest, target)
    released = [form.precision for form in manifest.forms if form.status == "released"]
    try:
        judge(again.measurements, again.quality, manifest.limits, required=released)
    except GateError as error:
        problems.append(str(error))
    numbers = 0
    if not note:
        numbers, other = _other_numbers(manifest, again)
        problems += other
    return ReverifyFinding(
        address=target.address,
        problems=tuple(problems),
        identity=verified.identity,
        files=verified.files,
        signature=verified.signature,
        picture=verified.picture,
        forms=tuple(dict.fromkeys(item.form.file for item in again.measurements)),
        numbers=numbers,
        note=note,
    )


def _broken_word(manifest: Manifest, target: Target) -> list[str]:
    """Where the manifest says something else than the address and the spec."""
    problems = []
    version = Address.parse(target.address).version
    if version not in (None, manifest.version):
        problems.append(f"expected version {version}, the manifest says {manifest.version}")
    if target.spec is not None and target.spec.checkpoint.is_file():
        from aethernet.artifact import file_digest

        wanted = file_digest(target.spec.checkpoint)
        if manifest.checkpoint.sha256 != wanted:
            problems.append(
                f"expected a release of the checkpoint {wanted[:12]}, as the spec says, "
                f"found one of {printable(manifest.checkpoint.sha256)[:12]}"
            )
    return problems


def _pictures(
    manifest: Manifest, spec: ReleaseSpec | None, images: Sequence[Path]
) -> tuple[dict[str, Path], dict[str, Path], str]:
    """Pictures to run, their originals, and why they are not those its numbers were measured on; empty if they are."""
    from aethernet.artifact import file_digest
    from aethernet.images.files import list_pictures, sample_pictures

    folders = [*images, *((spec.images, spec.hr) if spec is not None else ())]
    here = [path for folder in folders if folder is not None and folder.is_dir() for path in list_pictures(folder)]
    known = {file_digest(path): path for path in [*sample_pictures(), *here]}
    stated = manifest.conditions.pictures
    missing = [one.name for one in stated if one.sha256 not in known or one.hr_sha256 not in {None, *known}]
    if not stated or missing:
        note = (
            "its numbers were not measured again, because the pictures they were measured on are not here: "
            f"{printable(', '.join(missing)) or 'it names none'}"
        )
        return {path.stem: path for path in sample_pictures()}, {}, note
    partners = {one.name: known[one.hr_sha256] for one in stated if one.hr_sha256 is not None}
    return {one.name: known[one.sha256] for one in stated}, partners, ""


def _other_numbers(manifest: Manifest, again: Remeasured) -> tuple[int, list[str]]:
    """How many stated numbers were measured again, and those that came out differently."""
    problems = []
    measured = {(item.form.file, item.case): item for item in again.measurements}
    compared = 0
    for stated in manifest.measurements:
        found = measured.get((stated.form.file, stated.case))
        if found is None or found.problem is not None or not found.finite:
            continue  # a form for another machine; or the gate has said so
        compared += 1
        least = min(NOISE_FLOOR, stated.psnr if stated.psnr is not None else NOISE_FLOOR) - ALLOWED_LOSS
        if found.psnr is not None and found.psnr < least:
            told = "equal to the reference" if stated.psnr is None else f"{stated.psnr:.2f} dB from the reference"
            problems.append(
                f"{stated.form.file} on {printable(stated.case)}: promised {told}, measured {found.psnr:.2f} dB"
            )
    quality = {(item.form, item.picture): item.psnr_rgb for item in again.quality}
    for promised in manifest.quality:
        value = quality.get((promised.form, promised.picture))
        if value is None or promised.psnr_rgb is None:
            continue
        compared += 1
        if not abs(value - promised.psnr_rgb) <= ALLOWED_QUALITY:
            problems.append(
                f"{printable(promised.form)} on {printable(promised.picture)}: promised {promised.psnr_rgb:.2f} dB "
                f"against the original, measured {value:.2f} dB"
            )
    return compared, problems


def issue_text(findings: Sequence[ReverifyFinding]) -> str:
    """What to tell people about releases that are not as they were promised, in Markdown.

    Texts of releases are strangers' texts: they stand in code blocks, where they mention nobody and link nowhere.
    """
    bad = [finding for finding in findings if not finding.ok]
    lines = [f"{len(bad)} of {len(findings)} published releases are not as they were promised.", ""]
    for finding in bad:
        lines += [f"## {_code(finding.address)}", "", "```text"]
        lines += [printable(problem, 500).replace("`", "'") for problem in finding.problems]
        lines += ["```", "", *_facts(finding), ""]
    lines += [
        "What to do: look at it with `aethernet download ADDRESS` and `aethernet verify`. If the hub changed it, "
        "publish a new version; if it never was right, `aethernet yank ADDRESS --reason …`.",
        "",
    ]
    good = [finding for finding in findings if finding.ok]
    if good:
        lines += ["## As promised", ""]
        lines += [f"- {_code(finding.address)}: {'; '.join(_facts(finding))}" for finding in good]
    return "\n".join(lines).rstrip() + "\n"


def _facts(finding: ReverifyFinding) -> list[str]:
    if finding.identity is None:
        return []
    told = [f"{finding.files} files, {len(finding.forms)} run, {finding.numbers} stated numbers measured again"]
    return told + [_code(text) for text in (finding.signature, finding.note) if text]


def _code(text: str) -> str:
    return f"`{printable(text).replace('`', chr(39))}`"
