"""S3 on loopback: moto's server, which keeps buckets in memory."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator

import pytest

__all__ = ["bucket", "s3", "storage_settings"]

_names = itertools.count()


def storage_settings(endpoint: str) -> dict[str, str]:
    """Environment in which ``s3://`` means that server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The server's address; the environment of the session points there."""
    pytest.importorskip("s3fs", reason="needs pip install 'aethernet-sr[cluster]'")
    pytest.importorskip("flask", reason="needs pip install 'aethernet-sr[development]'")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    kept = dict(os.environ)
    os.environ.update(storage_settings(f"http://{host}:{port}"))
    yield f"http://{host}:{port}"
    server.stop()
    for name in storage_settings(""):
        os.environ.pop(name)
        if name in kept:
            os.environ[name] = kept[name]


@pytest.fixture
def bucket(s3: str) -> str:
    """The address of an empty store."""
    import s3fs

    name = f"store-{os.getpid()}-{next(_names)}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/aethernet"
