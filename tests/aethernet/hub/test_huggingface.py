"""The Hugging Face hub: the real client, over HTTP, against the loopback hub."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from aethernet.errors import AlreadyPublishedError, ConflictError, HubError, UnreachableError, UsageError
from aethernet.hub.catalogue import list_releases
from aethernet.hub.connecting import connect
from aethernet.hub.protocol import Publication, newest_version
from aethernet.hub.publishing import publish_release
from aethernet.release.bundle import open_bundle
from aethernet.release.manifest import MANIFEST
from tests.support.hub_server import Fault, HubServer
from tests.support.releases import NAME, flip_byte, rewrite, snapshot

REPOSITORY = f"org/{NAME}"


def publish(bundle: Path, hub: HubServer) -> Publication:
    return publish_release(bundle, hub.place, NAME)


def with_version(bundle: Path, version: str) -> Path:
    """The release under another version."""
    rewrite(bundle, open_bundle(bundle).manifest.model_copy(update={"version": version}))
    return bundle


def with_other_identity(bundle: Path) -> Path:
    """Another release under the same version, whole in itself."""
    from aethernet.artifact import file_digest
    from aethernet.release.manifest import identity_of

    opened = open_bundle(bundle)
    (bundle / "config.json").write_text("{}")
    files = tuple(
        entry.model_copy(update={"sha256": file_digest(bundle / entry.path), "size": 2})
        if entry.path == "config.json"
        else entry
        for entry in opened.manifest.files
    )
    manifest = opened.manifest.model_copy(update={"files": files, "identity": identity_of(files)})
    rewrite(bundle, manifest, opened.build.model_copy(update={"identity": manifest.identity}))
    return bundle


def test_publishing_is_one_commit_with_all_files_and_one_tag(slim_release: Path, hub_server: HubServer) -> None:
    publication = publish(slim_release, hub_server)

    state = hub_server.state()[REPOSITORY]
    assert publication == Publication(
        place=hub_server.place,
        name=NAME,
        version="1.0.0",
        identity=open_bundle(slim_release).manifest.identity,
        already_there=False,
    )
    assert state["history"] == [f"{NAME} 1.0.0", "initial commit"]
    assert state["tags"] == {"v1.0.0": snapshot(slim_release)}
    assert len(hub_server.requests("POST .*/commit/")) == 1


def test_private_repository_is_made_private_and_a_public_one_public(slim_release: Path, hub_server: HubServer) -> None:
    publish_release(slim_release, hub_server.place, "secret", private=True)
    publish_release(slim_release, hub_server.place, "open")

    assert {name: repository.private for name, repository in hub_server.repositories.items()} == {
        "org/secret": True,
        "org/open": False,
    }


def test_publishing_the_same_again_does_nothing_and_says_so(slim_release: Path, hub_server: HubServer) -> None:
    publish(slim_release, hub_server)
    before = hub_server.state()

    again = publish(slim_release, hub_server)

    assert again.already_there
    assert hub_server.state() == before


def test_another_release_under_a_published_version_is_refused(slim_release: Path, hub_server: HubServer) -> None:
    publish(slim_release, hub_server)
    before = hub_server.state()

    with pytest.raises(AlreadyPublishedError, match="is published with identity"):
        publish(with_other_identity(slim_release), hub_server)

    assert hub_server.state() == before


def test_tag_that_holds_something_else_than_a_release_is_never_moved(slim_release: Path, hub_server: HubServer) -> None:
    repository = hub_server.create(REPOSITORY)
    repository.tags["v1.0.0"] = repository.branches["main"]
    before = hub_server.state()

    with pytest.raises(AlreadyPublishedError, match="not a release of ours"):
        publish(slim_release, hub_server)

    assert hub_server.state() == before


def test_next_version_replaces_the_files_and_keeps_the_old_tag(slim_release: Path, hub_server: HubServer) -> None:
    publish(slim_release, hub_server)
    first = snapshot(slim_release)
    opened = open_bundle(slim_release)
    kept = tuple(entry for entry in opened.manifest.files if entry.role != "config")
    (slim_release / "config.json").unlink()
    rewrite(slim_release, opened.manifest.model_copy(update={"files": kept, "version": "1.1.0"}))
    connect(hub_server.place).publish(open_bundle(slim_release), NAME)

    state = hub_server.state()[REPOSITORY]
    assert state["tags"] == {"v1.0.0": first, "v1.1.0": snapshot(slim_release)}
    assert connect(hub_server.place).versions(NAME) == ["1.1.0", "1.0.0"]


def test_finished_uploads_are_not_sent_again_after_an_interruption(slim_release: Path, hub_server: HubServer) -> None:
    hub_server.faults = [Fault("status", match="POST .*/commit/", status=403)]
    with pytest.raises(HubError, match="403"):
        publish(slim_release, hub_server)
    sent = hub_server.bytes_received

    publish(slim_release, hub_server)

    large = [f"{NAME}_fp32.onnx", f"{NAME}_notfused.safetensors"]
    assert sent == sum((slim_release / path).stat().st_size for path in large)
    assert hub_server.bytes_received == sent
    assert hub_server.state()[REPOSITORY]["history"] == [f"{NAME} 1.0.0", "initial commit"]


def test_large_files_may_go_in_parts(slim_release: Path, hub_server: HubServer) -> None:
    hub_server.multipart = 50_000

    publish(slim_release, hub_server)

    assert len(hub_server.requests("PUT /part/")) > 4
    assert hub_server.state()[REPOSITORY]["tags"] == {"v1.0.0": snapshot(slim_release)}


def test_file_that_the_hub_drops_silently_means_no_tag(slim_release: Path, hub_server: HubServer) -> None:
    hub_server.ignore = {"config.json"}

    with pytest.raises(HubError, match=r"did not take the release as it is: config\.json is missing"):
        publish(slim_release, hub_server)

    assert hub_server.state()[REPOSITORY]["tags"] == {}


# --- others at the same time -----------------------------------------------------------------------------------------


class Between:
    """Does something on the hub right before a request is looked at."""

    def __init__(self, hub: HubServer, monkeypatch: pytest.MonkeyPatch, pattern: str, action) -> None:
        real, done = hub.take_fault, []

        def take_fault(line: str):
            if pattern in line and not done:
                done.append(line)
                action()
            return real(line)

        monkeypatch.setattr(hub, "take_fault", take_fault)


def test_commit_of_somebody_else_in_between_is_a_conflict_and_is_kept(
    slim_release: Path, hub_server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = hub_server.create(REPOSITORY)
    notes = hub_server.put(b"notes")
    Between(hub_server, monkeypatch, "/commit/", lambda: repository.add("main", {"notes.txt": notes}, "mine"))

    with pytest.raises(ConflictError, match="412"):
        publish(slim_release, hub_server)

    assert repository.history == ["mine", "initial commit"]
    assert repository.tags == {}
    assert len(hub_server.requests("/commit/")) == 1


def test_of_two_publishers_at_once_one_wins_and_the_other_is_told(
    slim_release: Path, hub_server: HubServer, tmp_path: Path
) -> None:
    import shutil

    other = with_other_identity(Path(shutil.copytree(slim_release, tmp_path / "other")))
    outcomes: list[str] = []

    def run(bundle: Path) -> None:
        try:
            publish(bundle, hub_server)
            outcomes.append("won")
        except (ConflictError, AlreadyPublishedError) as error:
            outcomes.append(type(error).__name__)

    for round_ in range(5):
        hub_server.repositories.clear()
        outcomes.clear()
        threads = [threading.Thread(target=run, args=(bundle,)) for bundle in (slim_release, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert outcomes.count("won") == 1, (round_, outcomes)
        assert len(outcomes) == 2
        assert list(hub_server.state()[REPOSITORY]["tags"].values()) in ([snapshot(slim_release)], [snapshot(other)])


def test_two_versions_at_once_are_both_whole_or_one_is_told(
    slim_release: Path, hub_server: HubServer, tmp_path: Path
) -> None:
    import shutil

    other = with_version(Path(shutil.copytree(slim_release, tmp_path / "other")), "2.0.0")
    told: list[str] = []

    def run(bundle: Path) -> None:
        try:
            publish(bundle, hub_server)
        except ConflictError as error:
            told.append(str(error))
            publish(bundle, hub_server)

    threads = [threading.Thread(target=run, args=(bundle,)) for bundle in (slim_release, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert hub_server.state()[REPOSITORY]["tags"] == {"v1.0.0": snapshot(slim_release), "v2.0.0": snapshot(other)}


# --- who may ---------------------------------------------------------------------------------------------------------

TOKEN = "hf_writersecret0123456789"


@pytest.fixture
def writer(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch) -> str:
    hub_server.tokens = {TOKEN: {"read", "write"}, "hf_readersecret0123456789": {"read"}}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return TOKEN


def test_token_from_the_environment_is_sent_to_the_hub_and_never_to_where_it_sends_us(
    slim_release: Path, hub_server: HubServer, writer: str, tmp_path: Path
) -> None:
    from aethernet.hub.address import Address
    from aethernet.hub.download import download

    publication = publish_release(slim_release, hub_server.place, NAME, private=True)
    download(Address.parse(publication.address), tmp_path / "copy")

    sent = {server: {header for name, _, header in hub_server.log if name == server} for server in ("hub", "cdn")}
    assert f"Bearer {writer}" in sent["hub"]
    assert sent["cdn"] == {""}


def test_token_is_not_sent_to_a_hub_that_the_client_is_not_set_up_for(
    slim_release: Path, hub_server: HubServer, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://huggingface.co")

    with pytest.raises(HubError, match="answered 401") as raised:
        publish(slim_release, hub_server)

    assert "HF_ENDPOINT" in raised.value.hint
    assert {header for _, _, header in hub_server.log} == {""}


@pytest.mark.parametrize(
    ("token", "words", "hint"),
    [
        ("", "answered 401", "log in"),
        ("hf_wrongwrongwrong", "answered 401", "log in"),
        ("hf_readersecret0123456789", "answered 403", "lacks the right"),
    ],
)
def test_who_may_not_write_is_told_at_once(
    slim_release: Path,
    hub_server: HubServer,
    writer: str,
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    words: str,
    hint: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)

    with pytest.raises(HubError, match=words) as raised:
        publish(slim_release, hub_server)

    assert hint in raised.value.hint
    assert hub_server.repositories == {}
    assert hub_server.waits == []
    assert len(hub_server.log) <= 3


def test_token_that_expires_during_the_upload_ends_without_a_release_and_without_a_retry_storm(
    slim_release: Path, hub_server: HubServer, writer: str
) -> None:
    publish_release(slim_release, hub_server.place, "probe")
    hub_server.log.clear()
    hub_server.expires_after = 7

    with pytest.raises(HubError, match="answered 401"):
        publish(slim_release, hub_server)

    assert hub_server.state()[REPOSITORY]["tags"] == {}
    assert hub_server.waits == []
    assert len(hub_server.log) < 15


def test_private_release_is_hidden_from_strangers(
    slim_release: Path, hub_server: HubServer, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_release(slim_release, hub_server.place, NAME, private=True)
    monkeypatch.delenv("HF_TOKEN")

    assert connect(hub_server.place).versions(NAME) == []
    with pytest.raises(HubError, match="answered 404"):
        connect(hub_server.place).snapshot(NAME, "1.0.0")


def test_gated_release_says_whom_to_ask(slim_release: Path, hub_server: HubServer, writer: str) -> None:
    publish(slim_release, hub_server)
    hub_server.repositories[REPOSITORY].gated = True

    with pytest.raises(HubError, match="403") as raised:
        connect(hub_server.place).snapshot(NAME, "1.0.0")

    assert "ask its owners" in raised.value.hint


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("request_", ["GET .*/refs", "POST /api/repos/create", "POST .*/commit/", "POST .*/tag/"])
def test_hub_that_repeats_the_token_does_not_make_us_print_it(
    slim_release: Path, hub_server: HubServer, writer: str, request_: str, after: bool
) -> None:
    if "/refs" in request_:
        hub_server.create(REPOSITORY)
    kind = "status_after" if after else "status"
    hub_server.faults = [Fault(kind, match=request_, status=403, say="no, {authorization}!")]

    with pytest.raises(HubError, match="no, ") as raised:
        publish(slim_release, hub_server)

    assert TOKEN not in str(raised.value)
    assert raised.value.__cause__ is None


# --- trying again ----------------------------------------------------------------------------------------------------


def test_busy_hub_is_waited_for_as_long_as_it_asks(slim_release: Path, hub_server: HubServer) -> None:
    hub_server.faults = [Fault("status", match="POST .*/commit/", status=429, headers={"Retry-After": "7"}, times=2)]
    told: list[str] = []

    publish_release(slim_release, hub_server.place, NAME, tell=told.append)

    assert hub_server.waits == [7, 7]
    assert all("answered 429" in line and "trying again in 7 s" in line for line in told)
    assert hub_server.state()[REPOSITORY]["history"] == [f"{NAME} 1.0.0", "initial commit"]


def test_hub_that_asks_for_too_much_patience_is_given_up(slim_release: Path, hub_server: HubServer) -> None:
    hub_server.faults = [Fault("status", match="/refs", status=503, headers={"Retry-After": "3600"}, times=-1)]

    with pytest.raises(UnreachableError, match="answered 503"):
        publish(slim_release, hub_server)

    assert hub_server.waits == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("/refs", 401),
        ("/refs", 404),
        ("/repos/create", 403),
        ("/repos/create", 409),
        ("/preupload/", 404),
        ("/objects/batch", 403),
        ("/commit/", 400),
        ("/commit/", 412),
    ],
)
def test_refusals_are_not_tried_again(slim_release: Path, hub_server: HubServer, request_: str, status: int) -> None:
    hub_server.create(REPOSITORY) if request_ != "/repos/create" else None
    hub_server.faults = [Fault("status", match=request_, status=status, times=-1)]
    tolerated = (request_, status) in {("/repos/create", 409), ("/refs", 404)}

    with pytest.raises(HubError, match="404" if tolerated else str(status)):
        publish(slim_release, hub_server)

    assert hub_server.waits == []
    assert len(hub_server.requests(request_)) <= (2 if tolerated else 1)
    assert all(repository.tags == {} for repository in hub_server.repositories.values())


def test_hub_that_never_answers_is_given_up(
    slim_release: Path, hub_server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aethernet.hub.client._SECONDS", dict.fromkeys(("connect", "read", "write", "pool"), 0.05))
    hub_server.faults = [Fault("delay", match="/refs", seconds=0.2, times=-1)]

    with pytest.raises(UnreachableError, match="timed out"):
        publish(slim_release, hub_server)

    assert len(hub_server.waits) == 4


def test_client_s_own_calls_get_a_time_limit_too(
    slim_release: Path, hub_server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aethernet.hub.client._SECONDS", dict.fromkeys(("connect", "read", "write", "pool"), 0.1))
    hub_server.faults = [Fault("delay", match="POST .*/tag/", seconds=0.5)]

    publish(slim_release, hub_server)

    assert len(hub_server.requests("POST .*/tag/")) <= 2
    assert list(hub_server.state()[REPOSITORY]["tags"]) == ["v1.0.0"]


# --- yanking, listing ------------------------------------------------------------------------------------------------


def test_yanked_version_keeps_its_files_and_is_skipped_as_the_newest(slim_release: Path, hub_server: HubServer) -> None:
    hub = connect(hub_server.place)
    publish(slim_release, hub_server)
    publish(with_version(slim_release, "1.1.0"), hub_server)
    before = hub_server.state()

    hub.yank(NAME, "1.1.0", "tints blue")

    assert hub.yanked(NAME) == {"1.1.0": "tints blue"}
    assert newest_version(hub, NAME) == "1.0.0"
    assert hub_server.state() == before
    hub.yank(NAME, "1.1.0", None)
    assert hub.yanked(NAME) == {}
    assert newest_version(hub, NAME) == "1.1.0"


def test_yanking_what_is_not_there_is_refused(slim_release: Path, hub_server: HubServer) -> None:
    publish(slim_release, hub_server)

    with pytest.raises(HubError, match=r"found versions: 1\.0\.0"):
        connect(hub_server.place).yank(NAME, "3.0.0", "no")


def test_when_every_version_is_yanked_there_is_no_newest(slim_release: Path, hub_server: HubServer) -> None:
    hub = connect(hub_server.place)
    publish(slim_release, hub_server)
    hub.yank(NAME, "1.0.0", "broken")

    with pytest.raises(HubError, match=r"every version .* is yanked: broken"):
        newest_version(hub, NAME)


def test_newest_version_is_no_pre_release_where_there_is_another(slim_release: Path, hub_server: HubServer) -> None:
    publish(slim_release, hub_server)
    publish(with_version(slim_release, "2.0.0-rc.1"), hub_server)

    assert connect(hub_server.place).versions(NAME) == ["2.0.0-rc.1", "1.0.0"]
    assert newest_version(connect(hub_server.place), NAME) == "1.0.0"


def test_list_shows_every_version_and_leaves_out_what_is_no_release(
    finished_release: Path, hub_server: HubServer
) -> None:
    publish(finished_release, hub_server)
    stray = hub_server.create("org/stray")
    stray.tags["v1.0.0"] = stray.branches["main"]
    broken = hub_server.create("org/broken")
    broken.add("main", {MANIFEST: hub_server.put(b"{}")}, "nonsense")
    broken.tags["v1.0.0"] = broken.branches["main"]
    hub_server.create("else/where")

    offers = list_releases(connect(hub_server.place))

    assert [(offer.name, offer.version, offer.scale, offer.forms) for offer in offers] == [
        (NAME, "1.0.0", 2, ("fp32", "fp16"))
    ]
    manifest = open_bundle(finished_release).manifest
    quality = [item.psnr_rgb for item in manifest.quality if item.form == f"{NAME}_fp32.onnx" and item.psnr_rgb]
    assert offers[0].psnr == pytest.approx(sum(quality) / len(quality))
    assert offers[0].size == sum(path.stat().st_size for path in finished_release.rglob("*") if path.is_file())
    assert not offers[0].signed


def test_fingerprint_follows_what_the_tag_holds(slim_release: Path, hub_server: HubServer) -> None:
    hub = connect(hub_server.place)
    assert hub.fingerprint(NAME, "1.0.0") == ""
    publish(slim_release, hub_server)
    before = hub.fingerprint(NAME, "1.0.0")
    repository = hub_server.repositories[REPOSITORY]

    repository.tags["v1.0.0"] = repository.add("main", {"a": hub_server.put(b"a")}, "moved")

    assert before
    assert hub.fingerprint(NAME, "1.0.0") not in ("", before)


def test_retracted_version_is_gone_and_can_be_published_again(slim_release: Path, hub_server: HubServer) -> None:
    publication = publish(slim_release, hub_server)

    connect(hub_server.place).retract(publication)

    assert hub_server.state()[REPOSITORY]["tags"] == {}
    assert not publish(slim_release, hub_server).already_there
    assert hub_server.state()[REPOSITORY]["history"] == [f"{NAME} 1.0.0", "initial commit"]


@pytest.mark.parametrize(
    "place",
    [
        "hf://",
        "hf://user:secret@org",
        "hf://org/deeper/still",
        "hf+http://hub",
        "hf+https://me:secret@hub/org",
        "hf://..",
    ],
)
def test_what_is_no_place_is_refused_and_a_password_in_it_not_repeated(place: str) -> None:
    with pytest.raises(UsageError) as raised:
        connect(place)

    assert "secret" not in str(raised.value)


def test_changed_folder_is_not_published(slim_release: Path, hub_server: HubServer) -> None:
    from aethernet.errors import BundleError

    flip_byte(slim_release / "config.json")

    with pytest.raises(BundleError, match="refusing to publish a changed release"):
        publish(slim_release, hub_server)

    assert hub_server.log == []


def test_marks_that_make_no_sense_end_in_words(slim_release: Path, hub_server: HubServer) -> None:
    publish(slim_release, hub_server)
    repository = hub_server.repositories[REPOSITORY]
    for content in (b"\xff", b"[]", json.dumps([1]).encode()):
        repository.add("yanked", {"yanked.json": hub_server.put(content)}, "nonsense")

        with pytest.raises(HubError, match=r"yanked\.json"):
            connect(hub_server.place).yanked(NAME)
