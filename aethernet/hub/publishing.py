"""Publishing by hand or from the flow: the gate is asked again, and what arrived is looked at as a stranger would."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aethernet.errors import AethernetError, BundleError, HubError
from aethernet.hub.address import Address
from aethernet.hub.connecting import connect
from aethernet.hub.download import download
from aethernet.hub.protocol import Publication
from aethernet.release.bundle import Bundle, open_bundle
from aethernet.release.signing import Trust
from aethernet.release.verification import require_accepted, verify_bundle

__all__ = ["Fetched", "Verified", "fetched", "publish_release", "take_back", "verify_release"]

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a fresh download turned out to be."""

    identity: str
    files: int
    picture: str | None
    """How the network did on its check picture."""
    signature: str
    """Who signed it, as far as that was checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A verified copy of a release, in a folder that lasts as long as the ``with`` block."""

    bundle: Bundle
    verified: Verified


def publish_release(
    path: Path, place: str, name: str, *, private: bool = False, trust: Trust | None = None, tell: Tell = lambda _: None
) -> Publication:
    """Publish a release folder in one atomic step.

    Args:
        path: The release folder.
        place: Hub to publish to.
        name: Name on the hub.
        private: Whether a repository that has to be made is for invited readers only.
        trust: Whose signature must be on it; None publishes unsigned releases, too.
        tell: Told, in words, what is worth knowing.

    Raises:
        GateError: The release failed its gate; nothing makes it publishable.
        BundleError: The folder is not what was released, or not signed as it must be.
        AlreadyPublishedError: Another release has this name and version.
        ConflictError: Somebody else published at the same time.
        HubError: The hub refused or cannot be reached.
    """
    bundle = open_bundle(path)
    require_accepted(bundle.manifest)
    verification = verify_bundle(path, run=False, trust=trust)
    if not verification.ok:
        raise BundleError(f"refusing to publish a changed release: {'; '.join(verification.problems)}")
    return connect(place, tell=tell).publish(bundle, name, private=private)


@contextmanager
def fetched(
    address: Address, *, run: bool = True, trust: Trust | None = None, tell: Tell = lambda _: None
) -> Iterator[Fetched]:
    """A release as a stranger gets it: downloaded into an empty folder; all bytes, who signed and one picture checked.

    Args:
        address: Which release; without a version, the newest.
        run: Whether to run the network on its picture.
        trust: Whose signature must be there.
        tell: Told, in words, what is worth knowing.

    Raises:
        BundleError: It is not whole, not unchanged, not signed as it must be, or computes another picture.
        HubError: The hub cannot be reached or has no such release.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = download(address, Path(folder) / address.name, trust=trust, tell=tell).path
        verification = verify_bundle(copy, run=run, trust=trust)
        if not verification.ok or verification.identity is None:
            raise BundleError(f"{address} is not what was released: {'; '.join(verification.problems)}")
        verified = Verified(
            identity=verification.identity,
            files=verification.files,
            picture=verification.picture,
            signature=verification.signature,
        )
        yield Fetched(bundle=open_bundle(copy), verified=verified)


def verify_release(
    address: Address, *, run: bool = True, trust: Trust | None = None, tell: Tell = lambda _: None
) -> Verified:
    """What :func:`fetched` finds of a release; nothing of it is kept."""
    with fetched(address, run=run, trust=trust, tell=tell) as found:
        return found.verified


def take_back(publication: Publication, error: AethernetError) -> AethernetError:
    """After a look at what was published failed: take the version back, and say in the error how that went.

    A version that had been there before is left alone: it is not ours to take, and others may rely on it.
    """
    if publication.already_there:
        return error
    try:
        connect(publication.place).retract(publication)
    except HubError as failure:
        error.hint = f"{publication.address} stays published, because it could not be taken back: {failure}"
    else:
        error.hint = f"{publication.address} was taken back; look at the hub, then publish again"
    return error
