"""The layers: flows use tasks, tasks use the library, never the other way; and importing stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.import_graph import Import, circles, imports_of, room_of, rooms, tree, upward

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ["torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "prefect", "polygraphy", "skimage", "PIL", "numpy"]
HEAVY += ["huggingface_hub", "httpx2", "model_signing", "cryptography"]


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return imports_of(ROOT)


def test_layers_are_flows_then_tasks_then_the_library(imports: list[Import]) -> None:
    order = ("aethernet", "tasks", "flows")
    backwards = [
        f"{one.file}:{one.line}: imports {one.target}"
        for one in imports
        if order.index(one.target.split(".")[0]) > order.index(one.source.split(".")[0])
    ]

    assert backwards == []


def test_the_library_knows_neither_prefect_nor_the_tests() -> None:
    users = {
        path.relative_to(ROOT).as_posix(): roots
        for path in (ROOT / "aethernet").rglob("*.py")
        if (roots := imported_roots(path) & {"prefect", "tests"})
    }

    assert users == {}


def test_every_room_is_written_down_and_every_line_is_a_room() -> None:
    found = {path.stem if path.is_file() else path.name for path in (ROOT / "aethernet").iterdir()}
    found = {
        name for name in found if (ROOT / "aethernet" / name).is_dir() or (ROOT / f"aethernet/{name}.py").is_file()
    }

    assert found - {"__init__", "__main__", "__pycache__", "samples", "schemas"} == set(rooms(ROOT)) - {""}


def test_every_import_goes_to_the_same_room_or_a_lower_one(imports: list[Import]) -> None:
    assert upward(imports, list(rooms(ROOT))) == []


def test_no_files_import_each_other_in_a_circle(imports: list[Import]) -> None:
    assert circles([(one.source, one.target) for one in imports]) == []


def test_no_rooms_import_each_other_in_a_circle(imports: list[Import]) -> None:
    ours = [one for one in imports if one.source.split(".")[0] == one.target.split(".")[0] == "aethernet"]

    assert circles([(room_of(one.source), room_of(one.target)) for one in ours]) == []


HIDDEN = {
    "at the top": "from aethernet.cli.output import say\n",
    "inside a function": "def late():\n    from aethernet.cli.output import say\n",
    "for a type checker": "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from aethernet.cli.output import say\n",
    "by name": 'from importlib import import_module\nimport_module("aethernet.cli.output")\n',
}


@pytest.mark.parametrize("way", HIDDEN)
def test_an_upward_import_is_found_however_it_is_written(way: str, tmp_path: Path) -> None:
    for name, text in {"artifact.py": HIDDEN[way], "cli/output.py": "import aethernet.artifact\n"}.items():
        (tmp_path / "aethernet" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "aethernet" / name).write_text(text, encoding="utf-8")

    found = imports_of(tmp_path, ("aethernet",))

    line = HIDDEN[way].count("\n")
    assert upward(found, list(rooms(ROOT))) == [f"aethernet/artifact.py:{line}: artifact imports cli, a higher room"]
    assert circles([(one.source, one.target) for one in found]) == [["aethernet.artifact", "aethernet.cli.output"]]


def test_contributing_shows_the_rooms_as_they_are() -> None:
    page = (ROOT / ".github/CONTRIBUTING.md").read_text(encoding="utf-8")

    assert tree(ROOT) in page, "paste what `python -m tests.support.import_graph` prints"


def imported_roots(path: Path) -> set[str]:
    roots = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").split(".")[0])
    return roots


def test_only_caching_and_the_tasks_that_are_never_cached_know_prefect() -> None:
    users = {path.name for path in (ROOT / "tasks").glob("*.py") if "prefect" in imported_roots(path)}

    assert users == {"assemble.py", "caching.py", "publish.py", "reverify.py", "sign.py", "site.py"}


@pytest.mark.parametrize(
    "module",
    ["aethernet", "aethernet.cli.main", "aethernet.errors", "aethernet.training", "aethernet.hub", "aethernet.release"],
)
def test_importing_is_light(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert found.stdout.strip() == "[]"


def test_upscaling_needs_no_training_framework() -> None:
    code = (
        "import sys, aethernet.upscale.video, aethernet.upscale.files; "
        "print(sorted({'torch', 'av'} & set(sys.modules)))"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert found.stdout.strip() == "[]"


def test_public_names_resolve() -> None:
    import aethernet

    assert all(getattr(aethernet, name) is not None for name in aethernet.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = aethernet.nonsense


def test_pins_are_versions_without_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()

    assert lines
    assert all(line.count("==") == 1 and "/" not in line and "@" not in line for line in lines)
