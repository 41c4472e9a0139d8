"""Places releases are published to, behind one protocol.

An address is ``place/name[@version]``. Places are ``file:///folder``, a folder that holds ``NAME/VERSION/`` with plain
files; ``hf://org``, a user or organisation on the Hugging Face Hub (``HF_ENDPOINT`` moves it elsewhere); and
``hf+https://host/org``, the same on one's own hub.
"""

from __future__ import annotations

from aethernet.hub.address import Address, is_address
from aethernet.hub.connecting import connect
from aethernet.hub.protocol import Hub, Publication, Snapshot, newest_version

__all__ = ["Address", "Hub", "Publication", "Snapshot", "connect", "is_address", "newest_version"]
