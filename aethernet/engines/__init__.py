"""TensorRT engines: built from a release's ONNX files, identified, checked, and refused where they do not fit.

Two backends share one builder: TensorRT-RTX, which compiles for named GPU generations on a machine without any GPU, and
TensorRT, which tunes an engine on the GPU it is for. Both build strongly typed: precision is what the ONNX file says,
never a builder flag. Everything that touches their libraries runs in a child process (:mod:`aethernet.engines.worker`).

Building is :mod:`aethernet.engines.builder`, not imported here: manifests hold identities and need no exporter.
"""

from aethernet.engines.backends import Backend, Gpu, find_gpu, installed_version
from aethernet.engines.identity import EngineIdentity, EngineRecord, check_engine, read_record
from aethernet.engines.profiles import PROFILE_PRESETS, Profile, parse_profile

__all__ = [
    "PROFILE_PRESETS",
    "Backend",
    "EngineIdentity",
    "EngineRecord",
    "Gpu",
    "Profile",
    "check_engine",
    "find_gpu",
    "installed_version",
    "parse_profile",
    "read_record",
]
