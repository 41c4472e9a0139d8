"""Options that stand in several commands, each written once, and what the library takes in their place.

A dataclass here is a group of options: a command names it as the type of one of its parameters, as
:mod:`aethernet.cli.application` describes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

if TYPE_CHECKING:
    from aethernet.release.signing import Signer, Trust

__all__ = [
    "AsJson",
    "CertificateChain",
    "Chart",
    "HubPlace",
    "KeyCertificate",
    "Only",
    "PrivateKey",
    "PublishOptions",
    "ResidualScale",
    "SigstoreSigner",
    "StoreAddress",
    "TrustOptions",
    "WeightsKey",
    "make_signer",
    "split_list",
]

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Chart = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the result.")]
Only = Annotated[str, typer.Option(metavar="A,B,…", help="Forms, such as fp16,int8; all without.")]
ResidualScale = Annotated[
    float | None, typer.Option(help="Residual scale of a generation-3 checkpoint that does not record it.")
]
WeightsKey = Annotated[
    str | None, typer.Option("--weights", metavar="KEY", help="Network to take, where the checkpoint holds several.")
]
StoreAddress = Annotated[
    str | None,
    typer.Option(
        help="Folder or fsspec address (s3://bucket/prefix) of the store (default: AETHERNET_STORE, or the cache).",
        envvar="AETHERNET_STORE",
    ),
]

HubPlace = Annotated[str | None, typer.Option("--hub", help="Place to publish to: hf://org, file:///folder.")]

PrivateKey = Annotated[
    Path | None,
    typer.Option(help="PEM file, elliptic curve, to sign with; its password, if any, in AETHERNET_KEY_PASSWORD."),
]
KeyCertificate = Annotated[Path | None, typer.Option(help="PEM file: the key's certificate.")]
CertificateChain = Annotated[
    list[Path] | None, typer.Option(help="PEM file: a certificate on the way to the root; the root last; repeatable.")
]
SigstoreSigner = Annotated[
    bool, typer.Option("--sigstore", help="Sign as who you are: the workflow in GitHub Actions, or by log-in.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustOptions:
    """Whose signature a release must have; without any of them a signature is looked at, and none is needed."""

    PANEL: ClassVar[str] = "Who must have signed"

    public_key: Annotated[
        Path | None, typer.Option(help="PEM file: the release must be signed with the private key to this one.")
    ] = None
    certificates: Annotated[
        Path | None, typer.Option(help="PEM file: the signer's certificate must lead back to one of these.")
    ] = None
    identity: Annotated[
        str | None,
        typer.Option(
            help="The Sigstore identity that must have signed; several, any of which counts, separated by spaces."
        ),
    ] = None
    issuer: Annotated[str | None, typer.Option(help="Who must vouch for the identity, an address.")] = None

    def trust(self) -> Trust | None:
        """What the library checks signatures against; None where nothing was asked for.

        Raises:
            UsageError: The options contradict each other, or a file cannot be read.
        """
        from aethernet.release.signing import make_trust

        return make_trust(self.public_key, self.certificates, self.identity, self.issuer)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions:
    """Where a release that is made goes, and how it is signed first."""

    PANEL: ClassVar[str] = "Signing and publishing"

    hub: HubPlace = None
    private: Annotated[
        bool, typer.Option("--private", help="A repository that has to be made is for invited readers only.")
    ] = False
    sign_key: PrivateKey = None
    sign_certificate: KeyCertificate = None
    sign_chain: CertificateChain = None
    sigstore: SigstoreSigner = False

    def signer(self) -> Signer | None:
        """How to sign; None without any of the options.

        Raises:
            UsageError: The options contradict each other, or the key cannot be read, which is better found now.
        """
        if not any((self.sign_key, self.sign_certificate, self.sign_chain, self.sigstore)):
            return None
        signer = make_signer(self.sign_key, self.sign_certificate, self.sign_chain, self.sigstore)
        signer.trust()
        return signer

    def arguments(self) -> list[str]:
        """The same options for the command line of another process."""
        return [
            *(["--hub", self.hub] if self.hub else []),
            *(["--sign-key", str(self.sign_key)] if self.sign_key else []),
            *(["--sign-certificate", str(self.sign_certificate)] if self.sign_certificate else []),
            *(word for path in self.sign_chain or () for word in ("--sign-chain", str(path))),
            *(["--sigstore"] if self.sigstore else []),
            *(["--private"] if self.private else []),
        ]


def make_signer(key: Path | None, certificate: Path | None, chain: list[Path] | None, sigstore: bool) -> Signer:
    """What the library signs with.

    Raises:
        UsageError: Neither a key nor Sigstore, both, or a certificate without its chain.
    """
    from aethernet.release.signing import Signer

    return Signer(private_key=key, certificate=certificate, chain=tuple(chain or ()), sigstore=sigstore)


def split_list(text: str | None) -> list[str]:
    """``fp16, int8`` -> ``["fp16", "int8"]``; nothing for None and empty text."""
    return [word for word in (text or "").replace(" ", "").split(",") if word]
