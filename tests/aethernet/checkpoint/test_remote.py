"""Checkpoints from the web: the file under its own name, or nothing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from aethernet.checkpoint.remote import fetched_file, is_remote
from aethernet.errors import AethernetError, SpecMismatchError, UnreachableError, UsageError

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.startswith("/net"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: 100 if "short" in self.path else None])


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_file_is_there_under_its_name_and_gone_afterwards(web: str) -> None:
    with fetched_file(f"{web}/net%20g.pth?download=true", DIGEST.upper()) as path:
        assert path.name == "net g.pth"
        assert path.read_bytes() == CONTENT

    assert not path.exists()


@pytest.mark.parametrize(
    ("end", "digest", "error", "told"),
    [
        ("/net.pth", "0" * 64, SpecMismatchError, "expected a file with sha256 0000"),
        ("/net.pth", None, UsageError, "expected https, found http"),
        ("/net_short.pth", DIGEST, UnreachableError, "could not fetch"),
        ("/other.pth", DIGEST, UnreachableError, "404"),
        ("/", DIGEST, UsageError, "expected an address such as"),
        ("/net/..", DIGEST, UsageError, "expected an address such as"),
    ],
)
def test_what_is_not_the_file_is_told(
    web: str, end: str, digest: str | None, error: type[AethernetError], told: str
) -> None:
    with pytest.raises(error, match=told), fetched_file(web + end, digest):
        raise AssertionError("nothing must come")


def test_only_addresses_on_the_web_are_remote() -> None:
    assert is_remote("https://example.com/x.pth")
    assert not is_remote("/home/me/x.pth")
    assert not is_remote("file:///x.pth")
    with pytest.raises(UsageError, match="expected an address"), fetched_file("file:///etc/passwd", DIGEST):
        pass
    with pytest.raises(UnreachableError, match="could not fetch"), fetched_file("http://127.0.0.1:1/x.pth", DIGEST):
        pass
