"""What strangers hand us, byte by byte: each target takes bytes and lets nothing out but a clear error.

Hypothesis runs the targets in ``test_parsers.py``; ``python -m tests.fuzz.parsers TARGET CORPUS -max_total_time=60``
runs one under atheris (libFuzzer, guided by coverage) for as long as you like.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from aethernet.errors import AethernetError

__all__ = ["TARGETS"]


def _in_file(name: str, data: bytes, use: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "inside" / name
        place.parent.mkdir()
        place.write_bytes(data)
        with contextlib.suppress(AethernetError):
            use(place)
        found = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*"))
        assert found == ["inside", f"inside/{name}"], f"written: {found}"


def manifest(data: bytes) -> None:
    """``release.json``."""
    from aethernet.records import read_model
    from aethernet.release.manifest import MANIFEST, Manifest

    with contextlib.suppress(AethernetError):
        read_model(Manifest, data, MANIFEST)


def build(data: bytes) -> None:
    """``build.json``."""
    from aethernet.records import read_model
    from aethernet.release.manifest import BUILD, BuildRecord

    with contextlib.suppress(AethernetError):
        read_model(BuildRecord, data, BUILD)


def spec(data: bytes) -> None:
    """``release.toml``."""
    from aethernet.release.spec import read_spec

    _in_file("release.toml", data, read_spec)


def trust(data: bytes) -> None:
    """``trust.toml``."""
    from aethernet.release.signing import read_trust

    _in_file("trust.toml", data, lambda path: read_trust("hf://org/net", path))


def signature(data: bytes) -> None:
    """``model.sig``."""
    from aethernet.release.signing import look_at_signature

    _in_file("model.sig", data, lambda path: look_at_signature(path, {"a": "b"}))


def checkpoint(data: bytes) -> None:
    """A checkpoint of any kind: what it is, is told from its bytes."""
    from aethernet.checkpoint.reading import read_checkpoint

    _in_file("net.pth", data, read_checkpoint)


def header(data: bytes) -> None:
    """A checkpoint, described without PyTorch."""
    from aethernet.checkpoint.header import read_facts

    _in_file("net.pth", data, read_facts)


def address(data: bytes) -> None:
    """What somebody typed."""
    from aethernet.hub.address import Address
    from aethernet.hub.connecting import connect

    with contextlib.suppress(AethernetError):
        connect(Address.parse(data.decode("utf-8", "replace")).place)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (manifest, build, spec, trust, signature, checkpoint, header, address)
}


def main() -> None:
    """Fuzz one target under atheris."""
    import atheris

    target = TARGETS[sys.argv.pop(1)]
    with atheris.instrument_imports(include=["aethernet"]):
        import aethernet.checkpoint.header
        import aethernet.checkpoint.reading
        import aethernet.hub.protocol
        import aethernet.release.manifest
        import aethernet.release.signing
        import aethernet.release.spec  # noqa: F401
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
