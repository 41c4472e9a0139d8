"""The code a stage reaches, as a digest: part of its cache key."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from aethernet.artifact import atomic_path
from aethernet.errors import StoreError

__all__ = ["code_digest", "remembered_sources"]

_Source: TypeAlias = tuple[str, tuple[str, ...]]
"""Digest of a source file without comments and layout, and the names it imports."""


_PACKAGES = ("aethernet", "tasks")
_CACHE = ("tasks.caching", "tasks.code_digest")
"""The cache's own modules: they decide whether a stage runs, not what comes out of it."""


@functools.cache
def code_digest(module_file: Path, packages: tuple[str, ...] = _PACKAGES, without: tuple[str, ...] = _CACHE) -> str:
    """Digest of a module and of every module of ours it reaches through imports, wherever they stand.

    Comments and layout do not count. A package counts with its data files (templates).

    Args:
        module_file: Where to start: a module of tasks.
        packages: What is ours.
        without: Modules that do not count, by the beginning of their names.
    """
    waiting, seen = [module_file], {}
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen[file], names = _read_source(file)
        if file.name == "__init__.py" and file.parent.name != "aethernet":
            for data in sorted(file.parent.iterdir()):
                if data.is_file() and data.suffix not in (".py", ".pyc"):
                    seen[data] = hashlib.sha256(data.read_bytes()).hexdigest()
        for name in names:
            if name.split(".")[0] in packages and not name.startswith(without):
                waiting += _files_of(name)
    lines = sorted(f"{digest} {file.name}" for file, digest in seen.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@functools.cache
def _read_source(file: Path) -> _Source:
    source = file.read_bytes()
    name = hashlib.sha256(source).hexdigest()
    _met[name] = _remembered.get(name) or _parsed(source)
    return _met[name]


_met: dict[str, _Source] = {}
"""Digest of a source file's bytes -> what was found in it; those that this process came by."""
_remembered: dict[str, _Source] = {}
"""The same, as another process left it."""


@contextmanager
def remembered_sources(folder: Path) -> Iterator[None]:
    """What was found in source files outlives the process: reading all of them takes longer than many a stage.

    Args:
        folder: Where it is kept. Nothing but time is lost when it cannot be written or when what lies there is not
            what was written.
    """
    # Another way of reading, or another grammar, finds other things.
    ways = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()
    memory = folder / f"sources-{ways[:16]}.json"
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        told = json.loads(memory.read_bytes())
        if told["seal"] == _checksum(told["sources"]):
            _remembered.update({name: (digest, tuple(names)) for name, (digest, names) in told["sources"].items()})
    try:
        yield
    finally:
        if not _met.keys() <= _remembered.keys():
            _remembered.update(_met)
            with suppress(StoreError), atomic_path(memory) as temporary:
                temporary.write_text(json.dumps({"sources": _met, "seal": _checksum(_met)}), encoding="utf-8")


def _checksum(sources: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()


def _parsed(source: bytes) -> _Source:
    """Digest of a source file without comments and layout, and the names it imports."""
    tree = ast.parse(source)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(_imported(tree))


def _imported(tree: ast.AST) -> Iterator[str]:
    """Every name imported at run time; what stands under ``if TYPE_CHECKING`` never is."""
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from _imported(node)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements in a node that may run, and what holds more of them; expressions, most of a tree, hold none."""
    never = isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING"
    for name in ("orelse",) if never else ("body", "orelse", "handlers", "finalbody", "cases"):
        inner = getattr(tree, name, ())
        yield from inner if isinstance(inner, list) else ()


@functools.cache
def _files_of(name: str) -> list[Path]:
    """The source files behind one imported name, packages on the way included."""
    parts = name.split(".")
    files = []
    for length in range(1, len(parts) + 1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:length]))
        except (ImportError, AttributeError):
            break  # a function or class, not a module
        if spec is None or spec.origin is None:
            break
        files.append(Path(spec.origin))
    return files
