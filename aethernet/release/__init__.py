"""What a release folder is: spec, records, what is rendered from them, how it is put together and verified.

- :mod:`~aethernet.release.spec`: ``release.toml``, what an author asks for.
- :mod:`~aethernet.release.manifest`: ``release.json`` and ``build.json``, what was made and measured.
- :mod:`~aethernet.release.bundle`, :mod:`~aethernet.release.assembly`, :mod:`~aethernet.release.verification`,
  :mod:`~aethernet.release.signing`: the folder itself.
- :mod:`~aethernet.release.card`, :mod:`~aethernet.release.report`, :mod:`~aethernet.release.sbom`,
  :mod:`~aethernet.release.openmodeldb`: what is rendered from the records.

The names below are for users of the library. They are loaded when first used, so that reading a manifest loads neither
runtimes nor signing; code of this repository imports from the modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aethernet.release.bundle import Bundle, open_bundle
    from aethernet.release.manifest import BuildRecord, Manifest
    from aethernet.release.spec import ReleaseSpec, read_spec
    from aethernet.release.verification import Verification, verify_bundle

__all__ = [
    "BuildRecord",
    "Bundle",
    "Manifest",
    "ReleaseSpec",
    "Verification",
    "open_bundle",
    "read_spec",
    "verify_bundle",
]

_HOMES = {
    "bundle": ("Bundle", "open_bundle"),
    "manifest": ("BuildRecord", "Manifest"),
    "spec": ("ReleaseSpec", "read_spec"),
    "verification": ("Verification", "verify_bundle"),
}


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'aethernet.release' has no attribute '{name}'")
    return getattr(import_module(f"aethernet.release.{home}"), name)
