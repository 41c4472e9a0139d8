"""Who imports whom, read from the source: every import counts, also inside functions and for type checkers alone."""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Import", "circles", "imports_of", "room_of", "rooms", "tree", "upward"]


@dataclass(frozen=True, order=True)
class Import:
    """One module importing another of the same repository."""

    source: str
    target: str
    file: str
    """POSIX path below the repository."""
    line: int


def rooms(root: Path) -> dict[str, str]:
    """Room -> what it holds, lowest first; the package's own face is the room without a name."""
    data = tomllib.loads((root / "aethernet/rooms.toml").read_text(encoding="utf-8"))
    found: dict[str, str] = data["rooms"]
    return found


def room_of(module: str) -> str:
    """The room that a module of ``aethernet`` belongs to; ``python -m aethernet`` is the command line's."""
    parts = module.split(".")
    room = parts[1] if len(parts) > 1 else ""
    return "cli" if room == "__main__" else room


def tree(root: Path) -> str:
    """The library two levels deep: a line per room, and the modules in it."""
    lines = []
    for room, purpose in rooms(root).items():
        place = root / "aethernet" / room
        lines.append(f"{room + ('/' if place.is_dir() else '.py') if room else '__init__.py':<20}{purpose}")
        if room and place.is_dir():
            inside = [f"{one.name}/" if one.is_dir() else one.stem for one in sorted(place.iterdir())]
            names = [one for one in inside if not one.startswith((".", "__"))]
            lines += textwrap.wrap(" · ".join(names), 116, initial_indent=" " * 4, subsequent_indent=" " * 4)
    return "\n".join(lines) + "\n"


def imports_of(root: Path, packages: Sequence[str] = ("aethernet", "tasks", "flows")) -> list[Import]:
    """Every import between modules of these packages.

    Raises:
        AssertionError: A module is imported that does not exist, or a relative import is used.
    """
    modules = {_name(path.relative_to(root)): path for one in packages for path in sorted((root / one).rglob("*.py"))}
    found = set()
    for module, path in modules.items():
        file = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for target in _targets(node, set(modules), f"{file}:{getattr(node, 'lineno', 0)}"):
                if target.split(".")[0] not in packages or target == module:
                    continue
                assert target in modules, f"{file}:{node.lineno}: imports {target}, which does not exist"
                found.add(Import(module, target, file, node.lineno))
    return sorted(found)


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _targets(node: ast.AST, modules: set[str], place: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{place}: relative import"
        assert node.module
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full in modules else node.module
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("import_module", "__import__") and node.args[0].value in modules:
            yield str(node.args[0].value)


def upward(imports: Sequence[Import], order: Sequence[str]) -> list[str]:
    """Imports of ``aethernet`` that go to a higher room, in words."""
    place = {room: index for index, room in enumerate(order)}
    ours = [one for one in imports if one.source.split(".")[0] == one.target.split(".")[0] == "aethernet"]
    pairs = [(one, room_of(one.source), room_of(one.target)) for one in ours]
    return [
        f"{one.file}:{one.line}: {source or 'the public face'} imports {target or 'the public face'}, a higher room"
        for one, source, target in pairs
        if place[target] > place[source]
    ]


def circles(edges: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Groups of nodes that reach each other along the edges (strongly connected components; Tarjan 1972)."""
    after: dict[str, list[str]] = {}
    for source, target in edges:
        if source != target:
            after.setdefault(source, []).append(target)
            after.setdefault(target, [])
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in after[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in after:
        if node not in index:
            visit(node)
    return found


if __name__ == "__main__":  # what .github/CONTRIBUTING.md shows
    print(tree(Path(__file__).resolve().parents[2]), end="")
