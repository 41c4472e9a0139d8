"""A static file server as anybody has one, which remembers what it was asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

__all__ = ["ISOLATION", "SiteServer", "serve"]

ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


@dataclass(frozen=True, slots=True)
class SiteServer:
    """A running server."""

    address: str
    """Ends with a slash."""
    asked: list[str] = field(default_factory=list)
    """Paths, in order."""


@contextmanager
def serve(folder: Path, headers: Mapping[str, str] | None = None) -> Iterator[SiteServer]:
    """Serve a folder on the loopback device, as ``python -m http.server`` does.

    Args:
        folder: What is served.
        headers: Sent with every answer.
    """

    class Handler(SimpleHTTPRequestHandler):
        # Not every system knows a type for these.
        extensions_map: ClassVar[dict[str, str]] = {
            **SimpleHTTPRequestHandler.extensions_map,
            **dict.fromkeys((".js", ".mjs"), "text/javascript"),
        }

        def end_headers(self) -> None:
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *_: object) -> None:
            server.asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as listening:
        server = SiteServer(f"http://localhost:{listening.server_address[1]}/")
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
