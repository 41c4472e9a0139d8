"""The layers: flows use tasks, tasks use the library, never the other way; and importing stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {"aethernet": {"tasks", "flows", "tests", "prefect"}, "tasks": {"flows", "tests"}, "flows": {"tests"}}
HEAVY = ["torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "prefect", "polygraphy", "skimage", "PIL", "numpy"]
HEAVY += ["huggingface_hub", "httpx2", "model_signing", "cryptography"]


def imported_roots(path: Path) -> set[str]:
    roots = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            roots.add((node.module or "").split(".")[0])
    return roots


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_imports_go_one_way(layer: str) -> None:
    backwards = {
        path.relative_to(ROOT).as_posix(): sorted(imported_roots(path) & FORBIDDEN[layer])
        for path in (ROOT / layer).rglob("*.py")
    }

    assert {path: names for path, names in backwards.items() if names} == {}


def test_only_caching_and_the_tasks_that_are_never_cached_know_prefect() -> None:
    users = {path.name for path in (ROOT / "tasks").glob("*.py") if "prefect" in imported_roots(path)}

    assert users == {"_caching.py", "assemble.py", "publish.py", "reverify.py", "sign.py"}


@pytest.mark.parametrize(
    "module", ["aethernet", "aethernet.cli.main", "aethernet.errors", "aethernet.training", "aethernet.hub"]
)
def test_importing_is_light(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert found.stdout.strip() == "[]"


def test_upscaling_needs_no_training_framework() -> None:
    code = (
        "import sys, aethernet.upscale.film, aethernet.upscale.files; print(sorted({'torch', 'av'} & set(sys.modules)))"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert found.stdout.strip() == "[]"


def test_public_names_resolve() -> None:
    import aethernet

    assert all(getattr(aethernet, name) is not None for name in aethernet.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = aethernet.nonsense


def test_the_wheel_ships_the_library_alone() -> None:
    import tomllib

    from setuptools import find_packages

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"][
        "find"
    ]

    packages = find_packages(str(ROOT), **settings)

    assert {package.split(".")[0] for package in packages} == {"aethernet"}
    assert {"aethernet.network", "aethernet.export", "aethernet.card"} <= set(packages)


def test_pins_are_versions_without_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()

    assert lines
    assert all(line.count("==") == 1 and "/" not in line and "@" not in line for line in lines)
