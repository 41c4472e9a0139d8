"""Downloads: records first, judged; then the files wanted, verified as they arrive; then one rename.

Nothing a hub says is believed. The records must fit each other and the version asked for, a signature (where one is
asked for) must be over them, the hub's list of files must be the manifest's, and every file must have the manifest's
digest. What is refused leaves nothing behind; what is interrupted leaves a hidden folder beside the destination, from
which the next try goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from aethernet.errors import AethernetError, StoreError, UnreachableError, UsageError
from aethernet.hub.address import Address, is_address, printable
from aethernet.hub.connecting import connect
from aethernet.hub.protocol import Hub, newest_version
from aethernet.hub.retrying import RetryPolicy
from aethernet.hub.selection import RUNTIMES, require_known, select_files
from aethernet.hub.transfer import Download, OnMessage, Progress, Transfer, require_sane, summarize_download
from aethernet.release.bundle import open_bundle
from aethernet.release.signing import Trust, read_trust
from aethernet.release.verification import verify_bundle

__all__ = ["RUNTIMES", "Download", "download", "fetch_bundle", "select_files"]


def fetch_bundle(
    place: str,
    *,
    only: Collection[str] = (),
    runtime: str | None = None,
    trust: Trust | None = None,
    cache: Path | None = None,
    on_message: OnMessage = lambda _: None,
    progress: Progress | None = None,
) -> Path:
    """A release folder for whatever people name a release by.

    A folder comes back as it is. An address is fetched into the user's cache, verified; a version that is there already
    is verified again and used without asking the hub.

    Args:
        place: Folder, or an address such as ``hf://org/net@1.0.0``; without a version, the newest.
        only: Forms wanted, such as ``fp16``; all without.
        runtime: Fetch only what this runtime can use, one of :data:`RUNTIMES`.
        trust: Whose signature must be there; by default the user's settings say.
        cache: Folder to keep releases in.
        on_message: Called with what is worth knowing, a sentence each.
        progress: Told bytes done and bytes in all.

    Returns:
        A folder that :func:`aethernet.release.bundle.open_bundle` takes. With ``only`` or ``runtime`` it may be a part.

    Raises:
        HubError: The hub cannot be reached or has no such release.
        BundleError: What the hub has is no release, or not a whole one; also if it is not signed as it must be.
    """
    if not is_address(place):
        return Path(place)
    address = Address.parse(place)
    hub = connect(address.place, on_message=on_message)
    if cache is None:
        import platformdirs

        cache = Path(platformdirs.user_cache_dir("aethernet")) / "releases"
    versions = cache / quote(hub.place, safe="") / address.name
    try:
        version = address.version or _newest(hub, address.name, on_message)
    except UnreachableError as error:
        if there := ", ".join(sorted(entry.name for entry in versions.glob("[!.]*"))):
            error.hint = f"which version is the newest only the hub knows; here already, to be named, are: {there}"
        raise
    folder = versions / version
    exact = Address(place=address.place, name=address.name, version=version)
    trust = trust or read_trust(f"{address.place}/{address.name}")
    if folder.is_dir() and _holds(folder, only, runtime, trust):
        return folder
    return download(
        exact, folder, only=only, runtime=runtime, trust=trust, on_message=on_message, progress=progress
    ).path


def _holds(folder: Path, only: Collection[str], runtime: str | None, trust: Trust | None) -> bool:
    """Whether a folder has everything wanted, unchanged."""
    found = verify_bundle(folder, run=False, partial=True, trust=trust)
    if not found.ok:
        return False
    return not {entry.path for entry in select_files(open_bundle(folder).manifest, only, runtime)} & {*found.missing}


def download(
    address: Address,
    destination: Path,
    *,
    only: Collection[str] = (),
    runtime: str | None = None,
    trust: Trust | None = None,
    on_message: OnMessage = lambda _: None,
    progress: Progress | None = None,
    retry_policy: RetryPolicy | None = None,
) -> Download:
    """Make ``destination`` a release from a hub: whole, verified, in one step, or not at all.

    What of the same release is in ``destination`` already is kept and not fetched again.

    Args:
        address: Which release; without a version, the newest.
        destination: Becomes the release folder. A release there is replaced, anything else is refused.
        only: As in :func:`fetch_bundle`.
        runtime: As in :func:`fetch_bundle`.
        trust: Whose signature must be there; None accepts releases that are not signed.
        on_message: Called with what is worth knowing, a sentence each.
        progress: Told bytes done and bytes in all.
        retry_policy: How often to try again.

    Raises:
        HubError: The hub cannot be reached or has no such release. Finished files are kept for the next try.
        BundleError: What the hub has is no release, or not a whole one, or not signed as it must be. Nothing is left.
        StoreError: The disk is full or cannot be written.
        UsageError: No such form or runtime.
    """
    require_known(only, runtime)
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise UsageError(f"expected a folder, or nothing, at {destination}, found a file or a link")
    hub = connect(address.place, on_message=on_message)
    retry_policy = retry_policy or RetryPolicy()
    try:
        version = address.version or _newest(hub, address.name, on_message)
        snapshot = hub.snapshot(address.name, version)
        if address.version is not None:
            _warn_of_yank(hub, address.name, version, on_message)
    except UnreachableError as error:
        there = _offline(address, destination, only, runtime, trust)
        if there is None:
            raise
        on_message(f"{error}; {destination} has this version already, unchanged")
        return there
    require_sane(snapshot)
    key = hashlib.sha256(f"{hub.place}/{address.name} {snapshot.revision}".encode()).hexdigest()[:16]
    staging = destination.with_name(f".{destination.name}.{key}.download")
    try:
        with _alone(staging):
            try:
                run = Transfer(hub, snapshot, staging, destination, retry_policy, on_message, progress)
                done = run.fetch(str(address), only, runtime, trust)
            except UnreachableError:
                raise
            except (AethernetError, OSError):
                shutil.rmtree(staging, ignore_errors=True)
                raise
            shutil.rmtree(staging, ignore_errors=True)
            return done
    except OSError as error:
        raise StoreError(
            f"could not write {destination}: {error.strerror or error}", hint="free space or choose another folder"
        ) from error


def _newest(hub: Hub, name: str, on_message: OnMessage) -> str:
    version = newest_version(hub, name)
    on_message(f"newest version of {name}: {version}")
    return version


def _warn_of_yank(hub: Hub, name: str, version: str, on_message: OnMessage) -> None:
    try:
        reason = hub.yanked(name).get(version)
    except UnreachableError as error:
        on_message(f"whether {name} {version} was yanked is not known: {error}")
        return
    if reason is not None:
        on_message(f"warning: {name} {version} was yanked: {printable(reason)}")


def _offline(
    address: Address, destination: Path, only: Collection[str], runtime: str | None, trust: Trust | None
) -> Download | None:
    """What is at the destination already, where it is the very version asked for."""
    if address.version is None or not destination.is_dir() or not _holds(destination, only, runtime, trust):
        return None
    bundle = open_bundle(destination)
    if (bundle.manifest.name, bundle.manifest.version) != (address.name, address.version):
        return None
    return summarize_download(bundle, str(address), trust, received=0, already_there=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time works in ``folder``; the kernel frees it when its holder dies."""
    import fcntl

    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), folder.stat()):
                    yield
                    return
        finally:
            os.close(descriptor)
