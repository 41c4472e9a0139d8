"""A hub on the loopback that speaks the Hugging Face Hub's protocol, keeps what it is given, and fails when told to.

Real sockets, so that connections can really be reset and bodies really end early. The large files of a repository are
served from a second port, as the Hub serves them from another host: a token must never arrive there.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

__all__ = ["Fault", "HubServer", "Repository", "hub_server"]

_LARGE = (".onnx", ".safetensors", ".pth", ".png", ".engine")
_PAGE = 1000


@dataclass
class Fault:
    """What goes wrong, and when."""

    kind: str
    """``status`` instead of doing it, ``status_after`` having done it; ``drop`` and ``drop_after`` reset it;
    ``delay`` answers late; ``truncate`` ends the body early, ``truncate_rst`` with a reset; ``corrupt`` flips a byte;
    ``garbage`` answers nonsense; ``short`` announces and sends less."""
    index: int | None = None
    """Only the request with this number, counted over all from 0; None: any."""
    match: str = ""
    """Only requests whose ``METHOD path`` this finds."""
    times: int = 1
    """How often; -1: always."""
    status: int = 503
    seconds: float = 0.3
    headers: dict[str, str] = field(default_factory=dict)
    say: str = "injected"
    """The error message in the body; ``{authorization}`` is what the request carried."""
    hits: int = 0


@dataclass
class Blob:
    """A file of a commit."""

    size: int
    git: str
    sha256: str
    large: bool
    kind: str = "file"

    def entry(self, path: str) -> dict[str, Any]:
        """As the tree lists it."""
        entry: dict[str, Any] = {"type": self.kind, "path": path, "size": self.size, "oid": self.git}
        if self.large:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return entry


@dataclass
class Commit:
    """A state of a repository."""

    parent: str | None
    tree: dict[str, Blob]
    title: str


class Repository:
    """Branches, tags and commits."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.gated = False
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}

    def add(self, branch: str, tree: dict[str, Blob], title: str) -> str:
        """A new commit on a branch."""
        oid = secrets.token_hex(20)
        self.commits[oid] = Commit(self.branches.get(branch), tree, title)
        self.branches[branch] = oid
        return oid

    def resolve(self, revision: str) -> str | None:
        """Commit of a branch, tag or commit."""
        found = self.branches.get(revision) or self.tags.get(revision) or revision
        return found if found in self.commits else None

    @property
    def history(self) -> list[str]:
        """Titles of the commits on main, newest first."""
        titles, oid = [], self.branches.get("main")
        while oid is not None:
            titles.append(self.commits[oid].title)
            oid = self.commits[oid].parent
        return titles


class HubServer:
    """State of the hub, the faults to inject, and a log of what was asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, set[str]] = {}
        """Token -> rights (``read``, ``write``); without any token known, everyone may do everything."""
        self.expires_after: int | None = None
        """Requests after which every token has expired."""
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, str]] = []
        """Server (``hub`` or ``cdn``), ``METHOD path``, Authorization header of every request."""
        self.ranges = True
        """Whether GETs may start in the middle."""
        self.ignore: set[str] = set()
        """Paths that a .gitignore makes the hub drop silently."""
        self.extra_tree: list[dict[str, Any]] = []
        """Entries a hostile hub adds to every tree."""
        self.multipart: int | None = None
        """Size of the parts of large uploads, or None for whole files."""
        self.bytes_received = 0
        self.waits: list[float] = []
        """Seconds that the client would have waited between tries."""
        self.lock = threading.RLock()
        self._servers = [self._serve("hub"), self._serve("cdn")]
        self.endpoint, self.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def _serve(self, name: str) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "name": name})
        server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def close(self) -> None:
        """Stop serving."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def place(self) -> str:
        """Where ``org`` publishes."""
        return f"hf+{self.endpoint}/org"

    def requests(self, pattern: str = "") -> list[str]:
        """``METHOD path`` of the requests so far that a pattern finds."""
        return [line for _, line, _ in self.log if re.search(pattern, line)]

    def state(self) -> dict[str, Any]:
        """Everything that makes up the hub's content, without the commits' random names."""
        return {
            name: {
                "history": repository.history,
                "tags": {tag: self.files(repository, oid) for tag, oid in repository.tags.items()},
                "main": self.files(repository, repository.branches["main"]),
            }
            for name, repository in self.repositories.items()
        }

    def files(self, repository: Repository, oid: str) -> dict[str, str]:
        """Path -> sha256 of a commit."""
        return {
            path: blob.sha256 for path, blob in sorted(repository.commits[oid].tree.items()) if path != ".gitattributes"
        }

    def put(self, content: bytes, *, large: bool = False) -> Blob:
        """Keep a content."""
        sha256 = hashlib.sha256(content).hexdigest()
        (self.root / sha256).write_bytes(content)
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return Blob(len(content), git, sha256, large)

    def create(self, name: str, *, private: bool = False) -> Repository:
        """A new repository, as the Hub makes it: with a first commit of its own."""
        repository = self.repositories[name] = Repository(private)
        repository.add("main", {".gitattributes": self.put(b"*.onnx filter=lfs\n")}, "initial commit")
        return repository

    def take_fault(self, line: str) -> Fault | None:
        """The fault for this request, if one is due; counts it."""
        with self.lock:
            index = len(self.log) - 1
            for fault in self.faults:
                if fault.index in (None, index) and re.search(fault.match, line) and fault.hits != fault.times:
                    fault.hits += 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what this server is for."""


class _RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    name: str
    wbufsize = 2**16

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Not on stderr."""

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle_one_request()

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815

    # --- the shape of an answer --------------------------------------------------------------------------------------

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        # A Space is a repository like a model's, of another name: ``spaces:org/name``.
        where = re.sub(r"^/api/spaces/(?=[^/]+/)", "/api/models/spaces:", unquote(parts.path))
        self.where, self.query = re.sub(r"^/spaces/(?=[^/]+/)", "/spaces:", where), parse_qs(parts.query)
        line = f"{self.command} {parts.path}"
        with self.hub.lock:
            self.hub.log.append((self.name, line, self.headers.get("Authorization", "")))
            fault = self.hub.take_fault(line)
        kind = fault.kind if fault else ""
        if fault and kind == "delay":
            time.sleep(fault.seconds)
        if fault and kind == "drop":
            return self._reset()
        if fault and kind == "status":
            self._read()
            return self._fail(fault)
        try:
            self._check_token()
            status, headers, body = self._route()
        except _RefusedError as refused:
            error = {"error": refused.message}
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            return self._send(refused.status, headers, json.dumps(error).encode())
        if fault and kind == "drop_after":
            return self._reset()
        if fault and kind == "status_after":
            return self._fail(fault)
        return self._send(status, headers, body, kind)

    def _fail(self, fault: Fault) -> None:
        said = fault.say.replace("{authorization}", self.headers.get("Authorization", ""))
        self._send(fault.status, fault.headers, json.dumps({"error": said}).encode())

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, headers: dict[str, str], body: bytes | Path, kind: str = "") -> None:
        start, stop = 0, body.stat().st_size if isinstance(body, Path) else len(body)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and self.hub.ranges and status == 200 and self.command == "GET":
            start = int(asked[1])
            if start >= stop:
                status, stop = 416, start
            else:
                headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{stop}"}
                status = 206
        if kind == "garbage":
            body, start, stop = b'{"what": [}', 0, 11
        announced = stop - start
        cut = start + (stop - start) // 2 if kind in ("truncate", "truncate_rst", "short") else stop
        if kind == "short":
            announced = cut - start
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(announced)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for chunk in _chunks(body, start, cut):
            if kind == "corrupt" and chunk:
                chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
                kind = ""
            self.wfile.write(chunk)
        if kind == "truncate_rst":
            self._reset()
        elif kind == "truncate":
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_WR)

    def _read(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return body

    def _json(self) -> Any:
        return json.loads(self._read() or b"null")

    # --- who may do what ---------------------------------------------------------------------------------------------

    def _check_token(self) -> None:
        if self.name == "cdn" or not self.hub.tokens:
            return
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        expired = self.hub.expires_after is not None and len(self.hub.log) > self.hub.expires_after
        if token and (token not in self.hub.tokens or expired):
            self._read()
            raise _RefusedError(401, "Invalid credentials in Authorization header")
        needed = "read" if self.command in ("GET", "HEAD") else "write"
        rights = self.hub.tokens.get(token, set())
        repository = self.hub.repositories.get("/".join(self._repository_name().split("/")[:2]))
        if needed == "write" and "write" not in rights:
            self._read()
            raise _RefusedError(403 if token else 401, "You don't have the rights to do this")
        if needed == "read" and repository is not None and repository.private and "read" not in rights:
            raise _RefusedError(404, "Repository not found", "RepoNotFound")
        if needed == "read" and repository is not None and repository.gated:
            raise _RefusedError(403, "Access to this model is restricted", "GatedRepo")

    def _repository_name(self) -> str:
        for pattern in (r"/api/models/([^/]+/[^/]+)", r"/([^/]+/[^/]+?)(?:\.git)?/"):
            if found := re.match(pattern, self.where):
                return found[1]
        return ""

    # --- the protocol ------------------------------------------------------------------------------------------------

    def _route(self) -> tuple[int, dict[str, str], bytes | Path]:
        for method, pattern, answer in _ROUTES:
            if self.command == method and (found := re.fullmatch(pattern, self.where)):
                with self.hub.lock:
                    body = b"" if method == "GET" else self._read()
                    self.body = body
                    result = getattr(self, answer)(*found.groups())
                return result if isinstance(result, tuple) else (200, {}, json.dumps(result).encode())
        self._read()
        raise _RefusedError(404, "no such page")

    def _repository(self, name: str) -> Repository:
        if name not in self.hub.repositories:
            raise _RefusedError(404, "Repository not found", "RepoNotFound")
        return self.hub.repositories[name]

    def _commit(self, name: str, revision: str) -> Commit:
        repository = self._repository(name)
        oid = repository.resolve(revision)
        if oid is None:
            raise _RefusedError(404, "Invalid rev id", "RevisionNotFound")
        return repository.commits[oid]

    def create(self) -> Any:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if asked.get("type") == "space":
            if asked.get("sdk") not in ("static", "gradio", "docker"):
                raise _RefusedError(400, "a Space needs an SDK")
            name = f"spaces:{name}"
        if name in self.hub.repositories:
            raise _RefusedError(409, "You already created this model repo")
        self.hub.create(name, private=asked.get("visibility") == "private")
        return {"url": f"{self.hub.endpoint}/{_public(name)}", "name": name.removeprefix("spaces:")}

    def listing(self) -> Any:
        author = self.query.get("author", [""])[0]
        return [{"id": name} for name in self.hub.repositories if name.startswith(f"{author}/")]

    def info(self, name: str, revision: str = "main") -> Any:
        self._commit(name, revision)
        return {"id": name, "sha": self._repository(name).resolve(revision), "siblings": []}

    def refs(self, name: str) -> Any:
        repository = self._repository(name)
        kinds = {"branches": ("heads", repository.branches), "tags": ("tags", repository.tags)}
        found = {
            kind: [{"name": key, "ref": f"refs/{word}/{key}", "targetCommit": oid} for key, oid in refs.items()]
            for kind, (word, refs) in kinds.items()
        }
        return {**found, "converts": []}

    def tree(self, name: str, revision: str) -> Any:
        commit = self._commit(name, revision)
        entries = [blob.entry(path) for path, blob in commit.tree.items()] + self.hub.extra_tree
        start = int(self.query.get("cursor", ["0"])[0])
        headers = {}
        if start + _PAGE < len(entries):
            following = f"{self.hub.endpoint}/api/models/{name}/tree/{revision}?recursive=true&cursor={start + _PAGE}"
            headers["Link"] = f'<{following}>; rel="next"'
        return 200, headers, json.dumps(entries[start : start + _PAGE]).encode()

    def validate(self) -> Any:
        return {"errors": [], "warnings": []}

    def preupload(self, name: str, revision: str) -> Any:
        tree = self._commit(name, revision).tree
        files = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            known = tree.get(path)
            files.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if path.endswith(_LARGE) or asked["size"] > 10**7 else "regular",
                    "shouldIgnore": path in self.hub.ignore,
                    "oid": known and (known.sha256 if known.large else known.git),
                }
            )
        return {"files": files}

    def batch(self, name: str) -> Any:
        self._repository(name)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            oid, size = asked["oid"], asked["size"]
            found: dict[str, Any] = {"oid": oid, "size": size}
            if not (self.hub.root / oid).is_file():
                upload: dict[str, Any] = {"href": f"{self.hub.cdn}/upload/{oid}?X-Amz-Signature=c0ffee"}
                if self.hub.multipart and size > self.hub.multipart:
                    count = -(-size // self.hub.multipart)
                    parts = {str(n + 1): f"{self.hub.cdn}/part/{oid}/{n}?X-Amz-Signature=c0ffee" for n in range(count)}
                    upload = {
                        "href": f"{self.hub.endpoint}/complete/{oid}",
                        "header": {"chunk_size": str(self.hub.multipart), **parts},
                    }
                verify = {"href": f"{self.hub.endpoint}/{_public(name)}.git/info/lfs/verify"}
                found["actions"] = {"upload": upload, "verify": verify}
            objects.append(found)
        return {"objects": objects, "transfer": "basic"}

    def upload(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _RefusedError(400, "content does not have its digest")
        self.hub.bytes_received += len(self.body)
        (self.hub.root / oid).write_bytes(self.body)
        return 200, {"ETag": f'"{oid}"'}, b""

    def part(self, oid: str, number: str) -> Any:
        self.hub.bytes_received += len(self.body)
        (self.hub.root / f"{oid}.{number}").write_bytes(self.body)
        return 200, {"ETag": f'"{number}"'}, b""

    def complete(self, oid: str) -> Any:
        content = b"".join((self.hub.root / f"{oid}.{part['partNumber'] - 1}").read_bytes() for part in self._parts())
        if hashlib.sha256(content).hexdigest() != oid:
            raise _RefusedError(400, "content does not have its digest")
        (self.hub.root / oid).write_bytes(content)
        return {}

    def _parts(self) -> list[dict[str, Any]]:
        return list(json.loads(self.body)["parts"])

    def verify(self, name: str) -> Any:
        if not (self.hub.root / json.loads(self.body)["oid"]).is_file():
            raise _RefusedError(404, "no such object")
        return {}

    def commit(self, name: str, branch: str) -> Any:
        repository = self._repository(name)
        if branch not in repository.branches:
            raise _RefusedError(404, "Invalid rev id", "RevisionNotFound")
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", repository.branches[branch]) != repository.branches[branch]:
            raise _RefusedError(412, "The branch has moved: a commit has happened since")
        tree = dict(repository.commits[repository.branches[branch]].tree)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                tree[value["path"]] = self.hub.put(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                place = self.hub.root / value["oid"]
                if not place.is_file():
                    raise _RefusedError(400, "a large file was never uploaded")
                tree[value["path"]] = Blob(place.stat().st_size, "0" * 40, value["oid"], large=True)
            elif line["key"] == "deletedFile":
                del tree[value["path"]]
        oid = repository.add(branch, tree, header["summary"])
        return {"commitUrl": f"{self.hub.endpoint}/{_public(name)}/commit/{oid}", "commitOid": oid}

    def tag(self, name: str, revision: str) -> Any:
        repository, asked = self._repository(name), json.loads(self.body)
        self._commit(name, revision)
        if asked["tag"] in repository.tags:
            raise _RefusedError(409, "Tag reference exists already")
        repository.tags[asked["tag"]] = repository.resolve(revision) or ""
        return {}

    def untag(self, name: str, tag: str) -> Any:
        if self._repository(name).tags.pop(tag, None) is None:
            raise _RefusedError(404, "no such tag")
        return {}

    def branch(self, name: str, branch: str) -> Any:
        repository = self._repository(name)
        if branch in repository.branches:
            raise _RefusedError(409, "Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        return {}

    def resolve(self, name: str, revision: str, path: str) -> Any:
        commit = self._commit(name, revision)
        if path not in commit.tree:
            raise _RefusedError(404, "Entry not found", "EntryNotFound")
        blob = commit.tree[path]
        oid = self._repository(name).resolve(revision) or ""
        headers = {"X-Repo-Commit": oid, "ETag": f'"{blob.git}"', "X-Linked-Size": str(blob.size)}
        if blob.large:
            location = f"{self.hub.cdn}/object/{blob.sha256}?X-Amz-Signature=c0ffee"
            return 302, {**headers, "X-Linked-ETag": f'"{blob.sha256}"', "Location": location}, b""
        return 200, headers, self.hub.root / blob.sha256

    def object(self, oid: str) -> Any:
        return 200, {"ETag": f'"{oid}"'}, self.hub.root / oid


def _public(name: str) -> str:
    """A repository's name in addresses."""
    return name.replace("spaces:", "spaces/")


_NAME, _REVISION = r"([^/]+/[^/]+)", r"([^/]+)"
_ROUTES = [
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("GET", r"/api/models", "listing"),
    ("GET", rf"/api/models/{_NAME}", "info"),
    ("GET", rf"/api/models/{_NAME}/revision/{_REVISION}", "info"),
    ("GET", rf"/api/models/{_NAME}/refs", "refs"),
    ("GET", rf"/api/models/{_NAME}/tree/{_REVISION}", "tree"),
    ("POST", rf"/api/models/{_NAME}/preupload/{_REVISION}", "preupload"),
    ("POST", rf"/api/models/{_NAME}/commit/{_REVISION}", "commit"),
    ("POST", rf"/api/models/{_NAME}/tag/{_REVISION}", "tag"),
    ("DELETE", rf"/api/models/{_NAME}/tag/{_REVISION}", "untag"),
    ("POST", rf"/api/models/{_NAME}/branch/{_REVISION}", "branch"),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", "batch"),
    ("POST", rf"/{_NAME}\.git/info/lfs/verify", "verify"),
    ("PUT", r"/upload/([0-9a-f]{64})", "upload"),
    ("PUT", r"/part/([0-9a-f]{64})/(\d+)", "part"),
    ("POST", r"/complete/([0-9a-f]{64})", "complete"),
    ("GET", rf"/{_NAME}/resolve/{_REVISION}/(.+)", "resolve"),
    ("HEAD", rf"/{_NAME}/resolve/{_REVISION}/(.+)", "resolve"),
    ("GET", r"/object/([0-9a-f]{64})", "object"),
]


def _chunks(body: bytes | Path, start: int, stop: int) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body[start:stop]
        return
    with open(body, "rb") as file:
        file.seek(start)
        left = stop - start
        while left > 0 and (chunk := file.read(min(left, 2**20))):
            left -= len(chunk)
            yield chunk


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty hub, and a client that does not know any other and does not sleep between tries."""
    import huggingface_hub
    from huggingface_hub import constants

    root = tmp_path / "hub-server"
    root.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    server = HubServer(root)
    quick = SimpleNamespace(**{**vars(time), "sleep": server.waits.append})
    monkeypatch.setattr("aethernet.hub.retrying.time", quick)
    monkeypatch.setattr("huggingface_hub.utils._http.time", quick)
    # Whom the client sends its token.
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield server
    server.close()
    huggingface_hub.close_session()
