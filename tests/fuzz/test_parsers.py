"""Bytes from strangers end in a clear error: no crash, nothing written, no network, no memory without bounds."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aethernet.errors import AethernetError, BundleError
from aethernet.hub.address import Address
from aethernet.hub.download import download
from aethernet.hub.publishing import publish_release
from aethernet.release.bundle import open_bundle
from aethernet.release.signing import Signer, sign_bundle
from aethernet.release.verification import verify_bundle
from tests.fuzz.parsers import TARGETS
from tests.support.hub_server import HubServer
from tests.support.keys import KeyPair
from tests.support.releases import NAME, snapshot, tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
FUZZ = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory, finished_release: Path, keys: tuple[KeyPair, KeyPair]):
    """A good input for every target."""
    folder = tmp_path_factory.mktemp("seeds")
    signed = Path(shutil.copytree(finished_release, folder / NAME))
    sign_bundle(open_bundle(signed), Signer(private_key=keys[0].private))
    return {
        "manifest": (signed / "release.json").read_bytes(),
        "build": (signed / "build.json").read_bytes(),
        "spec": (ROOT / "releases" / "aether_tiny_2x" / "release.toml").read_bytes(),
        "trust": f'["hf://org"]\npublic_key = "{keys[0].public}"\n'.encode(),
        "signature": (signed / "model.sig").read_bytes(),
        "checkpoint": tiny_checkpoint(folder).read_bytes(),
        "header": tiny_checkpoint(folder).read_bytes(),
        "address": b"hf://org/net@1.0.0",
    }


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something from a stranger made us open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@st.composite
def damage(draw: st.DrawFn) -> list[tuple[float, int, bytes]]:
    """Places, as shares of a length; bytes to drop there; bytes to put there."""
    one = st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=24))
    return draw(st.lists(one, min_size=1, max_size=6))


def damaged(data: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for share, dropped, put in changes:
        place = int(share * len(data))
        data = data[:place] + put + data[place + dropped :]
    return data


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_any_bytes_end_in_a_clear_error(target: str) -> None:
    @FUZZ
    @given(st.binary(max_size=400) | JSON.map(lambda value: json.dumps(value).encode()))
    def run(data: bytes) -> None:
        TARGETS[target](data)

    run()


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_good_input_with_some_damage_ends_in_a_clear_error(target: str, seeds: dict[str, bytes]) -> None:
    @FUZZ
    @given(damage())
    def run(changes: list[tuple[float, int, bytes]]) -> None:
        TARGETS[target](damaged(seeds[target], changes))

    run()


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("target", ["manifest", "build"])
def test_good_record_with_some_other_value_ends_in_a_clear_error(target: str, seeds: dict[str, bytes]) -> None:
    fields = sorted(json.loads(seeds[target]))

    @FUZZ
    @given(st.sampled_from(fields), JSON)
    def run(field: str, value: object) -> None:
        TARGETS[target](json.dumps({**json.loads(seeds[target]), field: value}).encode())

    run()


BOMBS = {
    "deep JSON": ("manifest", b"[" * 1_000_000),
    "deep TOML": ("spec", b"a = " + b"[" * 100_000),
    "deep settings": ("trust", b"a = " + b"[" * 100_000),
    "huge number": ("manifest", b'{"schema_version": ' + b"9" * 100_000 + b"}"),
    "safetensors header of an exabyte": ("checkpoint", (2**60).to_bytes(8, "little") + b"{"),
    "safetensors tensor of an exabyte": (
        "checkpoint",
        (lambda header: len(header).to_bytes(8, "little") + header)(
            b'{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4611686018427387904]}}'
        ),
    ),
    "pickle that calls": ("checkpoint", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00trueq\x00\x85R."),
}


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("name", BOMBS)
def test_bomb_does_not_go_off(name: str) -> None:
    import resource

    target, data = BOMBS[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    TARGETS[target](data)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@st.composite
def trees(draw: st.DrawFn) -> dict[str, bytes | str]:
    """Path -> content, or the target of a link."""
    names = st.sampled_from(
        ["release.json", "build.json", "README.md", "report.html", "model.sig", "a", "b/c", "CON", "d.onnx", "b"]
    )
    content = st.binary(max_size=60) | st.sampled_from(["/etc/passwd", "..", "release.json", "/nowhere"])
    return draw(st.dictionaries(names, content, max_size=6))


@pytest.mark.usefixtures("_no_network")
@FUZZ
@given(tree=trees())
def test_any_folder_is_judged_in_words(tree: dict[str, bytes | str], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("tree")
    for path, content in tree.items():
        place = root / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(content) if isinstance(content, str) else place.write_bytes(content)
        except OSError:
            continue  # one path is another one's folder
    before = snapshot(root)

    found = verify_bundle(root)

    assert not found.ok
    assert snapshot(root) == before


@FUZZ
@given(
    entries=st.lists(
        JSON | st.fixed_dictionaries({"path": st.text(), "size": st.integers(), "type": JSON, "oid": JSON})
    )
)
def test_any_list_of_files_from_a_hub_ends_in_words(entries: list[object], hub_world: tuple[HubServer, Path]) -> None:
    hub, folder = hub_world
    hub.extra_tree = entries  # type: ignore[assignment]
    try:
        download(Address(place=hub.place, name=NAME), folder / NAME)
    except AethernetError:
        assert list(folder.iterdir()) == []
    else:
        shutil.rmtree(folder / NAME)  # an empty list, or folders only


@pytest.fixture
def hub_world(slim_release: Path, hub_server: HubServer, tmp_path: Path) -> tuple[HubServer, Path]:
    publish_release(slim_release, hub_server.place, NAME)
    (tmp_path / "place").mkdir()
    return hub_server, tmp_path / "place"


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret", "secret-link"])
def test_onnx_file_that_points_outside_the_release_is_not_run(release: Path, location: str) -> None:
    import onnx
    from onnx.external_data_helper import set_external_data

    from aethernet.artifact import file_digest
    from aethernet.release.manifest import identity_of
    from tests.support.releases import rewrite

    path = release / f"{NAME}_fp32.onnx"
    model = onnx.load(str(path))
    tensor = next(one for one in model.graph.initializer if one.HasField("raw_data") and len(one.raw_data) > 100)
    (release.parent / "secret").write_bytes(tensor.raw_data)
    set_external_data(tensor, location=location)
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    opened = open_bundle(release)
    files = tuple(
        entry.model_copy(update={"sha256": file_digest(path), "size": path.stat().st_size})
        if entry.path == path.name
        else entry
        for entry in opened.manifest.files
    )
    manifest = opened.manifest.model_copy(update={"files": files, "identity": identity_of(files)})
    rewrite(release, manifest, opened.build.model_copy(update={"identity": manifest.identity}))

    found = verify_bundle(release)

    assert len(found.problems) == 1
    assert "could not be run on the check image" in found.problems[0]


def test_record_that_is_a_link_out_of_the_release_is_not_read(release: Path, tmp_path: Path) -> None:
    shutil.move(release / "release.json", tmp_path / "elsewhere.json")
    (release / "release.json").symlink_to(tmp_path / "elsewhere.json")

    with pytest.raises(BundleError, match=r"release\.json"):
        open_bundle(release)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="needs atheris (pip install 'aethernet-sr[fuzzing]')")
@pytest.mark.parametrize("target", ["manifest", "spec", "signature", "checkpoint"])
def test_fuzzer_guided_by_coverage_finds_nothing_either(target: str, seeds: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "good").write_bytes(seeds[target])
    limits = ["-max_total_time=2", "-rss_limit_mb=3000", "-timeout=20", f"-artifact_prefix={tmp_path}/"]

    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.parsers", target, str(tmp_path / "corpus"), *limits],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
