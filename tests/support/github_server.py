"""GitHub's API for issues, on loopback."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

__all__ = ["GitHubServer", "github_server"]


class GitHubServer:
    """Issues of one repository."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.repository = "org/networks"
        self.issues: list[dict[str, Any]] = []
        self.comments: list[tuple[int, str]] = []
        handler = type("Handler", (_Handler,), {"github": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    github: GitHubServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        if self._allowed(rf"/repos/{self.github.repository}/issues\?state=open&per_page=100"):
            self._send(200, [issue for issue in self.github.issues if issue["state"] == "open"])

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        page = f"https://github.com/{self.github.repository}/issues/"
        if match := re.fullmatch(rf"/repos/{self.github.repository}/issues/(\d+)/comments", self.path):
            if self._allowed(".*"):
                self.github.comments.append((int(match[1]), content["body"]))
                self._send(201, {"html_url": f"{page}{match[1]}#issuecomment-{len(self.github.comments)}"})
        elif self._allowed(rf"/repos/{self.github.repository}/issues"):
            number = len(self.github.issues) + 1
            self.github.issues.append({"number": number, "state": "open", **content})
            self._send(201, {"html_url": f"{page}{number}"})

    def _allowed(self, path: str) -> bool:
        if self.headers["Authorization"] != f"Bearer {self.github.token}":
            self._send(401, {"message": "Bad credentials"})
            return False
        if not re.fullmatch(path, self.path):
            self._send(404, {"message": "Not Found"})
            return False
        return True

    def _send(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def github_server() -> Iterator[GitHubServer]:
    """A repository without issues."""
    server = GitHubServer("ghs_loopback")
    yield server
    server.close()
