"""The release flow against a hub over HTTP: signed, published, fetched afresh, and nothing secret written anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from aethernet.hub.address import Address
from aethernet.hub.download import download
from aethernet.release.bundle import SIGNATURE
from aethernet.release.signing import Trust
from aethernet.release.verification import verify_bundle
from tests.support.hub_server import Fault, HubServer
from tests.support.keys import KeyPair, key_pair
from tests.support.releases import NAME, snapshot
from tests.support.workplace import CommandLine, Finished, Workplace

pytestmark = pytest.mark.slow

REPOSITORY = f"org/{NAME}"
TOKEN = "hf_flowsecret0123456789"


@pytest.fixture
def key(tmp_path: Path) -> KeyPair:
    return key_pair(tmp_path, "ours")


@pytest.fixture
def over_http(workplace: Workplace, hub_server: HubServer, key: KeyPair) -> list[str]:
    """Arguments of a release that is signed and goes to the loopback hub."""
    arguments = ["release", str(workplace.spec), "--store", str(workplace.store), "--output", str(workplace.output)]
    return [*arguments, "--hub", hub_server.place, "--sign-key", str(key.private), "--json"]


def test_release_is_signed_published_and_verified_over_http_and_the_second_run_changes_nothing(
    workplace: Workplace, hub_server: HubServer, command_line: CommandLine, over_http: list[str], key: KeyPair
) -> None:
    first = command_line(over_http)
    state, folder = hub_server.state(), snapshot(workplace.bundle)
    second = command_line(over_http)

    assert first.code == 0, first.err
    assert second.code == 0, second.err
    assert first.ran == [f"assemble {NAME}", f"sign {NAME}", f"publish {NAME}"]
    assert second.summary["ran"] == []
    assert second.summary["already_published"] is True
    assert first.summary["verified"]["signature"].startswith("signed by the key")
    assert state == hub_server.state()
    assert snapshot(workplace.bundle) == folder
    assert state[REPOSITORY]["tags"] == {"v1.0.0": folder}
    assert SIGNATURE in folder
    trust = Trust(public_key=key.public.read_text())
    download(Address.parse(first.summary["published"]), workplace.root / "copy", trust=trust)
    assert verify_bundle(workplace.root / "copy", trust=trust).ok


def test_what_arrived_wrong_is_taken_back(
    workplace: Workplace, hub_server: HubServer, command_line: CommandLine, over_http: list[str]
) -> None:
    hub_server.faults = [Fault("corrupt", match="GET /object/", times=-1)]

    failed = command_line(over_http)

    assert failed.code == 1
    assert "is not what was released" in failed.err
    assert "was taken back" in failed.err
    assert hub_server.state()[REPOSITORY]["tags"] == {}
    hub_server.faults = []
    assert command_line(over_http).code == 0
    assert hub_server.state()[REPOSITORY]["tags"] == {"v1.0.0": snapshot(workplace.bundle)}


def test_key_that_cannot_be_read_is_misuse_before_anything_runs(
    workplace: Workplace, hub_server: HubServer, command_line: CommandLine, over_http: list[str], key: KeyPair
) -> None:
    key.private.write_text("no key")

    failed = command_line(over_http)

    assert failed.code == 2
    assert "expected an elliptic-curve private key" in failed.err
    assert not workplace.bundle.exists()


def test_verify_published_asks_for_the_signature(
    hub_server: HubServer, command_line: CommandLine, over_http: list[str], key: KeyPair, tmp_path: Path
) -> None:
    command_line(over_http)
    address = f"{hub_server.place}/{NAME}"
    stranger = key_pair(tmp_path, "theirs")

    right = command_line(["verify-published", address, "--public-key", str(key.public), "--json"])
    wrong = command_line(["verify-published", address, "--public-key", str(stranger.public)])

    assert right.summary["signature"].startswith("signed by the key")
    assert wrong.code == 1
    assert "Key mismatch" in wrong.err


@pytest.mark.long
def test_token_and_password_are_in_nothing_that_a_run_writes(
    workplace: Workplace, hub_server: HubServer, prefect_home: Path, over_http: list[str], tmp_path: Path
) -> None:
    hub_server.tokens = {TOKEN: {"read", "write"}}
    locked = key_pair(tmp_path, "locked", b"open sesame 0123")
    arguments = [*over_http[:-2], str(locked.private), "--json"]
    secrets = {"HF_TOKEN": TOKEN, "AETHERNET_KEY_PASSWORD": "open sesame 0123", "NO_PROXY": "127.0.0.1"}
    log = {"PREFECT_LOGGING_LEVEL": "DEBUG", "HF_HUB_VERBOSITY": "debug", "HF_ENDPOINT": hub_server.endpoint}

    good = workplace.run(arguments, prefect_home, **secrets, **log)
    hub_server.faults = [Fault("status", match="/refs", status=403, say="no {authorization}", times=-1)]
    bad = workplace.run([*arguments, "--debug"], prefect_home, **secrets, **log)

    assert good.code == 0, good.err
    assert bad.code == 1
    assert any(TOKEN in header for _, _, header in hub_server.log), "the token was never used"
    assert _leaks([good, bad], [workplace.root, prefect_home]) == []


def _leaks(finished: list[Finished], roots: list[Path]) -> list[str]:
    said = [name for one in finished for name in ("out", "err") if _secret(getattr(one, name).encode())]
    files = [path for root in roots for path in root.rglob("*") if path.is_file()]
    assert files
    return said + [str(path) for path in files if _secret(path.read_bytes())]


def _secret(content: bytes) -> bool:
    return TOKEN.encode() in content or b"open sesame" in content


def test_search_for_secrets_would_find_one(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"Authorization: Bearer {TOKEN}")

    assert _leaks([], [tmp_path]) == [str(tmp_path / "log")]


@pytest.mark.long
def test_real_checkpoint_goes_over_http_and_computes_its_image_afterwards(
    shared_data: Path, tmp_path: Path, hub_server: HubServer, key: KeyPair
) -> None:
    from aethernet.hub.publishing import publish_release, verify_release
    from aethernet.precision import Precision
    from aethernet.release.bundle import open_bundle
    from aethernet.release.signing import Signer, sign_bundle
    from aethernet.release.spec import ReleaseSpec
    from tests.support.releases import make_release, small_images

    spec = ReleaseSpec(
        name="aether_small_2x",
        checkpoint=next((shared_data / "aether_small_2x").glob("*.pth")),
        license="CC-BY-4.0",
        origin="the author's training run",
        images=small_images(tmp_path / "low"),
        precisions=(Precision.FP32,),
        engines={"backends": ()},
    )
    bundle = make_release(spec, tmp_path)
    sign_bundle(open_bundle(bundle), Signer(private_key=key.private))
    trust = Trust(public_key=key.public.read_text())

    publication = publish_release(bundle, hub_server.place, spec.name, trust=trust)
    verified = verify_release(Address.parse(publication.address), trust=trust)

    assert verified.image is not None
    assert "of 255 levels" in verified.image
    assert open_bundle(bundle).manifest.checkpoint.origin == "the author's training run"
