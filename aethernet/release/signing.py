"""Signatures over whole releases, by OpenSSF model-signing: who made this, as far as a key or an identity can say.

``model.sig`` is a Sigstore bundle around an in-toto statement that names every file of the release but itself, with its
sha256 (predicate https://model_signing/signature/v1.0). It is checked against digests rather than against files, so
that a download is judged before its large files are fetched, and a part of a release can be judged at all.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from aethernet.artifact import atomic_path
from aethernet.errors import AethernetError, MissingDependencyError, SignatureError, UsageError
from aethernet.release.bundle import SIGNATURE, Bundle, stated_digests

__all__ = [
    "PASSWORD_VARIABLE",
    "Signer",
    "Trust",
    "check_signature",
    "look_at_signature",
    "make_trust",
    "read_trust",
    "sign_bundle",
    "trust_settings",
]

PASSWORD_VARIABLE = "AETHERNET_KEY_PASSWORD"
"""Environment variable with the password of an encrypted private key: it is asked for nowhere a list could show it."""

_LARGEST_SIGNATURE = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose signature counts: one public key, or certificates, or an identity with its issuer. Texts, not paths."""

    public_key: str = ""
    """PEM of an elliptic-curve public key (P-256, P-384 or P-521)."""
    certificates: str = ""
    """PEM of the certificates a signer's certificate must lead back to."""
    identity: str = ""
    """Such as the address of a GitHub workflow, or an e-mail address; of several, between spaces, any counts.
    ``{name}`` and ``{version}`` in it stand for the release's own."""
    issuer: str = ""
    """Who vouches for the identity, such as https://token.actions.githubusercontent.com."""

    def __post_init__(self) -> None:
        kinds = [bool(self.public_key), bool(self.certificates), bool(self.identity or self.issuer)]
        if sum(kinds) != 1 or bool(self.identity) != bool(self.issuer):
            raise UsageError(
                "expected a public key, or certificates, or an identity together with its issuer, and only one of these"
            )

    def of(self, name: str, version: str) -> Trust:
        """Whose signature counts on one release."""
        return replace(self, identity=self.identity.replace("{name}", name).replace("{version}", version))

    def __str__(self) -> str:
        if self.identity:
            return f"{' or '.join(self.identity.split())} (vouched for by {self.issuer})"
        text, kind = (self.public_key, "key") if self.public_key else (self.certificates, "certificates")
        return f"the {kind} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """How to sign: with a private key, with a key and its certificate, or with the identity of a Sigstore log-in."""

    private_key: Path | None = None
    """PEM file; its password, if it has one, in :data:`PASSWORD_VARIABLE`."""
    certificate: Path | None = None
    """PEM file with the key's certificate."""
    chain: tuple[Path, ...] = ()
    """PEM files from the certificate's issuer up to the root."""
    sigstore: bool = False
    """Sign as who we are: in GitHub Actions by its OpenID token, elsewhere by a log-in in the browser."""

    def __post_init__(self) -> None:
        if self.sigstore == (self.private_key is not None) or (self.private_key is None and self.certificate):
            raise UsageError("expected a private key (with or without a certificate), or Sigstore, to sign with")
        if (self.certificate is None) != (not self.chain):
            raise UsageError("expected a certificate together with its chain")

    def trust(self) -> Trust | None:
        """What a reader has to trust to accept our signature; None where we do not know our own identity.

        Raises:
            UsageError: The key cannot be read.
        """
        if self.sigstore:
            workflow = os.environ.get("GITHUB_WORKFLOW_REF")
            if workflow is None:
                return None
            server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
            return Trust(identity=f"{server}/{workflow}", issuer="https://token.actions.githubusercontent.com")
        if self.chain:
            return Trust(certificates=_text(self.chain[-1]))
        return Trust(public_key=_public_key(cast("Path", self.private_key)))


def sign_bundle(bundle: Bundle, signer: Signer) -> bool:
    """Write ``model.sig`` into a release folder.

    Returns:
        Whether it was written: a signature of the same signer over the same content is left alone.

    Raises:
        UsageError: The key cannot be used.
        SignatureError: The signing service refused.
    """
    trust = signer.trust()
    if trust is not None and (bundle.root / SIGNATURE).is_file():
        with contextlib.suppress(SignatureError):
            check_signature(bundle, trust)
            return False
    _require()
    from model_signing import signing

    with _failing(UsageError, "could not sign"):
        config = signing.Config().set_hashing_config(_stated(stated_digests(bundle)))
        if signer.sigstore:
            config.use_sigstore_signer(use_ambient_credentials=True)
        elif signer.certificate is not None:
            config.use_certificate_signer(
                private_key=cast("Path", signer.private_key),
                signing_certificate=signer.certificate,
                certificate_chain=signer.chain,
            )
        else:
            config.use_elliptic_key_signer(
                private_key=cast("Path", signer.private_key),
                password=cast(Any, _password()),  # bytes, whatever its annotation says
            )
        with atomic_path(bundle.root / SIGNATURE) as temporary:
            config.sign(bundle.root, temporary)
    return True


def check_signature(bundle: Bundle, trust: Trust) -> str:
    """Check that somebody trusted signed exactly these contents.

    Args:
        bundle: The release, of whose files only the records need to be there.
        trust: Whose signature counts.

    Returns:
        Who signed, in words.

    Raises:
        SignatureError: Nobody signed, somebody else did, or it was other content.
    """
    path, digests = bundle.root / SIGNATURE, stated_digests(bundle)
    trust = trust.of(bundle.manifest.name, bundle.manifest.version)
    if not path.is_file() or path.is_symlink():
        raise SignatureError(f"{SIGNATURE}: expected a signature by {trust}, found none: the release is not signed")
    if path.stat().st_size > _LARGEST_SIGNATURE:
        raise SignatureError(f"{SIGNATURE}: expected a signature by {trust}, found a file larger than any")
    look_at_signature(path, digests)  # says in words what the library below says in bytes
    _require()
    refused: list[SignatureError] = []
    for identity in trust.identity.split() or [""]:
        one = replace(trust, identity=identity)
        try:
            _verify(path, digests, one, f"expected a signature by {trust} over this content, found another one")
        except SignatureError as error:
            refused.append(error)
        else:
            return str(one)
    raise refused[-1]


def _verify(path: Path, digests: Mapping[str, str], trust: Trust, otherwise: str) -> None:
    from model_signing import verifying

    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder) / "trusted.pem"
        pem.write_text(trust.public_key or trust.certificates, encoding="utf-8")
        with _failing(SignatureError, f"{SIGNATURE}: {otherwise}"):
            config = verifying.Config().set_hashing_config(_stated(digests))
            if trust.public_key:
                config.use_elliptic_key_verifier(public_key=pem)
            elif trust.certificates:
                config.use_certificate_verifier(certificate_chain=[pem])
            else:
                config.use_sigstore_verifier(identity=trust.identity, oidc_issuer=trust.issuer)
            config.verify(path.parent, path)


def look_at_signature(path: Path, digests: Mapping[str, str]) -> str:
    """Say what kind of signature there is, without a key: anyone could have made it.

    Raises:
        SignatureError: It is none, or does not even claim to be for this content.
    """
    try:
        bundle = json.loads(path.read_bytes()[:_LARGEST_SIGNATURE])
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        claimed = {item["name"]: item["digest"] for item in statement["predicate"]["resources"]}
        material = bundle["verificationMaterial"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SignatureError(f"{path.name}: expected a signature, found something else") from error
    if claimed != dict(digests):
        wrong = sorted(name for name in {*claimed, *digests} if claimed.get(name) != digests.get(name))
        raise SignatureError(f"{path.name}: is for other content ({', '.join(map(repr, wrong[:5]))})")
    if "publicKey" in material:
        return f"a key whose digest is {str(material['publicKey'].get('hint', 'not stated'))[:12]}"
    return "a certificate" if "x509CertificateChain" in material else "an identity"


def make_trust(
    public_key: Path | None, certificates: Path | None, identity: str | None, issuer: str | None
) -> Trust | None:
    """Trust from a command's options; None where there are none.

    Raises:
        UsageError: They contradict each other, or a file cannot be read.
    """
    if not any((public_key, certificates, identity, issuer)):
        return None
    return Trust(
        public_key=_text(public_key) if public_key else "",
        certificates=_text(certificates) if certificates else "",
        identity=identity or "",
        issuer=issuer or "",
    )


def trust_settings() -> Path:
    """Where the user says whom to trust for which places."""
    import platformdirs

    return Path(platformdirs.user_config_dir("aethernet")) / "trust.toml"


def read_trust(address: str, settings: Path | None = None) -> Trust | None:
    """Whose signature the user wants to see on releases at an address; None where nothing is said about it.

    The settings are TOML: a table per place or release, ``["hf://org"]``, with ``public_key`` or ``certificates``
    (files, relative to the settings) or ``identity`` and ``issuer``. The longest that fits counts.

    Raises:
        UsageError: The settings cannot be read or make no sense.
    """
    path = settings or trust_settings()
    if settings is None and not path.is_file():
        return None
    try:
        tables = tomllib.loads(_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    known = {field.name for field in fields(Trust)}
    for place, table in tables.items():
        texts = isinstance(table, dict) and all(isinstance(value, str) for value in table.values())
        if not texts or not table.keys() <= known:
            raise UsageError(f'{path}: expected {", ".join(sorted(known))} under ["{place}"], found something else')
    fitting = [place for place in tables if f"{address}/".startswith(place.rstrip("/") + "/")]
    if not fitting:
        return None
    table = tables[max(fitting, key=len)]
    return make_trust(
        *(path.parent / table[key] if key in table else None for key in ("public_key", "certificates")),
        *(table.get(key) for key in ("identity", "issuer")),
    )


def _stated(digests: Mapping[str, str]) -> Any:
    """A hashing configuration that takes the digests as they are instead of reading files."""
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest  # what its public manifest is made of

    class Stated(hashing.Config):
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> manifest.Manifest:  # noqa: ARG002
            kind = manifest.SerializationType.from_args(
                {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [SIGNATURE]}
            )
            items = [kind.new_item(path, Digest("sha256", bytes.fromhex(sha256))) for path, sha256 in digests.items()]
            return manifest.Manifest(Path(model_path).name, items, kind)

    return Stated()  # type: ignore[no-untyped-call]


def _require() -> None:
    try:
        import model_signing  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(str(error.name or "model_signing"), "signing") from error


@contextmanager
def _failing(kind: type[AethernetError], words: str) -> Iterator[None]:
    """Whatever the libraries below throw means no; what they print is not ours to print."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except AethernetError:
        raise
    except Exception as error:
        raise kind(f"{words}: {str(error) or type(error).__name__}") from error


def _public_key(private_key: Path) -> str:
    _require()
    from cryptography.hazmat.primitives import serialization

    with _failing(UsageError, f"expected an elliptic-curve private key at {private_key}, found something else"):
        key = serialization.load_pem_private_key(private_key.read_bytes(), _password())
        return (
            key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )


def _password() -> bytes | None:
    password = os.environ.get(PASSWORD_VARIABLE)
    return password.encode() if password else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"could not read {path}: {getattr(error, 'strerror', None) or error}") from error
