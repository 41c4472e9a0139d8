"""publish, download, list, yank, sign and verify as a user calls them: over HTTP, with exit codes and words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aethernet.release.bundle import open_bundle
from tests.support.commands import Call
from tests.support.hub_server import Fault, HubServer
from tests.support.keys import KeyPair
from tests.support.releases import NAME, flip_byte, snapshot

REPOSITORY = f"org/{NAME}"
TOKEN = "hf_commandsecret0123456789"


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def address(hub_server: HubServer) -> str:
    return f"{hub_server.place}/{NAME}"


def test_release_goes_from_one_folder_to_the_hub_and_into_another(
    call: Call, finished_release: Path, hub_server: HubServer, address: str, tmp_path: Path
) -> None:
    published = call("publish", finished_release, address)
    again = call("publish", finished_release, address, "--json")
    downloaded = call("download", address, "--to", tmp_path / "copy")
    verified = call("verify", tmp_path / "copy")

    assert (published.code, published.out) == (0, f"{address}@1.0.0\n")
    assert "fetched afresh and verified; not signed" in published.err
    assert again.result["already_published"] is True
    assert (downloaded.code, downloaded.out) == (0, f"{tmp_path / 'copy'}\n")
    assert f"newest version of {NAME}: 1.0.0" in downloaded.err
    assert "not signed" in downloaded.err
    assert verified.code == 0
    assert snapshot(tmp_path / "copy") == snapshot(finished_release)


def test_part_is_downloaded_and_verified_as_a_part(
    call: Call, finished_release: Path, address: str, tmp_path: Path
) -> None:
    call("publish", finished_release, address, "--no-verify")

    part = call("download", f"{address}@v1.0.0", "--only", "fp16", "--runtime", "onnxruntime", "--json")

    assert part.result["path"] == NAME
    parts = [entry for entry in open_bundle(finished_release).manifest.files if entry.precision is not None]
    assert len(part.result["left_out"]) == len(parts) - 1
    assert "--partial" in part.err
    assert call("verify", tmp_path / NAME, "--no-run").code == 1
    assert call("verify", tmp_path / NAME, "--partial").code == 0


def test_signed_release_is_insisted_on_by_option_and_by_setting(
    call: Call, slim_release: Path, address: str, tmp_path: Path, keys: tuple[KeyPair, KeyPair]
) -> None:
    ours, theirs = keys
    assert call("sign", slim_release, "--private-key", ours.private).code == 0
    assert "was signed so already" in call("sign", slim_release, "--private-key", ours.private).err
    assert call("publish", slim_release, address, "--no-verify", "--public-key", theirs.public).code == 1
    assert call("publish", slim_release, address, "--no-verify", "--public-key", ours.public).code == 0

    good = call("download", address, "--to", "good", "--public-key", ours.public)
    bad = call("download", address, "--to", "bad", "--public-key", theirs.public)
    settings = tmp_path / "config" / "aethernet" / "trust.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'["{address.rpartition("/")[0]}"]\npublic_key = "{theirs.public}"\n')
    by_setting = call("download", address, "--to", "bad")

    assert good.code == 0
    assert "signed by the key" in good.err
    for refused in (bad, by_setting):
        assert refused.code == 1
        assert "error: model.sig: expected a signature by the key" in refused.err
    assert not (tmp_path / "bad").exists()
    assert call("verify", "good", "--no-run", "--public-key", ours.public).code == 0
    assert call("verify", "good", "--no-run", "--public-key", theirs.public).code == 1
    assert "which was not checked" in call("verify", "good", "--no-run").err


@pytest.mark.parametrize("path", [f"{NAME}_fp32.onnx", "release.json", "model.sig"])
def test_tampering_is_refused_by_verify(
    call: Call, slim_release: Path, keys: tuple[KeyPair, KeyPair], path: str
) -> None:
    call("sign", slim_release, "--private-key", keys[0].private)
    flip_byte(slim_release / path)

    found = call("verify", slim_release, "--no-run", "--public-key", keys[0].public)

    assert found.code == 1
    assert path in found.out


def test_changed_release_is_not_signed(call: Call, slim_release: Path, keys: tuple[KeyPair, KeyPair]) -> None:
    flip_byte(slim_release / "config.json")

    refused = call("sign", slim_release, "--private-key", keys[0].private)

    assert refused.code == 1
    assert "refusing to sign a changed release" in refused.err
    assert not (slim_release / "model.sig").exists()


def test_yanked_version_is_listed_as_such_and_warned_of(
    call: Call, slim_release: Path, hub_server: HubServer, address: str
) -> None:
    call("publish", slim_release, address, "--no-verify")

    assert call("yank", f"{address}@1.0.0", "--reason", "tints blue").code == 0
    listed = call("list", hub_server.place)
    warned = call("download", f"{address}@1.0.0")
    refused = call("download", address)

    assert "yanked: tints blue" in listed.out
    assert listed.out.splitlines()[0].split()[:3] == ["release", "version", "preset"]
    assert f"warning: {NAME} 1.0.0 was yanked: tints blue" in warned.err
    assert refused.code == 1
    assert call("yank", f"{address}@1.0.0", "--undo").code == 0
    assert call("list", hub_server.place, "--json").result[0]["yanked"] is None


def test_failed_look_at_what_was_published_takes_it_back(
    call: Call, slim_release: Path, hub_server: HubServer, address: str
) -> None:
    hub_server.faults = [Fault("corrupt", match="GET /object/", times=-1)]

    failed = call("publish", slim_release, address)

    assert failed.code == 1
    assert "is not what was released" in failed.err
    assert "was taken back" in failed.err
    assert hub_server.state()[REPOSITORY]["tags"] == {}


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, 1, "answered 401"),
        (403, 1, "answered 403"),
        (404, 1, "answered 404"),
        (409, 1, "answered 409"),
        (429, 1, "answered 429"),
        (500, 1, "answered 500"),
    ],
)
def test_refusal_is_one_line_and_a_hint_and_exit_code_1(
    call: Call, slim_release: Path, hub_server: HubServer, address: str, status: int, code: int, words: str
) -> None:
    hub_server.faults = [Fault("status", match="/commit/", status=status, times=-1)]

    failed = call("publish", slim_release, address)

    assert failed.code == code
    assert failed.out == ""
    assert words in failed.err
    errors = [line for line in failed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in failed.err
    assert hub_server.state()[REPOSITORY]["tags"] == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["publish", "nowhere", "no-address"],
        ["download", "no-address"],
        ["download", "ftp://hub/net"],
        ["download", "hf://org/net", "--public-key", "nowhere.pub"],
        ["download", "hf://org/net", "--identity", "me"],
        ["download", "hf://org/net", "--only", "fp12"],
        ["download", "hf://org/net", "--runtime", "abacus"],
        ["list", "somewhere"],
        ["yank", "hf://org/net", "--reason", "x"],
        ["yank", "hf://org/net@1.0.0"],
        ["sign", "nowhere"],
        ["sign", "nowhere", "--sigstore", "--private-key", "k"],
    ],
)
def test_misuse_is_exit_code_2_in_words(call: Call, arguments: list[str]) -> None:
    called = call(*arguments)

    assert called.code == 2
    assert called.out == ""
    assert "expected" in called.err or "could not read" in called.err


def test_version_in_the_address_must_be_the_release_s(call: Call, slim_release: Path, address: str) -> None:
    called = call("publish", slim_release, f"{address}@2.0.0")

    assert called.code == 2
    assert "expected an address of version 1.0.0" in called.err


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_token_is_nowhere_in_what_a_command_says(
    call: Call,
    slim_release: Path,
    hub_server: HubServer,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    debug: list[str],
) -> None:
    hub_server.tokens = {TOKEN: {"read", "write"}}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    said = ""
    for request in ("/refs", "/create", "/preupload/", "/objects/batch", "/upload/", "/verify", "/commit/", "/tag/"):
        hub_server.faults = [Fault("status", match=request, status=403, say="not with {authorization}")]
        called = call("publish", slim_release, address, *debug)
        assert called.code == 1
        said += called.out + called.err

    assert "not with" in said
    assert TOKEN not in said
    assert "c0ffee" not in said  # what signs the addresses of uploads
    assert any(TOKEN in header for _, _, header in hub_server.log)


# --- killed ----------------------------------------------------------------------------------------------------------


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    code = "from aethernet.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_at(hub: HubServer, request: str, *arguments: object) -> None:
    """Kill a command when it waits for the answer to a request; the hub does what it was asked for all the same."""
    hub.faults = [Fault("delay", match=request, seconds=0.5)]
    process = start(*arguments)
    deadline = time.monotonic() + 60
    while hub.faults[0].hits == 0 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert hub.faults[0].hits == 1
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    time.sleep(0.6)
    hub.faults = []


KILLED_AT = ["/repos/create", "/objects/batch", "PUT /upload/", "/verify", "/commit/", "POST .*/tag/"]


@pytest.mark.parametrize(
    "request_", [pytest.param(one, marks=[] if one == "/commit/" else pytest.mark.slow) for one in KILLED_AT]
)
def test_killed_publisher_has_published_nothing_or_everything_and_the_next_one_finishes(
    call: Call, slim_release: Path, hub_server: HubServer, address: str, request_: str
) -> None:
    kill_at(hub_server, request_, "publish", slim_release, address, "--no-verify")
    tags = hub_server.state().get(REPOSITORY, {"tags": {}})["tags"]
    assert tags in ({}, {"v1.0.0": snapshot(slim_release)})

    assert call("publish", slim_release, address, "--no-verify").code == 0

    state = hub_server.state()[REPOSITORY]
    assert state["tags"] == {"v1.0.0": snapshot(slim_release)}
    assert state["history"] == [f"{NAME} 1.0.0", "initial commit"]


def test_killed_download_left_no_release_and_the_next_one_goes_on(
    call: Call, slim_release: Path, hub_server: HubServer, address: str, tmp_path: Path
) -> None:
    call("publish", slim_release, address, "--no-verify")
    reference = snapshot(slim_release)[f"{NAME}_notfused.safetensors"]
    kill_at(hub_server, f"GET /object/{reference}", "download", f"{address}@1.0.0", "--to", tmp_path / "place" / NAME)
    assert not (tmp_path / "place" / NAME).exists()

    done = call("download", f"{address}@1.0.0", "--to", tmp_path / "place" / NAME, "--json")

    assert done.code == 0
    assert (
        done.result["received"]
        < sum(path.stat().st_size for path in slim_release.iterdir())
        - (slim_release / f"{NAME}_fp32.onnx").stat().st_size
        + 1
    )
    assert snapshot(tmp_path / "place" / NAME) == snapshot(slim_release)
    assert list((tmp_path / "place").iterdir()) == [tmp_path / "place" / NAME]
