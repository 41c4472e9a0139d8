"""The long set: which of its files must run again, because code that they reach is not what they last passed with.

``.ci/long_set.json`` holds a digest for each file, of the import closure that cache keys use. Without arguments the
files whose closure is another now are printed; with ``--record RESULTS...``, JUnit files that pytest wrote, those are
noted of which every test passed (``make test-all`` does it): a skipped test has proved nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from aethernet.artifact import file_digest
from tasks.code_digest import code_digest

__all__ = ["digests", "due", "passed"]

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / ".ci" / "long_set.json"
STARTED = ("flows/__main__.py", "aethernet/__main__.py", "benchmarks/gpu.py", "benchmarks/cuda_standin.py")
"""What the tests start in processes of their own, which no import shows."""
BESIDES = ("constraints.txt", "pyproject.toml")
"""What decides which tools they run with."""
READ = {
    "tests/test_readme.py": ("README.md", "docs/*.md"),
    "tests/test_workflows.py": (".github/workflows/*.yml", "Makefile"),
}
"""Test -> files that it reads, which no import shows either."""
_MARK = re.compile(r"\bmark\.(?:long|cluster)\b")


def digests() -> dict[str, str]:
    """Path of each file with a test of the long set -> digest of all that it reaches."""
    sources = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if _MARK.search(path.read_text("utf-8")))
    common = [file_digest(ROOT / name) for name in BESIDES]
    common += [_reached(ROOT / name) for name in STARTED]
    found = {}
    for path in sources:
        name = path.relative_to(ROOT).as_posix()
        texts = [file for pattern in READ.get(name, ()) for file in sorted(ROOT.glob(pattern))]
        lines = "\n".join([_reached(path), *common, *(file_digest(file) for file in texts)])
        found[name] = hashlib.sha256(lines.encode()).hexdigest()
    return found


def _reached(path: Path) -> str:
    return code_digest(path, packages=("aethernet", "flows", "tasks", "tests"), without=())


def due(now: dict[str, str], recorded: dict[str, str]) -> list[str]:
    """Files that did not pass with what they reach now."""
    return [name for name, digest in now.items() if recorded.get(name) != digest]


def passed(results: list[Path]) -> set[str]:
    """Files of which every test passed, by what pytest wrote with ``--junit-xml``."""
    good: dict[str, bool] = {}
    for path in results:
        for case in ElementTree.parse(path).iter("testcase"):
            name = f"{case.attrib['classname'].replace('.', '/')}.py"
            good[name] = good.get(name, True) and not list(case)
    return {name for name, all_passed in good.items() if all_passed}


def main() -> None:
    """Print what is due, or note what has passed."""
    if sys.argv[1:2] == ["--record"]:
        ran = passed([Path(name) for name in sys.argv[2:]])
        noted = {name: digest for name, digest in digests().items() if name in ran}
        RECORD.write_text(json.dumps(noted, indent=2) + "\n", encoding="utf-8")
        return
    recorded = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    print("\n".join(due(digests(), recorded)))


if __name__ == "__main__":
    main()
