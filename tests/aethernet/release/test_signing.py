"""Signatures: of the right one, over exactly this content, or refused. Real keys, real signatures."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from aethernet.artifact import file_digest
from aethernet.errors import UsageError
from aethernet.release.bundle import SIGNATURE, open_bundle
from aethernet.release.signing import Signer, Trust, make_trust, read_trust, sign_bundle
from aethernet.release.verification import verify_bundle
from tests.support.keys import KeyPair, certified, key_pair
from tests.support.releases import NAME, flip_byte, rewrite, snapshot

Keys = tuple[KeyPair, KeyPair]


@pytest.fixture
def signed(slim_release: Path, keys: Keys) -> Path:
    assert sign_bundle(open_bundle(slim_release), Signer(private_key=keys[0].private))
    return slim_release


def problems(bundle: Path, trust: Trust | None) -> str:
    return "\n".join(verify_bundle(bundle, run=False, trust=trust).problems)


def trust_in(key: KeyPair) -> Trust:
    return Trust(public_key=key.public.read_text())


def test_signed_release_verifies_with_the_right_key(signed: Path, keys: Keys) -> None:
    found = verify_bundle(signed, run=False, trust=trust_in(keys[0]))

    assert found.problems == ()
    assert found.signature.startswith("signed by the key")


def test_right_signature_by_the_wrong_key_is_refused(signed: Path, keys: Keys) -> None:
    assert "model.sig" not in problems(signed, None)
    assert "Key mismatch" in problems(signed, trust_in(keys[1]))


def test_release_that_is_not_signed_is_refused_where_a_signature_is_asked_for(slim_release: Path, keys: Keys) -> None:
    assert problems(slim_release, None) == ""
    assert "the release is not signed" in problems(slim_release, trust_in(keys[0]))


@pytest.mark.parametrize(
    "path",
    [f"{NAME}_fp32.onnx", f"{NAME}_notfused.safetensors", "config.json", "README.md", "release.json", "build.json"],
)
def test_signature_covers_every_file_whatever_else_a_forger_makes_fit(signed: Path, keys: Keys, path: str) -> None:
    forge(signed, path)

    assert verify_bundle(signed, run=False).problems == (
        f"{SIGNATURE}: is for other content ({', '.join(repr(name) for name in forged(path))})",
    )
    assert "is for other content" in problems(signed, trust_in(keys[0]))


def forged(path: str) -> list[str]:
    """Files whose content changes when one of them is forged with care."""
    changed = {"build.json", "README.md"} if path == "README.md" else {"build.json"}
    if path not in ("README.md", "build.json"):
        changed |= {path, "release.json"}
    return sorted(changed)


def forge(bundle: Path, path: str) -> None:
    """Change a file and make all records fit."""
    from aethernet.release.manifest import identity_of

    opened = open_bundle(bundle)
    manifest, build = opened.manifest, opened.build
    if path == "release.json":
        manifest = manifest.model_copy(update={"license": "mine"})
    elif path == "build.json":
        build = build.model_copy(update={"created": "1970-01-01T00:00:00+00:00"})
    else:
        flip_byte(bundle / path)
    files = tuple(entry.model_copy(update={"sha256": file_digest(bundle / entry.path)}) for entry in manifest.files)
    manifest = manifest.model_copy(update={"files": files, "identity": identity_of(files)})
    rewrite(bundle, manifest, build.model_copy(update={"identity": manifest.identity}))


@pytest.mark.parametrize("position", [0, 0.2, 0.4, 0.6, 0.8, 1])
def test_changed_signature_is_refused(signed: Path, keys: Keys, position: float) -> None:
    flip_byte(signed / SIGNATURE, position)

    assert problems(signed, trust_in(keys[0])) != ""


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"[" * 100_000, b'{"dsseEnvelope": 3}', b"\xff" * 100])
@pytest.mark.parametrize("asked", [False, True])
def test_nonsense_instead_of_a_signature_is_refused_in_words(
    signed: Path, keys: Keys, content: bytes, asked: bool
) -> None:
    (signed / SIGNATURE).write_bytes(content)

    assert "expected a signature" in problems(signed, trust_in(keys[0]) if asked else None)


def test_signature_of_another_release_is_refused(signed: Path, keys: Keys) -> None:
    rewrite(signed, open_bundle(signed).manifest.model_copy(update={"version": "2.0.0"}))

    for trust in (None, trust_in(keys[0])):
        assert "is for other content ('build.json', 'release.json')" in problems(signed, trust)


def test_signature_rewritten_to_claim_forged_content_is_refused(signed: Path, keys: Keys) -> None:
    forge(signed, f"{NAME}_fp32.onnx")
    signature = json.loads((signed / SIGNATURE).read_text())
    statement = json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))
    for resource in statement["predicate"]["resources"]:
        resource["digest"] = file_digest(signed / resource["name"])
    signature["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    (signed / SIGNATURE).write_text(json.dumps(signature))

    assert problems(signed, None) == "", "anyone can claim; only a key can tell"
    assert "expected a signature by" in problems(signed, trust_in(keys[0]))


def test_part_of_a_release_can_be_checked(signed: Path, keys: Keys) -> None:
    (signed / f"{NAME}_fp32.onnx").unlink()

    part = verify_bundle(signed, partial=True, trust=trust_in(keys[0]))

    assert part.problems == ()
    assert part.missing == (f"{NAME}_fp32.onnx",)
    assert f"{NAME}_fp32.onnx: is missing" in problems(signed, trust_in(keys[0]))


def test_signing_twice_changes_nothing_and_another_key_signs_anew(signed: Path, keys: Keys) -> None:
    before = snapshot(signed)

    assert not sign_bundle(open_bundle(signed), Signer(private_key=keys[0].private))
    assert snapshot(signed) == before
    assert sign_bundle(open_bundle(signed), Signer(private_key=keys[1].private))
    assert problems(signed, trust_in(keys[1])) == ""


def test_certificate_counts_when_it_leads_back_to_a_trusted_one(slim_release: Path, tmp_path: Path) -> None:
    key, leaf, root = certified(tmp_path, "ours")
    *_, other = certified(tmp_path, "theirs")

    sign_bundle(open_bundle(slim_release), Signer(private_key=key, certificate=leaf, chain=(root,)))

    assert problems(slim_release, Trust(certificates=root.read_text())) == ""
    assert "expected a signature by the certificates" in problems(slim_release, Trust(certificates=other.read_text()))
    assert Signer(private_key=key, certificate=leaf, chain=(root,)).trust() == Trust(certificates=root.read_text())


def test_encrypted_key_takes_its_password_from_the_environment(
    slim_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = key_pair(tmp_path, "locked", b"open sesame")

    with pytest.raises(UsageError, match="expected an elliptic-curve private key"):
        sign_bundle(open_bundle(slim_release), Signer(private_key=pair.private))
    monkeypatch.setenv("AETHERNET_KEY_PASSWORD", "open sesame")
    sign_bundle(open_bundle(slim_release), Signer(private_key=pair.private))

    assert problems(slim_release, trust_in(pair)) == ""


@pytest.mark.slow
def test_signature_is_one_that_the_signing_project_s_own_tool_accepts(signed: Path, keys: Keys) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed)]
    command += ["--signature", str(signed / SIGNATURE), "--public_key"]

    good = subprocess.run([*command, str(keys[0].public)], capture_output=True, text=True, check=False)
    bad = subprocess.run([*command, str(keys[1].public)], capture_output=True, text=True, check=False)

    assert good.returncode == 0, good.stderr + good.stdout
    assert bad.returncode != 0


def test_identity_cannot_be_checked_with_a_signature_by_a_key(signed: Path) -> None:
    trust = Trust(identity="https://github.com/o/r/.github/workflows/w.yml@refs/heads/main", issuer="https://issuer")

    assert "expected a signature by https://github.com/o/r" in problems(signed, trust)


def test_any_of_several_identities_counts_with_the_releases_own_name_and_version_in_it(
    signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sigstore itself needs a network; its verifier here knows one signer."""
    from model_signing import verifying

    signer, asked = "https://ci/w@refs/tags/tiny_2x-v1.0.0", []

    def use_sigstore_verifier(config: object, *, identity: str, oidc_issuer: str) -> None:
        asked.append((identity, oidc_issuer))
        config.verify = lambda *_: None if identity == signer else _refuse()  # type: ignore[attr-defined]

    monkeypatch.setattr(verifying.Config, "use_sigstore_verifier", use_sigstore_verifier)
    trust = Trust(identity="https://ci/w@refs/heads/main https://ci/w@refs/tags/{name}-v{version}", issuer="https://ci")

    verified = verify_bundle(signed, run=False, trust=trust)

    assert verified.problems == ()
    assert verified.signature == f"signed by {signer} (vouched for by https://ci)"
    assert asked == [("https://ci/w@refs/heads/main", "https://ci"), (signer, "https://ci")]
    told = problems(signed, Trust(identity="https://ci/other {name}", issuer="https://ci"))
    assert "expected a signature by https://ci/other or tiny_2x (vouched for by https://ci)" in told


def _refuse() -> None:
    raise ValueError("another signer")


def test_in_github_actions_the_own_identity_is_the_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_WORKFLOW_REF", raising=False)
    assert Signer(sigstore=True).trust() is None

    monkeypatch.setenv("GITHUB_WORKFLOW_REF", "o/r/.github/workflows/release.yml@refs/tags/v1")

    assert Signer(sigstore=True).trust() == Trust(
        identity="https://github.com/o/r/.github/workflows/release.yml@refs/tags/v1",
        issuer="https://token.actions.githubusercontent.com",
    )


# --- whom to trust ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"public_key": "k", "certificates": "c"},
        {"identity": "me"},
        {"issuer": "you"},
        {"public_key": "k", "identity": "me", "issuer": "you"},
    ],
)
def test_trust_is_one_thing_and_all_of_it(settings: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="only one of these"):
        Trust(**settings)


@pytest.mark.parametrize("settings", [{}, {"private_key": Path("k"), "sigstore": True}, {"certificate": Path("c")}])
def test_signer_is_one_thing_and_all_of_it(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Signer(**settings)  # type: ignore[arg-type]


def test_no_options_mean_no_trust_setting(keys: Keys) -> None:
    assert make_trust(None, None, None, None) is None
    assert make_trust(keys[0].public, None, None, None) == trust_in(keys[0])


def test_settings_say_whom_to_trust_where_and_the_longest_place_counts(tmp_path: Path, keys: Keys) -> None:
    for pair in keys:
        (tmp_path / pair.public.name).write_text(pair.public.read_text())
    settings = tmp_path / "trust.toml"
    settings.write_text(
        '["hf://org"]\npublic_key = "ours.pub"\n["hf://org/net"]\npublic_key = "theirs.pub"\n'
        '["hf://ci"]\nidentity = "workflow"\nissuer = "github"\n'
    )

    assert read_trust("hf://org/other", settings) == trust_in(keys[0])
    assert read_trust("hf://org/net", settings) == trust_in(keys[1])
    assert read_trust("hf://ci/net", settings) == Trust(identity="workflow", issuer="github")
    assert read_trust("hf://organisation/net", settings) is None


@pytest.mark.parametrize("text", ["[", '["hf://org"]\nkey = "x"', 'hf = "x"', '["hf://org"]\npublic_key = 3'])
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "trust.toml").write_text(text)

    with pytest.raises(UsageError, match=r"trust\.toml"):
        read_trust("hf://org/net", tmp_path / "trust.toml")


def test_statement_in_the_signature_names_every_file_but_itself(signed: Path) -> None:
    import base64

    envelope = json.loads((signed / SIGNATURE).read_text())["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))

    assert {item["name"]: item["digest"] for item in statement["predicate"]["resources"]} == {
        path: digest for path, digest in snapshot(signed).items() if path != SIGNATURE
    }
