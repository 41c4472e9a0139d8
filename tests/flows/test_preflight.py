"""What is looked at before a release starts: everything that is in the way is told at once, in the user's own names."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from aethernet.artifact import file_digest
from aethernet.errors import AethernetError, AlreadyPublishedError, HubError, SpecMismatchError, UsageError
from aethernet.hub.folder import FolderHub
from aethernet.hub.huggingface import HuggingFaceHub
from aethernet.release.bundle import open_bundle
from aethernet.release.spec import ReleaseSpec, read_spec
from aethernet.store.store import Store
from flows.preflight import Findings, look_first
from tests.support.keys import key_pair
from tests.support.releases import NAME, small_spec

REPOSITORY = Path(__file__).resolve().parents[2]
RELEASED = REPOSITORY / "tests" / "compat" / "schema1"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return small_spec(tmp_path / "spec")


def _look(spec: ReleaseSpec, root: Path, **places: str) -> None:
    findings = Findings()
    output, store = Path(places.get("output", root / "out")), Store(places.get("store", root / "store"))
    look_first(spec, output, places.get("hub", (root / "hub").as_uri()), store, findings)
    findings.require_none()


def test_release_that_can_be_made_passes_and_nothing_is_written(spec: Path, tmp_path: Path) -> None:
    _look(read_spec(spec), tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["spec"]


def _another_size(root: Path) -> None:
    path = sorted((root / "spec" / "high").iterdir())[0]
    with Image.open(path) as image:
        image.resize((image.width * 2, image.height * 2)).save(path)


def _no_image(root: Path) -> None:
    sorted((root / "spec" / "low").iterdir())[0].write_bytes(b"no image")


def _no_pair(root: Path) -> None:
    for path in (root / "spec" / "high").iterdir():
        path.rename(path.with_stem(f"other_{path.stem}"))


SPOILT: dict[str, tuple[Callable[[Path], object], type[AethernetError], str]] = {
    "no checkpoint": (lambda root: (root / "spec" / "tiny.safetensors").unlink(), UsageError, "expected a checkpoint"),
    "no image": (_no_image, UsageError, "spec/low/"),
    "no pair": (_no_pair, UsageError, "found no pair"),
    "another size": (_another_size, UsageError, "spec/high/"),
    "store is a file": (lambda root: (root / "store").write_text(""), AethernetError, "Not a directory"),
    "output is a file": (lambda root: (root / "out").write_text(""), AethernetError, "Not a directory"),
    "hub is a file": (lambda root: (root / "hub").write_text(""), AethernetError, "Not a directory"),
}


@pytest.mark.parametrize("case", SPOILT.values(), ids=SPOILT.keys())
def test_each_thing_in_the_way_is_told_with_the_users_own_names(
    spec: Path, tmp_path: Path, case: tuple[Callable[[Path], object], type[AethernetError], str]
) -> None:
    spoil, kind, words = case
    spoil(tmp_path)

    with pytest.raises(kind) as told:
        _look(read_spec(spec), tmp_path)

    assert words in str(told.value)
    assert str(tmp_path) in str(told.value) or "no pair" in words


def test_everything_in_the_way_is_told_at_once(spec: Path, tmp_path: Path) -> None:
    for spoil in (SPOILT["no checkpoint"], SPOILT["another size"], SPOILT["store is a file"], SPOILT["hub is a file"]):
        spoil[0](tmp_path)

    with pytest.raises(AethernetError) as told:
        _look(read_spec(spec), tmp_path)

    text = str(told.value)
    assert text.startswith("4 things are in the way; nothing was started:")
    for place in ("spec/tiny.safetensors", "spec/high/", "store", "hub"):
        assert f"{tmp_path}/{place}" in text
    assert not isinstance(told.value, UsageError)


def test_findings_that_are_all_misuse_are_misuse(spec: Path, tmp_path: Path) -> None:
    SPOILT["no checkpoint"][0](tmp_path)

    with pytest.raises(UsageError, match="2 things are in the way"):
        _look(read_spec(spec), tmp_path, hub="ftp://example.com/x")


def test_digest_of_another_checkpoint_is_found(spec: Path, tmp_path: Path) -> None:
    wanted = read_spec(spec).model_copy(update={"checkpoint_sha256": "0" * 64})

    with pytest.raises(SpecMismatchError, match="expected a checkpoint with sha256 0000"):
        _look(wanted, tmp_path)


@pytest.mark.parametrize(("extra", "passes"), [(1, True), (2, False)])
def test_pixels_that_would_be_cut_off_are_no_other_scale(spec: Path, tmp_path: Path, extra: int, passes: bool) -> None:
    for path in (tmp_path / "spec" / "high").iterdir():
        with Image.open(path) as image:
            image.resize((image.width + extra, image.height)).save(path)

    if passes:
        _look(read_spec(spec), tmp_path)
    else:
        with pytest.raises(UsageError, match="expected HR images"):
            _look(read_spec(spec), tmp_path)


def test_full_disk_is_found(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)

    def full(path: object) -> object:
        return type("Usage", (), {"total": real.f_blocks, "used": 0, "free": 1000})

    monkeypatch.setattr("flows.preflight.shutil.disk_usage", full)

    with pytest.raises(AethernetError, match="No space left on device"):
        _look(read_spec(spec), tmp_path)


def test_version_that_another_checkpoint_has_is_taken_and_that_of_the_same_is_free(spec: Path, tmp_path: Path) -> None:
    manifest = open_bundle(RELEASED).manifest
    FolderHub((tmp_path / "hub").as_uri()).publish(open_bundle(RELEASED), manifest.name)
    said = read_spec(spec).model_copy(update={"name": manifest.name, "version": manifest.version})

    _look(said.model_copy(update={"version": "99.0.0"}), tmp_path)
    with pytest.raises(AlreadyPublishedError, match="is published, from the checkpoint") as told:
        _look(said, tmp_path)
    assert "raise `version`" in told.value.hint

    published = tmp_path / "hub" / manifest.name / manifest.version / "release.json"
    own = file_digest(said.checkpoint)
    published.write_text(published.read_text().replace(manifest.checkpoint.sha256, own))
    _look(said, tmp_path)


@pytest.mark.parametrize(
    ("who", "passes"),
    [
        ({"name": "org"}, True),
        ({"name": "me", "orgs": [{"name": "org", "roleInOrg": "write"}]}, True),
        ({"name": "me", "orgs": [{"name": "org", "roleInOrg": "read"}]}, False),
        ({"name": "me", "orgs": [{"name": "other", "roleInOrg": "admin"}]}, False),
        ({"name": "org", "auth": {"accessToken": {"role": "read"}}}, False),
        (None, False),
    ],
)
def test_place_that_a_token_may_not_write_to_is_found(
    monkeypatch: pytest.MonkeyPatch, who: dict[str, object] | None, passes: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_0123456789" if who else None)
    hub = HuggingFaceHub("hf://org")
    monkeypatch.setattr(hub, "endpoint", "https://huggingface.co")  # a hub of one's own may take releases without token
    monkeypatch.setattr(hub._client, "whoami", lambda: who)

    if passes:
        hub.require_right_to_publish(NAME)
    else:
        with pytest.raises(HubError, match="expected a token that may write to hf://org"):
            hub.require_right_to_publish(NAME)


def test_command_tells_it_within_seconds_and_starts_neither_prefect_nor_pytorch(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "spec" / "tiny.safetensors").unlink()
    key = key_pair(tmp_path, "ours", b"a password").private
    code = (
        "import sys\nfrom flows.__main__ import main\n"
        "try:\n    main()\nfinally:\n    print(sorted({'prefect', 'torch'} & set(sys.modules)))\n"
    )
    arguments = [str(spec), "--hub", "ftp://example.com/x", "--sign-key", str(key), "--fresh"]
    places = ["--output", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    environment.pop("AETHERNET_KEY_PASSWORD", None)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [sys.executable, "-c", code, "release", *arguments, *places],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        cwd=REPOSITORY,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)

    assert run.returncode == 2, run.stderr
    assert "3 things are in the way" in run.stderr
    for words in (f"private key at {key}", "spec/tiny.safetensors", "ftp://example.com/x"):
        assert words in run.stderr
    assert run.stdout.strip() == "[]"
    assert seconds < 2.5, "of the processor, which a machine full of other work hardly changes"
