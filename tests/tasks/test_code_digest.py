"""Which code a stage's key depends on."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import code_digest as _code
from tasks.code_digest import code_digest, remembered_sources
from tests.support.releases import flip_byte

REPOSITORY = Path(__file__).resolve().parents[2]


def test_imports_are_found_wherever_they_stand_and_not_where_they_never_run() -> None:
    source = """
        import one
        if TYPE_CHECKING:
            import never
        else:
            import two
        try:
            import three
        except ImportError:
            import four
        else:
            import five
        finally:
            import six
        while True:
            from seven import eight
        class Inside:
            async def method(self):
                with open("x") as stream:
                    match stream:
                        case 1:
                            import nine
    """

    found = set(_code._imported(ast.parse(textwrap.dedent(source))))

    assert found == {"one", "two", "three", "four", "five", "six", "seven", "seven.eight", "nine"}


NETWORK_STAGES = {
    "load",
    "fuse",
    "export",
    "quantize",
    "sensitivity",
    "compare",
    "build",
    "benchmark",
    "describe",
    "draw",
    "ncnn",
}
UNTOUCHED = "untouched"


def _append(text: str) -> str:
    return text + "\n_UNUSED = 1\n"


CODE_CHANGES: dict[str, tuple[str, Callable[[str], str], set[str]]] = {
    "stage": ("tasks/fuse.py", lambda text: text.replace('f"{name}_{precision', 'f"{name}-{precision'), {"fuse"}),
    "comment": ("aethernet/networks/fusion.py", lambda text: text + "\n# A remark.\n", set()),
    "layout": ("tasks/fuse.py", lambda text: text.replace("\n\n\n", "\n\n\n\n\n"), set()),
    "card's template": ("aethernet/release/card/template.md.jinja", lambda text: text + "\nThe end.\n", {"card"}),
    "report's template": (
        "aethernet/release/report/page.html.jinja",
        lambda text: text + "\n<!-- The end. -->\n",
        {"report"},
    ),
    "helper": (
        "aethernet/release/sheet.py",
        lambda text: text.replace("_GAP, _CAPTION = 8", "_GAP, _CAPTION = 9"),
        {"draw"},
    ),
    "exporter": ("aethernet/export/half.py", _append, {"export", "ncnn", "quantize", "sensitivity"}),
    "another stage's helper": ("tasks/load.py", lambda text: text.replace('"notfused"', '"raw"'), {"load"}),
    "manifest's builder": ("aethernet/release/facts.py", _append, {"describe"}),
    "manifest's file list": ("aethernet/release/entries.py", _append, {"describe"}),
    "helper of a helper": ("aethernet/networks/blocks.py", _append, NETWORK_STAGES),
    "command line": ("aethernet/cli/steps.py", _append, set()),
    "flow": ("flows/release.py", _append, set()),
    "training": ("aethernet/training/recipe.py", _append, set()),
    "hub": ("aethernet/hub/folder.py", _append, {"publish", "reverify"}),
}
"""What is changed -> file, how, and the task modules whose stages must run again (cheap ones may run, too)."""

CHEAP = {"card", "report", "openmodeldb", "assemble", "publish", "reverify", "sign", "site", "fetch"}

_DIGESTS = """
import json, pathlib, sys
from tasks import code_digest as module
from tasks.code_digest import code_digest
answer = {}
for name, (path, text) in json.load(sys.stdin).items():
    place = pathlib.Path(path)
    before = place.read_text()
    place.write_text(text)
    code_digest.cache_clear()
    module._read_source.cache_clear()
    answer[name] = {p.stem: code_digest(p) for p in sorted(pathlib.Path("tasks").absolute().glob("[a-z]*.py"))}
    place.write_text(before)
    module._remembered.update(module._met)  # by content, as between processes: only what was edited is read again
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Change -> task module -> digest, computed in a second checkout."""
    clone = tmp_path_factory.mktemp("elsewhere") / "clone"
    for package in ("aethernet", "tasks", "flows"):
        shutil.copytree(REPOSITORY / package, clone / package, ignore=shutil.ignore_patterns("__pycache__", "samples"))
    edits = {UNTOUCHED: ("aethernet/networks/fusion.py", (clone / "aethernet/networks/fusion.py").read_text())}
    for name, (path, change, _) in CODE_CHANGES.items():
        before = (clone / path).read_text()
        edits[name] = (path, change(before))
        assert edits[name][1] != before, name
    told = subprocess.run(
        [sys.executable, "-c", _DIGESTS], cwd=clone, input=json.dumps(edits), capture_output=True, text=True, check=True
    )
    return dict(json.loads(told.stdout))


def test_two_checkouts_with_equal_content_have_equal_digests(digests: dict[str, dict[str, str]]) -> None:
    here = {path.stem: code_digest(path) for path in sorted((REPOSITORY / "tasks").glob("[a-z]*.py"))}

    assert here == digests[UNTOUCHED]


@pytest.mark.parametrize("change", CODE_CHANGES)
def test_changed_code_changes_the_keys_of_exactly_the_stages_that_reach_it(
    digests: dict[str, dict[str, str]], change: str
) -> None:
    wanted = CODE_CHANGES[change][2]

    changed = {name for name, digest in digests[UNTOUCHED].items() if digests[change][name] != digest}

    assert changed - (CHEAP - wanted if wanted == NETWORK_STAGES else set()) == wanted


# --- remembered between processes ------------------------------------------------------------------------------------

_REMEMBERING = """
import json, pathlib, sys
from tasks import code_digest as _code
def counted(source, parsed=_code._parsed):
    global count
    count += 1
    return parsed(source)
count, _code._parsed = 0, counted
with _code.remembered_sources(pathlib.Path(sys.argv[1])):
    digest = _code.code_digest(pathlib.Path("tasks/fuse.py").absolute())
print(json.dumps([digest, count]))
"""


def _remembering(folder: Path) -> tuple[str, int]:
    """Digest of a task's code in a process of its own, and how many sources it had to read for it."""
    told = subprocess.run(
        [sys.executable, "-c", _REMEMBERING, str(folder)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    digest, count = json.loads(told.stdout)
    return digest, count


def test_what_was_found_in_sources_is_remembered_and_never_believed_when_it_was_changed(tmp_path: Path) -> None:
    first, read = _remembering(tmp_path)
    again = _remembering(tmp_path)
    (memory,) = tmp_path.iterdir()
    flip_byte(memory)
    spoilt = _remembering(tmp_path)

    assert read > 10
    assert again == (first, 0)
    assert spoilt == (first, read)
    assert first == code_digest(REPOSITORY / "tasks" / "fuse.py")


def test_a_memory_of_an_impossible_shape_or_place_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What other tests of this process read is remembered already, and then there is nothing to write.
    monkeypatch.setattr(_code, "_remembered", {})
    monkeypatch.setattr(_code, "_met", {"0" * 64: ("1" * 64, ("os",))})
    with remembered_sources(tmp_path):
        pass
    (memory,) = tmp_path.iterdir()
    for nonsense in ("[]", "{", '{"sources": [], "seal": 1}', '{"sources": 3}'):
        memory.write_text(nonsense)
        with remembered_sources(tmp_path):
            pass
    with remembered_sources(memory / "below a file"):
        pass
