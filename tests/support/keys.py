"""Keys and certificates made on the spot."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["KeyPair", "certified", "key_pair", "keys"]


@dataclass(frozen=True)
class KeyPair:
    """PEM files."""

    private: Path
    public: Path


def key_pair(folder: Path, name: str, password: bytes | None = None) -> KeyPair:
    """A fresh P-256 key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return KeyPair(private, public)


def certified(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Private key, its certificate, and the root that issued it."""
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: str, key, issuer: str, signer, *, authority: bool) -> x509.Certificate:
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)]) for who in (subject, issuer)]
        usage = x509.KeyUsage(
            digital_signature=not authority,
            key_cert_sign=authority,
            crl_sign=authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            x509.CertificateBuilder()
            .subject_name(names[0])
            .issuer_name(names[1])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(signer, hashes.SHA256())
        )

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = certificate(f"{name} root", root_key, f"{name} root", root_key, authority=True)
    leaf = certificate(name, key, f"{name} root", root_key, authority=False)
    places = folder / f"{name}-key.pem", folder / f"{name}-leaf.pem", folder / f"{name}-root.pem"
    places[0].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    places[1].write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    places[2].write_bytes(root.public_bytes(serialization.Encoding.PEM))
    return places


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[KeyPair, KeyPair]:
    """Two keys: ours, and somebody else's."""
    folder = tmp_path_factory.mktemp("keys")
    return key_pair(folder, "ours"), key_pair(folder, "theirs")
