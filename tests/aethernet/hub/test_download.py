"""Downloads: verified while they arrive, in place in one step; hostile hubs, other people's folders, no network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aethernet.errors import AethernetError, BundleError, HubError, SignatureError, UnreachableError, UsageError
from aethernet.hub.address import Address
from aethernet.hub.connecting import connect
from aethernet.hub.download import Download, download, fetch_bundle, select_files
from aethernet.hub.publishing import publish_release
from aethernet.release.bundle import open_bundle
from aethernet.release.signing import Signer, Trust, sign_bundle
from aethernet.release.verification import verify_bundle
from tests.support.hub_server import Fault, HubServer
from tests.support.keys import KeyPair
from tests.support.releases import NAME, flip_byte, rewrite, snapshot

REPOSITORY = f"org/{NAME}"


@pytest.fixture
def published(slim_release: Path, hub_server: HubServer) -> Path:
    """A release on the loopback hub; the folder it came from."""
    publish_release(slim_release, hub_server.place, NAME)
    hub_server.log.clear()
    return slim_release


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to download into, with nothing else in it."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def get(hub: HubServer, folder: Path, version: str | None = None, **options: Any) -> Download:
    return download(Address(place=hub.place, name=NAME, version=version), folder, **options)


# --- what is fetched -------------------------------------------------------------------------------------------------


def test_newest_version_is_fetched_and_named(published: Path, hub_server: HubServer, place: Path) -> None:
    rewrite(published, open_bundle(published).manifest.model_copy(update={"version": "1.1.0"}))
    publish_release(published, hub_server.place, NAME)
    told: list[str] = []

    done = get(hub_server, place / NAME, on_message=told.append)

    assert done.version == "1.1.0"
    assert told == [f"newest version of {NAME}: 1.1.0"]
    assert snapshot(place / NAME) == snapshot(published)


def test_yanked_version_is_skipped_and_where_named_warned_of(
    published: Path, hub_server: HubServer, place: Path
) -> None:
    rewrite(published, open_bundle(published).manifest.model_copy(update={"version": "1.1.0"}))
    publish_release(published, hub_server.place, NAME)
    connect(hub_server.place).yank(NAME, "1.1.0", "tints \x1b[31mblue")
    told: list[str] = []

    assert get(hub_server, place / "newest").version == "1.0.0"
    assert get(hub_server, place / "named", "1.1.0", on_message=told.append).version == "1.1.0"

    assert told == [f"warning: {NAME} 1.1.0 was yanked: tints  [31mblue"]


@pytest.mark.parametrize(
    ("only", "runtime", "wanted"),
    [
        (["fp16"], None, ["fp16.onnx", "fp16.pth", "fp16.safetensors"]),
        (["fp16"], "onnxruntime", ["fp16.onnx"]),
        ([], "tensorrt_rtx", ["fp16.onnx", "fp32.onnx"]),
        ([], "pytorch", ["fp16.pth", "fp16.safetensors", "fp32.pth", "fp32.safetensors"]),
        (["reference"], None, ["notfused.safetensors"]),
    ],
)
def test_only_the_files_wanted_are_fetched_and_what_every_part_needs(
    finished_release: Path, hub_server: HubServer, place: Path, only: list[str], runtime: str | None, wanted: list[str]
) -> None:
    publish_release(finished_release, hub_server.place, NAME)

    done = get(hub_server, place / NAME, only=only, runtime=runtime)

    parts = [entry for entry in open_bundle(finished_release).manifest.files if entry.precision is not None]
    if (only, runtime) == (["fp16"], None):  # where ncnn is installed, its files are made
        wanted = [*wanted, *(entry.path.removeprefix(f"{NAME}_") for entry in parts if entry.role == "ncnn")]
    always = [
        "README.md",
        "bom.cdx.json",
        "build.json",
        "config.json",
        "openmodeldb.json",
        "release.json",
        "report.html",
    ]
    always += [f"images/{name}.png" for name in ("check_input", "check_output", "comparison")]
    assert sorted(snapshot(place / NAME)) == sorted([*always, *(f"{NAME}_{name}" for name in wanted)])
    assert verify_bundle(place / NAME, partial=True).problems == ()
    assert len(done.left_out) == len(parts) - len(wanted)


def test_more_forms_are_added_to_those_that_are_there_and_nothing_is_fetched_twice(
    finished_release: Path, hub_server: HubServer, place: Path
) -> None:
    publish_release(finished_release, hub_server.place, NAME)
    get(hub_server, place / NAME, only=["fp16"])

    more = get(hub_server, place / NAME, only=["fp32"], runtime="onnxruntime")
    again = get(hub_server, place / NAME, only=["fp16"])

    assert {path for path in snapshot(place / NAME) if "fp" in path} == {
        f"{NAME}_{name}" for name in ("fp16.onnx", "fp16.pth", "fp16.safetensors", "fp32.onnx")
    }
    small = ("release.json", "build.json", "README.md", "report.html", "openmodeldb.json")
    records = sum((finished_release / path).stat().st_size for path in small)
    assert more.received == records + (finished_release / f"{NAME}_fp32.onnx").stat().st_size
    assert again.already_there
    assert again.received == records


@pytest.mark.parametrize(("only", "runtime"), [(["fp8"], None), ([], "abacus"), (["int8"], None)])
def test_form_or_runtime_that_there_is_not_is_misuse(
    published: Path, hub_server: HubServer, place: Path, only: list[str], runtime: str | None
) -> None:
    with pytest.raises(UsageError):
        get(hub_server, place / NAME, only=only, runtime=runtime)

    assert list(place.iterdir()) == []


def test_tensorrt_files_are_for_tensorrt_only(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest
    entry = manifest.file("onnx", manifest.forms[0].precision, ".onnx")
    assert entry is not None
    special = entry.model_copy(update={"path": f"{NAME}_int8_trt.onnx"})
    manifest = manifest.model_copy(update={"files": (*manifest.files, special)})

    assert special in select_files(manifest, [], "tensorrt")
    assert special not in select_files(manifest, [], "onnxruntime")


@pytest.mark.parametrize(("runtime", "backend"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt_rtx")])
def test_engines_come_with_their_identity_and_only_to_the_library_they_are_for(
    finished_release: Path, runtime: str, backend: str
) -> None:
    manifest = open_bundle(finished_release).manifest
    entry = manifest.file("onnx", manifest.forms[0].precision, ".onnx")
    assert entry is not None
    names = [
        f"engines/{NAME}_fp32_tile_{library}_sm89.engine{ending}"
        for library in ("tensorrt", "tensorrt_rtx")
        for ending in ("", ".json")
    ]
    engines = tuple(
        entry.model_copy(update={"path": name, "role": "engine identity" if name.endswith("json") else "engine"})
        for name in names
    )
    manifest = manifest.model_copy(update={"files": (*manifest.files, *engines)})

    chosen = {one.path for one in select_files(manifest, [], runtime)}

    assert chosen & set(names) == {name for name in names if f"_{backend}_sm" in name}


# --- what is there already -------------------------------------------------------------------------------------------


def test_release_of_another_version_is_replaced(published: Path, hub_server: HubServer, place: Path) -> None:
    get(hub_server, place / NAME)
    rewrite(published, open_bundle(published).manifest.model_copy(update={"version": "1.1.0"}))
    publish_release(published, hub_server.place, NAME)

    get(hub_server, place / NAME)

    assert snapshot(place / NAME) == snapshot(published)
    assert list(place.iterdir()) == [place / NAME]


def test_changed_file_is_put_right(published: Path, hub_server: HubServer, place: Path) -> None:
    get(hub_server, place / NAME)
    flip_byte(place / NAME / f"{NAME}_fp32.onnx")

    done = get(hub_server, place / NAME)

    assert not done.already_there
    assert snapshot(place / NAME) == snapshot(published)


def test_other_people_s_folder_is_not_touched(published: Path, hub_server: HubServer, place: Path) -> None:
    (place / NAME).mkdir()
    (place / NAME / "thesis.doc").write_text("years of work")

    with pytest.raises(BundleError, match=r"found other files: 'thesis\.doc'"):
        get(hub_server, place / NAME)

    assert snapshot(place) == snapshot(place)
    assert (place / NAME / "thesis.doc").read_text() == "years of work"
    assert list(place.iterdir()) == [place / NAME]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_file_or_link_at_the_destination_is_misuse(
    published: Path, hub_server: HubServer, place: Path, kind: str
) -> None:
    (place / "other").mkdir()
    (place / NAME).write_text("") if kind == "file" else (place / NAME).symlink_to(place / "other")

    with pytest.raises(UsageError, match="found a file or a link"):
        get(hub_server, place / NAME)


def test_two_downloads_into_one_folder_at_once_both_succeed(
    published: Path, hub_server: HubServer, place: Path
) -> None:
    import threading

    outcomes: list[bool] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(get(hub_server, place / NAME).path.is_dir())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outcomes == [True] * 4
    assert snapshot(place / NAME) == snapshot(published)
    assert list(place.iterdir()) == [place / NAME]


# --- hostile hubs ----------------------------------------------------------------------------------------------------

ENTRY = {"type": "file", "size": 1, "oid": "0" * 40}


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/x", "a/../../x", "a\\x", "C:x", "con", "aux.txt", "a\x00b", "a\nb", "x.", "x ", "", ".", "a//b"],
)
def test_unsafe_path_in_the_hub_s_list_is_refused_before_anything_is_fetched(
    published: Path, hub_server: HubServer, place: Path, path: str
) -> None:
    hub_server.extra_tree = [{**ENTRY, "path": path}]

    with pytest.raises(BundleError, match="unsafe paths"):
        get(hub_server, place / NAME)

    assert hub_server.requests("/resolve/") == []
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{**ENTRY, "path": "extra.bin"}], "not part of the release: 'extra.bin'"),
        ([{**ENTRY, "path": "CONFIG.json"}], "only case tells apart"),
        ([{**ENTRY, "path": "config.json"}], "twice"),
        ([{**ENTRY, "path": "link", "type": "symlink"}], "links or special files: 'link'"),
        ([{**ENTRY, "path": f"{n}"} for n in range(20_000)], "at most 10000 files"),
        ([{**ENTRY, "path": "x", "size": "big"}], "makes no sense"),
        ([{**ENTRY, "path": "x", "size": -5}], "links or special files"),
        ([["file"]], "makes no sense"),
        ([None], "makes no sense"),
    ],
)
def test_list_of_files_that_no_release_has_is_refused(
    published: Path, hub_server: HubServer, place: Path, entries: list[Any], words: str
) -> None:
    hub_server.extra_tree = entries

    with pytest.raises(AethernetError, match=words):
        get(hub_server, place / NAME)

    assert hub_server.requests("/object/") == []
    assert len(hub_server.log) < 30
    assert list(place.iterdir()) == []


def _tag(hub: HubServer, change: Callable[[dict[str, Any]], None]) -> None:
    """Move the version's tag to changed content."""
    repository = hub.repositories[REPOSITORY]
    tree = dict(repository.commits[repository.tags["v1.0.0"]].tree)
    change(tree)
    repository.tags["v1.0.0"] = repository.add("main", tree, "forged")


@pytest.mark.parametrize("record", ["release.json", "build.json", "README.md"])
def test_missing_record_is_refused(published: Path, hub_server: HubServer, place: Path, record: str) -> None:
    _tag(hub_server, lambda tree: tree.pop(record))

    with pytest.raises(BundleError, match=f"is no release: {record} is missing"):
        get(hub_server, place / NAME)

    assert list(place.iterdir()) == []


@pytest.mark.parametrize("record", ["release.json", "build.json", "README.md"])
def test_changed_record_is_refused(published: Path, hub_server: HubServer, place: Path, record: str) -> None:
    content = (published / record).read_bytes().replace(b"a", b"e", 1)
    _tag(hub_server, lambda tree: tree.update({record: hub_server.put(content)}))

    with pytest.raises(BundleError):
        get(hub_server, place / NAME)

    assert hub_server.requests("/object/") == []
    assert list(place.iterdir()) == []


def test_missing_file_is_refused(published: Path, hub_server: HubServer, place: Path) -> None:
    _tag(hub_server, lambda tree: tree.pop("config.json"))

    with pytest.raises(BundleError, match=r"lacks files of the release: 'config\.json'"):
        get(hub_server, place / NAME)


def test_file_of_another_size_is_refused_before_it_is_fetched(
    published: Path, hub_server: HubServer, place: Path
) -> None:
    _tag(hub_server, lambda tree: tree.update({"config.json": hub_server.put(b"x" * 10)}))

    with pytest.raises(BundleError, match=r"another size than the release's: 'config\.json'"):
        get(hub_server, place / NAME)

    assert hub_server.requests(r"/resolve/.*config\.json") == []


def test_other_content_of_the_same_size_is_refused_and_nothing_stays(
    published: Path, hub_server: HubServer, place: Path
) -> None:
    size = (published / "config.json").stat().st_size
    _tag(hub_server, lambda tree: tree.update({"config.json": hub_server.put(b"x" * size)}))

    with pytest.raises(BundleError, match=r"config\.json is not what was released"):
        get(hub_server, place / NAME)

    assert list(place.iterdir()) == []


def test_manifest_of_another_version_is_refused(published: Path, hub_server: HubServer, place: Path) -> None:
    repository = hub_server.repositories[REPOSITORY]
    repository.tags["v9.0.0"] = repository.tags["v1.0.0"]

    with pytest.raises(BundleError, match=r"expected version 9\.0\.0, found 1\.0\.0"):
        get(hub_server, place / NAME, "9.0.0")

    assert list(place.iterdir()) == []


def test_unsafe_path_in_the_manifest_is_refused(published: Path, hub_server: HubServer, place: Path) -> None:
    manifest = open_bundle(published).manifest
    entry = manifest.files[0].model_copy(update={"path": "../../escaped"})
    from aethernet.records import canonical_json

    forged = canonical_json(manifest.model_copy(update={"files": (*manifest.files, entry)}))
    _tag(hub_server, lambda tree: tree.update({"release.json": hub_server.put(forged)}))

    with pytest.raises(BundleError, match="unsafe paths"):
        get(hub_server, place / NAME)

    assert list(place.iterdir()) == []


def test_next_page_elsewhere_is_not_followed(published: Path, hub_server: HubServer, place: Path) -> None:
    hub_server.extra_tree = [{**ENTRY, "path": f"{n}"} for n in range(2000)]
    real, hub_server.endpoint = hub_server.endpoint, "http://127.0.0.1:9"
    address = Address(place=f"hf+{real}/org", name=NAME)

    with pytest.raises(HubError, match="sends us elsewhere"):
        download(address, place / NAME)


def test_endless_body_is_cut_off(published: Path, hub_server: HubServer, place: Path) -> None:
    (hub_server.root / _digest(published / "config.json")).write_bytes(b" " * 50_000_000)

    with pytest.raises(BundleError, match=r"config\.json is longer than"):
        get(hub_server, place / NAME)

    assert list(place.iterdir()) == []


def _digest(path: Path) -> str:
    from aethernet.artifact import file_digest

    return file_digest(path)


@pytest.mark.parametrize("spoil", ["link", "extra", "fifo", "gone"])
def test_folder_hub_is_no_more_trusted_than_any_other(slim_release: Path, tmp_path: Path, spoil: str) -> None:
    publication = publish_release(slim_release, f"file://{tmp_path}/hub", NAME)
    root = tmp_path / "hub" / NAME / "1.0.0"
    if spoil == "link":
        shutil.move(root / "config.json", tmp_path / "elsewhere")
        (root / "config.json").symlink_to(tmp_path / "elsewhere")
    elif spoil == "extra":
        (root / "extra").write_text("x")
    elif spoil == "fifo":
        os.mkfifo(root / "pipe")
    else:
        (root / "config.json").unlink()

    with pytest.raises(BundleError):
        download(Address.parse(publication.address), tmp_path / "place" / NAME)

    assert not (tmp_path / "place" / NAME).exists()


# --- signatures ------------------------------------------------------------------------------------------------------


def test_unsigned_release_is_said_to_be_and_refused_where_a_signature_is_asked_for(
    published: Path, hub_server: HubServer, place: Path, keys: tuple[KeyPair, KeyPair]
) -> None:
    assert get(hub_server, place / "any").signature == "not signed"

    with pytest.raises(SignatureError, match="is not signed"):
        get(hub_server, place / NAME, trust=Trust(public_key=keys[0].public.read_text()))

    assert not (place / NAME).exists()


def test_wrong_key_is_found_out_before_any_large_file_is_fetched(
    slim_release: Path, hub_server: HubServer, place: Path, keys: tuple[KeyPair, KeyPair]
) -> None:
    sign_bundle(open_bundle(slim_release), Signer(private_key=keys[0].private))
    publish_release(slim_release, hub_server.place, NAME)

    with pytest.raises(SignatureError, match="Key mismatch"):
        get(hub_server, place / NAME, trust=Trust(public_key=keys[1].public.read_text()))

    assert hub_server.requests("GET /object/") == []
    assert list(place.iterdir()) == []
    done = get(hub_server, place / NAME, only=["fp32"], trust=Trust(public_key=keys[0].public.read_text()))
    assert done.signature.startswith("signed by the key")


@pytest.mark.parametrize("path", [f"{NAME}_fp32.onnx", "release.json", "model.sig"])
def test_tampering_is_refused_with_the_right_key(
    slim_release: Path, hub_server: HubServer, place: Path, keys: tuple[KeyPair, KeyPair], path: str
) -> None:
    sign_bundle(open_bundle(slim_release), Signer(private_key=keys[0].private))
    publish_release(slim_release, hub_server.place, NAME)
    content = bytearray((slim_release / path).read_bytes())
    content[len(content) // 2] ^= 1
    _tag(hub_server, lambda tree: tree.update({path: hub_server.put(bytes(content), large=path.endswith("onnx"))}))

    with pytest.raises(BundleError):
        get(hub_server, place / NAME, trust=Trust(public_key=keys[0].public.read_text()))

    assert list(place.iterdir()) == []


# --- without a network -----------------------------------------------------------------------------------------------


def test_version_that_is_there_already_is_enough_when_the_hub_is_away(
    published: Path, hub_server: HubServer, place: Path
) -> None:
    get(hub_server, place / NAME)
    hub_server.faults = [Fault("drop", times=-1)]
    told: list[str] = []

    done = get(hub_server, place / NAME, "1.0.0", on_message=told.append)

    assert done.already_there
    assert "has this version already" in told[-1]


def test_older_version_never_stands_in_for_the_one_asked_for(
    published: Path, hub_server: HubServer, place: Path
) -> None:
    get(hub_server, place / NAME)
    before = snapshot(place)
    hub_server.faults = [Fault("status", status=503, times=-1)]

    for version in ("1.1.0", None):
        with pytest.raises(UnreachableError, match="503"):
            get(hub_server, place / NAME, version)

    assert snapshot(place) == before


def test_changed_folder_is_not_enough_when_the_hub_is_away(published: Path, hub_server: HubServer, place: Path) -> None:
    get(hub_server, place / NAME)
    flip_byte(place / NAME / "config.json")
    hub_server.faults = [Fault("drop", times=-1)]

    with pytest.raises(UnreachableError):
        get(hub_server, place / NAME, "1.0.0")


@pytest.fixture
def in_client_cache(published: Path, hub_server: HubServer) -> HubServer:
    """The release in the client's own cache, as any other tool leaves it there; the hub is away."""
    from huggingface_hub import snapshot_download

    snapshot_download(REPOSITORY, revision="v1.0.0", endpoint=hub_server.endpoint)
    hub_server.faults = [Fault("drop", times=-1)]
    return hub_server


def test_client_s_cache_is_used_without_a_network(published: Path, in_client_cache: HubServer, place: Path) -> None:
    get(in_client_cache, place / NAME, "1.0.0")

    assert snapshot(place / NAME) == snapshot(published)
    with pytest.raises(UnreachableError):
        get(in_client_cache, place / "other", "2.0.0")


def test_client_s_cache_is_not_believed(published: Path, in_client_cache: HubServer, place: Path) -> None:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(REPOSITORY, "config.json", revision="v1.0.0")
    assert isinstance(cached, str)
    flip_byte(Path(cached).resolve())

    with pytest.raises(HubError):
        get(in_client_cache, place / NAME, "1.0.0")
    assert not (place / NAME).exists()

    in_client_cache.faults = []
    get(in_client_cache, place / NAME, "1.0.0")
    assert snapshot(place / NAME) == snapshot(published)


# --- by address ------------------------------------------------------------------------------------------------------


def test_folder_comes_back_as_it_is(tmp_path: Path) -> None:
    assert fetch_bundle(str(tmp_path / "anything")) == tmp_path / "anything"


def test_address_is_fetched_once_and_then_needs_no_hub(published: Path, hub_server: HubServer, tmp_path: Path) -> None:
    address, cache = f"{hub_server.place}/{NAME}@v1.0.0", tmp_path / "cache"
    first = fetch_bundle(address, cache=cache)
    hub_server.log.clear()

    second = fetch_bundle(address, cache=cache)

    assert first == second
    assert snapshot(first) == snapshot(published)
    assert hub_server.log == []


def test_spoilt_cache_is_put_right(published: Path, hub_server: HubServer, tmp_path: Path) -> None:
    address, cache = f"{hub_server.place}/{NAME}@1.0.0", tmp_path / "cache"
    folder = fetch_bundle(address, cache=cache)
    flip_byte(folder / f"{NAME}_fp32.onnx")

    assert snapshot(fetch_bundle(address, cache=cache)) == snapshot(published)


def test_newest_version_is_the_hub_s_to_say(published: Path, hub_server: HubServer, tmp_path: Path) -> None:
    fetch_bundle(f"{hub_server.place}/{NAME}@1.0.0", cache=tmp_path)
    hub_server.faults = [Fault("drop", times=-1)]

    with pytest.raises(UnreachableError) as raised:
        fetch_bundle(f"{hub_server.place}/{NAME}", cache=tmp_path)

    assert "here already, to be named, are: 1.0.0" in raised.value.hint


def test_cached_release_has_to_be_signed_as_asked_too(
    published: Path, hub_server: HubServer, tmp_path: Path, keys: tuple[KeyPair, KeyPair]
) -> None:
    fetch_bundle(f"{hub_server.place}/{NAME}@1.0.0", cache=tmp_path)

    with pytest.raises(SignatureError, match="not signed"):
        fetch_bundle(
            f"{hub_server.place}/{NAME}@1.0.0",
            cache=tmp_path,
            trust=Trust(public_key=keys[0].public.read_text()),
        )
