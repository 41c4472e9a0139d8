"""The Hugging Face Hub, or any hub that speaks its protocol.

What its client does and does not promise decides how this is written: a commit is atomic and never retried by the
client, the calls before it (upload modes, large files) are; finished large files are not sent again; downloads are not
checked against any digest. So publishing is one commit against the head we saw, a look at the tree that came of it, and
the tag last; whoever crashes in between has published nothing, and the next run goes on from there. Reading is plain
HTTP with the client's session and headers, in bounded memory; :mod:`aethernet.hub.download` checks what arrives.

A token comes from the client's own places (``HF_TOKEN``, ``hf auth login``, trusted publishing), is never seen here,
and goes to no other hub than the one the client is set up for (``HF_ENDPOINT``): an address may be of anybody's hub.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from aethernet.errors import (
    AlreadyPublishedError,
    BundleError,
    ConflictError,
    HubError,
    MissingDependencyError,
    UnreachableError,
    UsageError,
)
from aethernet.hub.address import printable, require_plain, version_order
from aethernet.hub.client import TOKEN_HINT, MissingError, TakenError, limited_get, sensible, stream, translated
from aethernet.hub.commits import CommittedFile, Refs, commit_id, differences, without_own
from aethernet.hub.protocol import Publication, Snapshot
from aethernet.hub.retrying import RetryPolicy
from aethernet.records import read_model
from aethernet.release.bundle import Bundle
from aethernet.release.manifest import MANIFEST, Manifest
from aethernet.version import __version__

__all__ = ["HuggingFaceHub"]

T = TypeVar("T")

_TAG = re.compile(r"v(\d+\.\d+\.\d+[0-9A-Za-z.+-]{0,60})", re.ASCII)
_MARKS, _MARKS_FILE = "yanked", "yanked.json"
"""Branch and file that hold the marks of yanked versions: beside the releases, so that no release changes."""
_MOST_FILES, _MOST_PAGES = 10_000, 100
_LARGEST_ANSWER = 32 * 2**20
_CHUNK = 2**20


class HuggingFaceHub:
    """Repositories of one user or organisation; versions are tags ``v1.0.0``."""

    def __init__(
        self, place: str, *, on_message: Callable[[str], None] | None = None, retry_policy: RetryPolicy | None = None
    ) -> None:
        """Open ``hf://org`` or ``hf+https://host/org``; nothing is asked of the hub yet.

        Raises:
            UsageError: The place is none.
            MissingDependencyError: The client is not installed.
        """
        try:
            from huggingface_hub import HfApi, constants
        except ImportError as error:
            raise MissingDependencyError("huggingface_hub", "hub") from error
        parts = urlsplit(place)
        organisation = place.removeprefix("hf://") if parts.scheme == "hf" else parts.path.strip("/")
        if "@" in parts.netloc or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", organisation) or parts.query:
            raise UsageError(
                "expected a place such as hf://org or hf+https://hub.example.com/org, without user or password, found "
                + printable(re.sub(r"//.*@", "//…@", place)),
                hint="a token is taken from HF_TOKEN or from `hf auth login`",
            )
        own = parts.scheme.removeprefix("hf").removeprefix("+")
        self.endpoint = f"{own}://{parts.netloc}" if own else constants.ENDPOINT
        self.place = f"{parts.scheme}://{parts.netloc}/{organisation}" if own else f"hf://{organisation}"
        self.organisation = organisation
        if not f".{urlsplit(self.endpoint).hostname}".endswith(".huggingface.co"):
            # The client takes it for granted that every hub has Xet storage; others speak plain LFS.
            constants.HF_HUB_DISABLE_XET = True
        self._on_message = on_message
        self._away = False
        self._retry_policy = retry_policy or RetryPolicy()
        self._token = None if self.endpoint == constants.ENDPOINT else False
        self._client = HfApi(
            endpoint=self.endpoint,
            token=self._token,
            library_name="aethernet",
            library_version=__version__,
        )

    # --- publishing --------------------------------------------------------------------------------------------------

    def publish(self, bundle: Bundle, name: str, *, private: bool = False) -> Publication:
        """See :class:`aethernet.hub.protocol.Hub`."""
        repository, tag = self._repository(name), f"v{bundle.manifest.version}"
        files = {path.relative_to(bundle.root).as_posix(): path for path in bundle.root.rglob("*") if path.is_file()}
        try:
            refs = self._refs(name)
        except MissingError:
            with contextlib.suppress(TakenError):  # by an earlier try, or by somebody else just now
                self._call(f"create {repository}", lambda: self._client.create_repo(repository, private=private))
            refs = self._refs(name)
        if tag in refs.tags:
            return self._already(bundle, name, refs.tags[tag])
        commit = self._commit(name, files, refs.head, f"{bundle.manifest.name} {bundle.manifest.version}")
        return self._tag(bundle, name, tag, commit)

    def _commit(self, name: str, files: Mapping[str, Path], parent: str, title: str) -> str:
        """Make the head hold exactly these files; returns its commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        repository = self._repository(name)

        def attempt() -> str:
            head = self._refs(name).head
            tree = self._tree(name, head)
            if not differences(files, tree):
                return head  # an earlier try arrived, though its answer did not; or an earlier run
            if head != parent:
                raise ConflictError(
                    f"expected {repository} at {parent[:12]}, found {head[:12]}: somebody else published"
                )
            extra = sorted(tree.keys() - files.keys())
            operations: list[Any] = [CommitOperationDelete(path, is_folder=False) for path in extra]
            operations += [CommitOperationAdd(path, str(files[path])) for path in sorted(files)]
            return self._once(
                f"commit to {repository}",
                lambda: (
                    self._client.create_commit(
                        repository, operations, commit_message=title, parent_commit=parent, num_threads=2
                    ).oid
                ),
            )

        commit = self._retry_policy.run(attempt, self._on_message)
        if wrong := differences(files, self._tree(name, commit)):
            raise HubError(
                f"the hub did not take the release as it is: {'; '.join(wrong[:5])}",
                hint="nothing was tagged, so no version points there; remove any .gitignore in the repository",
            )
        return commit

    def _tag(self, bundle: Bundle, name: str, tag: str, commit: str) -> Publication:
        def attempt() -> str:
            found = self._refs(name).tags.get(tag)
            if found is None:
                self._once(
                    f"tag {tag}",
                    lambda: self._client.create_tag(
                        self._repository(name), tag=tag, tag_message=bundle.manifest.identity, revision=commit
                    ),
                )
            return found or commit

        try:
            tagged = self._retry_policy.run(attempt, self._on_message)
        except TakenError:  # by somebody else, between our look and our try
            refs = self._refs(name)
            if tag not in refs.tags:
                raise
            tagged = refs.tags[tag]
        if tagged != commit:
            return self._already(bundle, name, tagged)
        return Publication.of(bundle, self.place, name, already_there=False)

    def _already(self, bundle: Bundle, name: str, commit: str) -> Publication:
        address = f"{self._repository(name)} {bundle.manifest.version}"
        try:
            content = self._content(name, commit, MANIFEST, _LARGEST_ANSWER)
            found = read_model(Manifest, content, MANIFEST).identity
        except (BundleError, MissingError) as error:
            raise AlreadyPublishedError(f"{address} is published and is not a release of ours: {error}") from error
        if found != bundle.manifest.identity:
            raise AlreadyPublishedError(
                f"{address} is published with identity {printable(found[:12])}, "
                f"this release has {bundle.manifest.identity[:12]}"
            )
        return Publication.of(bundle, self.place, name, already_there=True)

    def publish_space(self, folder: Path, name: str, *, private: bool = False, marker: str) -> tuple[str, bool]:
        """Make a static Space hold exactly the files of a folder, in one commit.

        Args:
            folder: The site, with the ``README.md`` that says it is static.
            name: The Space's, under this organisation.
            private: Whether a Space that has to be made is for invited readers only.
            marker: A file that every such site has: a Space with content and without it is left alone.

        Returns:
            The Space's address, and whether it held just this already.

        Raises:
            ConflictError: The Space is something else, or somebody else changed it at the same time.
            HubError: The hub refused, or holds something else afterwards.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        space, kind = self._repository(name), "spaces"
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        try:
            refs = self._refs(name, kind)
        except MissingError:
            with contextlib.suppress(TakenError):
                self._call(
                    f"create the Space {space}",
                    lambda: self._client.create_repo(space, repo_type="space", space_sdk="static", private=private),
                )
            refs = self._refs(name, kind)
        address, head = f"{self.endpoint}/spaces/{space}", refs.head
        tree = self._tree(name, head, kind)
        if not differences(files, tree):
            return address, True
        # A new Space has the Hub's own example in it.
        if tree.keys() - {"README.md", "index.html", "style.css"} and marker not in tree:
            raise ConflictError(
                f"expected an empty Space or one with {marker} at {space}, found another one; nothing was touched",
                hint="choose another name for the Space",
            )
        operations: list[Any] = [
            CommitOperationDelete(path, is_folder=False) for path in sorted(tree.keys() - files.keys())
        ]
        operations += [CommitOperationAdd(path, str(files[path])) for path in sorted(files)]

        def attempt() -> str:
            found = self._refs(name, kind).head
            if found != head:
                if not differences(files, self._tree(name, found, kind)):
                    return found  # an earlier try arrived, though its answer did not
                raise ConflictError(f"expected {space} at {head[:12]}, found {found[:12]}: somebody else published")
            return self._once(
                f"commit to the Space {space}",
                lambda: (
                    self._client.create_commit(
                        space, operations, commit_message=name, parent_commit=head, repo_type="space", num_threads=2
                    ).oid
                ),
            )

        commit = self._retry_policy.run(attempt, self._on_message)
        if wrong := differences(files, self._tree(name, commit, kind)):
            raise HubError(f"the hub did not take the site as it is: {'; '.join(wrong[:5])}")
        return address, False

    def require_right_to_publish(self, name: str) -> None:
        """See :class:`aethernet.hub.protocol.Hub`: whose token it is, and whether that may write in this place."""
        from huggingface_hub import get_token

        require_plain(name)
        if self._token is False:
            return  # a hub that gets no token of ours cannot say what we may
        if get_token() is None:
            if not f".{urlsplit(self.endpoint).hostname}".endswith(".huggingface.co"):
                return  # a hub of one's own may take releases without
            raise HubError(f"expected a token that may write to {self.place}, found none", hint=TOKEN_HINT)
        try:
            who = self._call(f"ask {self.endpoint} who we are", self._client.whoami)
        except MissingError:
            return  # not every hub that speaks the protocol tells
        with sensible(f"whose token it is at {self.endpoint}"):
            places = {who["name"]: "write"} | {one["name"]: one.get("roleInOrg") for one in who.get("orgs", ())}
            kind = (who.get("auth") or {}).get("accessToken", {}).get("role")
        if self.organisation not in places or "read" in (kind, places[self.organisation]):
            raise HubError(
                f"expected a token that may write to {self.place}, found one of {printable(who['name'])} that may not",
                hint=TOKEN_HINT,
            )

    def retract(self, publication: Publication) -> None:
        """See :class:`aethernet.hub.protocol.Hub`; the commit stays, and no version points to it any more."""
        tag = f"v{publication.version}"

        def attempt() -> None:
            if tag in self._refs(publication.name).tags:
                self._once(
                    f"take {tag} back", lambda: self._client.delete_tag(self._repository(publication.name), tag=tag)
                )

        self._retry_policy.run(attempt, self._on_message)

    def yank(self, name: str, version: str, reason: str | None) -> None:
        """See :class:`aethernet.hub.protocol.Hub`."""
        from huggingface_hub import CommitOperationAdd

        repository = self._repository(name)

        def attempt() -> None:
            refs = self._refs(name)
            self._require(name, version, refs)
            if _MARKS not in refs.branches:
                self._once(
                    f"create the branch {_MARKS}",
                    lambda: self._client.create_branch(repository, branch=_MARKS, exist_ok=True),
                )
                refs = self._refs(name)
            marks = self._marks(name, refs)
            wanted = {key: value for key, value in {**marks, version: reason}.items() if value is not None}
            if wanted == marks:
                return
            self._once(
                f"mark {version} as yanked",
                lambda: self._client.create_commit(
                    repository,
                    [CommitOperationAdd(_MARKS_FILE, (json.dumps(wanted, indent=2, sort_keys=True) + "\n").encode())],
                    commit_message=f"{'Yank' if reason is not None else 'Take back the yank of'} {version}",
                    revision=_MARKS,
                    parent_commit=refs.branches[_MARKS],
                ),
            )

        self._retry_policy.run(attempt, self._on_message)

    # --- reading -----------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """See :class:`aethernet.hub.protocol.Hub`."""
        url: str | None = f"{self.endpoint}/api/models?author={quote(self.organisation)}&limit=1000"
        found: list[str] = []
        for _ in range(_MOST_PAGES):
            if url is None:
                break
            entries, url = self._json(url, f"list {self.place}")
            with sensible(f"a list of repositories at {self.place}"):
                found += [str(entry["id"]).removeprefix(f"{self.organisation}/") for entry in entries]
        return sorted(name for name in found if re.fullmatch(r"[\w.-]{1,96}", name))

    def versions(self, name: str) -> list[str]:
        """See :class:`aethernet.hub.protocol.Hub`."""
        try:
            tags = self._refs(name).tags
        except MissingError:
            return []
        found = [match[1] for match in map(_TAG.fullmatch, tags) if match]
        return sorted(found, key=version_order, reverse=True)

    def yanked(self, name: str) -> dict[str, str]:
        """See :class:`aethernet.hub.protocol.Hub`."""
        return self._marks(name, self._refs(name))

    def _marks(self, name: str, refs: Refs) -> dict[str, str]:
        if _MARKS not in refs.branches:
            return {}
        try:
            content = json.loads(self._content(name, refs.branches[_MARKS], _MARKS_FILE, 2**20))
        except MissingError:
            return {}
        except (ValueError, RecursionError) as error:
            raise HubError(f"{self._repository(name)}: {_MARKS_FILE} is not JSON") from error
        if not isinstance(content, dict):
            raise HubError(f"{self._repository(name)}: expected reasons by version in {_MARKS_FILE}")
        return {str(version): str(reason) for version, reason in content.items()}

    def snapshot(self, name: str, version: str) -> Snapshot:
        """See :class:`aethernet.hub.protocol.Hub`."""
        require_plain(version)
        try:
            commit = self._require(name, version, self._refs(name))
            tree = self._tree(name, commit)
        except UnreachableError:
            cached = self._cached(name, f"v{version}")
            if cached is None:
                raise
            self._away = True
            files = [path for path in cached.rglob("*") if path.is_file()]
            sizes = {path.relative_to(cached).as_posix(): path.stat().st_size for path in files}
            return Snapshot(name=name, version=version, revision=cached.name, files=without_own(sizes))
        return Snapshot(
            name=name, version=version, revision=commit, files={path: file.size for path, file in tree.items()}
        )

    @contextmanager
    def read(
        self, snapshot: Snapshot, path: str, start: int = 0, *, fresh: bool = False
    ) -> Iterator[tuple[int, Iterator[bytes]]]:
        """See :class:`aethernet.hub.protocol.Hub`; the client's own cache is used."""
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self._repository(snapshot.name), path, revision=snapshot.revision)
        if not fresh and isinstance(cached, str) and Path(cached).stat().st_size == snapshot.files[path]:
            with open(cached, "rb") as file:
                file.seek(start)
                yield start, iter(lambda: file.read(_CHUNK), b"")
            return
        headers = {"Range": f"bytes={start}-"} if start else {}
        url = f"{self.endpoint}/{self._repository(snapshot.name)}/resolve/{snapshot.revision}/{quote(path)}"
        with stream(url, f"read {path}", headers, self._token) as response:
            begins = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
            yield int(begins[1]) if response.status_code == 206 and begins else 0, response.iter_bytes(_CHUNK)

    def fingerprint(self, name: str, version: str) -> str:
        """See :class:`aethernet.hub.protocol.Hub`."""
        try:
            commit = self._refs(name).tags.get(f"v{version}")
        except MissingError:
            return ""
        if commit is None:
            return ""
        lines = [f"{file.digest}  {path}\n" for path, file in self._tree(name, commit).items()]
        return hashlib.sha256("".join([commit, "\n", *sorted(lines)]).encode()).hexdigest()

    def _repository(self, name: str) -> str:
        require_plain(name)
        return f"{self.organisation}/{name}"

    def _cached(self, name: str, revision: str) -> Path | None:
        """The snapshot in the client's own cache, as far as it is there."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(snapshot_download(self._repository(name), revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            return None

    def _require(self, name: str, version: str, refs: Refs) -> str:
        commit = refs.tags.get(f"v{version}")
        if commit is None:
            known = ", ".join(self.versions(name)) or "none"
            raise HubError(f"expected {name} {version} at {self.place}, found versions: {known}")
        return commit

    def _refs(self, name: str, kind: str = "models") -> Refs:
        if self._away:
            raise UnreachableError(f"{self.place} did not answer a moment ago", final=True)
        url = f"{self.endpoint}/api/{kind}/{self._repository(name)}/refs"
        content, _ = self._json(url, f"look at {self._repository(name)}")
        with sensible(f"branches and tags of {self._repository(name)}"):
            kinds = [
                {str(ref["name"]): commit_id(ref["targetCommit"]) for ref in content[kind]}
                for kind in ("branches", "tags")
            ]
        return Refs(*kinds)

    def _tree(self, name: str, commit: str, kind: str = "models") -> dict[str, CommittedFile]:
        """The files of a commit, without the Hub's own."""
        url: str | None = f"{self.endpoint}/api/{kind}/{self._repository(name)}/tree/{commit}?recursive=true"
        files: dict[str, CommittedFile] = {}
        for _ in range(_MOST_PAGES):
            if url is None:
                return without_own(files)
            entries, url = self._json(url, f"list the files of {self._repository(name)}")
            with sensible(f"files of {self._repository(name)}"):
                for entry in entries:
                    if entry["type"] == "directory":
                        continue
                    path, size = str(entry["path"]), int(entry["size"])
                    if path in files:
                        raise HubError(f"the hub lists {printable(path)} twice")
                    large = entry.get("lfs")
                    digest = f"sha256:{large['oid']}" if large else f"git:{entry['oid']}"
                    files[path] = CommittedFile(size if entry["type"] == "file" else -1, digest)
            if len(files) > _MOST_FILES:
                break
        raise HubError(f"expected a release of at most {_MOST_FILES} files, found more at {self._repository(name)}")

    def _content(self, name: str, commit: str, path: str, most: int) -> bytes:
        url = f"{self.endpoint}/{self._repository(name)}/resolve/{commit}/{quote(path)}"
        return self._call(f"read {path}", lambda: limited_get(url, f"read {path}", most, self._token)[0])

    # --- HTTP --------------------------------------------------------------------------------------------------------

    def _json(self, url: str, what: str) -> tuple[Any, str | None]:
        """A JSON answer and the address of the next page."""
        content, following = self._call(what, lambda: limited_get(url, what, _LARGEST_ANSWER, self._token))
        with sensible(f"JSON when asked to {what}"):
            return json.loads(content), following

    def _call(self, what: str, action: Callable[[], T]) -> T:
        """Do something that is safe to do twice, and again where that makes sense."""
        return self._retry_policy.run(lambda: self._once(what, action), self._on_message)

    def _once(self, what: str, action: Callable[[], T]) -> T:
        with translated(what), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the client's; what matters comes as an error
            return action()
