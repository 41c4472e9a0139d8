"""The long set: which of its files must run again, because code that they reach is not what they last passed with.

``tests/long_set.json`` holds a digest for each file, of the import closure that cache keys use. Without arguments the
files whose closure is another now are printed; with ``--record`` all are noted as passed (``make test-all`` does).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tasks.code_digest import code_digest

__all__ = ["digests", "due"]

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "tests" / "long_set.json"
STARTED = ("flows/__main__.py", "aethernet/__main__.py")
"""What the tests start in processes of their own, which no import shows."""
BESIDES = ("constraints.txt", "pyproject.toml")
"""What decides which tools they run with."""
_MARK = re.compile(r"\bmark\.(?:long|cluster)\b")


def digests(root: Path = ROOT) -> dict[str, str]:
    """Path of each file with a test of the long set -> digest of all that it reaches."""
    import hashlib

    sources = sorted(path for path in (root / "tests").rglob("test_*.py") if _MARK.search(path.read_text("utf-8")))
    common = [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in BESIDES]
    common += [_reached(root / name) for name in STARTED]
    found = {}
    for path in sources:
        lines = "\n".join([_reached(path), *common])
        found[path.relative_to(root).as_posix()] = hashlib.sha256(lines.encode()).hexdigest()
    return found


def _reached(path: Path) -> str:
    return code_digest(path, packages=("aethernet", "flows", "tasks", "tests"), without=())


def due(now: dict[str, str], recorded: dict[str, str]) -> list[str]:
    """Files that did not pass with what they reach now."""
    return [name for name, digest in now.items() if recorded.get(name) != digest]


def main() -> None:
    """Print what is due, or note that all has passed."""
    if sys.argv[1:] == ["--record"]:
        RECORD.write_text(json.dumps(digests(), indent=2) + "\n", encoding="utf-8")
        return
    recorded = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    print("\n".join(due(digests(), recorded)))


if __name__ == "__main__":
    main()
