"""Whatever happens to a release while it is made, the same command then finishes it, and nobody sees half of it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aethernet.release.bundle import open_bundle
from aethernet.release.verification import verify_bundle
from tests.support.releases import snapshot
from tests.support.workplace import CommandLine, Finished, Workplace, without_speeds

pytestmark = pytest.mark.long

SERVER_END_S = 20
"""How long Prefect's server may take to notice that its flow is gone and to end."""


def _processes_of(place: Workplace) -> list[str]:
    """Command lines of processes that were started from a workplace's environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"HOME={place.root}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return [line for line in found if line]


def _end(process: subprocess.Popen[str], ending: signal.Signals, marker: str | None, delay: float) -> Finished:
    """Send a signal ``delay`` seconds after ``marker`` appeared on stderr (None: after the start), and wait for the end
    of everything that holds the output streams."""
    told = []
    assert process.stdout is not None
    assert process.stderr is not None
    if marker is not None:
        for line in process.stderr:
            told.append(line)
            if marker in line:
                break
    time.sleep(delay)
    process.send_signal(ending)
    out, err = process.communicate(timeout=SERVER_END_S)
    return Finished(process.returncode, out, "".join(told) + err)


def _wait_for_end_of_all(place: Workplace) -> None:
    until = time.monotonic() + SERVER_END_S
    while _processes_of(place) and time.monotonic() < until:
        time.sleep(0.2)
    assert _processes_of(place) == []


def test_killed_at_any_moment_the_same_command_finishes_the_release(
    first_release: tuple[Workplace, Finished], tmp_path: Path
) -> None:
    undisturbed, first = first_release
    place = Workplace(tmp_path / "elsewhere" / "place")
    shutil.copytree(undisturbed.spec.parent, place.spec.parent)
    home, chance = tmp_path / "prefect", random.Random(20261127)
    done: set[str] = set()

    for marker, ending in (
        (None, signal.SIGKILL),
        ("… export", signal.SIGTERM),
        ("… publish", signal.SIGKILL),
    ):
        delay = chance.uniform(1, 4) if marker is None else chance.uniform(0, 0.3)
        with place.start(place.release, home, TZ="Asia/Kathmandu") as process:
            ended = _end(process, ending, marker, delay)
        if ended.code == 0:
            break  # it was faster
        assert "Traceback" not in ended.err, (marker, ended.err)
        place.require_nothing_half_done()
        _wait_for_end_of_all(place)
        done |= ended.done
        assert marker is None or ended.done, f"nothing was done before {marker}"
    last = place.run(place.release, home)

    assert last.code == 0, last.err
    assert set(last.summary["ran"]) & done <= {"verify_content"}
    assert last.summary["identity"] == first.summary["identity"]
    assert verify_bundle(place.bundle).ok
    assert snapshot(place.published) == snapshot(place.bundle)
    assert without_speeds(place.bundle) == without_speeds(undisturbed.bundle)
    _wait_for_end_of_all(place)


def test_killed_release_all_takes_its_releases_along(
    workplace: Workplace, prefect_home: Path, server: dict[str, str]
) -> None:
    workplace.spec.parent.joinpath("one").mkdir()
    text = workplace.spec.read_text().replace('= "', '= "../').replace('"../CC0', '"CC0')
    workplace.spec.parent.joinpath("one", "release.toml").write_text(text.replace("../tiny_2x", "other_2x"))

    with workplace.start(
        ["release-all", str(workplace.spec.parent), *workplace.places], prefect_home, **server
    ) as process:
        ended = _end(process, signal.SIGKILL, "… export", 0)

    assert "other_2x  … export" in ended.err
    _wait_for_end_of_all(workplace)
    workplace.require_unpublished()


def test_two_releases_at_once_share_the_work_and_both_succeed(
    workplace: Workplace, prefect_home: Path, server: dict[str, str]
) -> None:
    for record in (workplace.store / "records").iterdir():
        record.unlink()
    workplace.edit_spec('precisions = ["fp32"]\n')

    with (
        workplace.start(workplace.release, prefect_home, **server) as one,
        workplace.start(workplace.release, prefect_home, **server) as other,
    ):
        ends = [one.communicate(timeout=300), other.communicate(timeout=300)]

    finished = [Finished(process.returncode, *end) for process, end in zip((one, other), ends, strict=True)]
    assert [one.code for one in finished] == [0, 0], finished
    assert len({one.summary["identity"] for one in finished}) == 1
    ran = sorted(step for one in finished for step in one.summary["ran"])
    assert ran == sorted(set(ran)), "a step ran twice"
    assert verify_bundle(workplace.published).ok
    assert snapshot(workplace.published) == snapshot(workplace.bundle)
    assert [path.name for path in workplace.published.parent.iterdir()] == ["1.0.0"]


# --- full disks ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _small_disk(folder: Path, size_kib: int) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"needs leave to mount a small disk: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _enlarge(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)


@pytest.fixture
def mountable() -> None:
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs leave to mount a small disk (root)")


def _size_kib(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [0.05, 0.35, 0.65, 0.97])
def test_full_store_fails_the_run_and_the_next_one_succeeds(
    mountable: None,
    workplace: Workplace,
    command_line: CommandLine,
    first_release: tuple[Workplace, Finished],
    share: float,
) -> None:
    """The disk ends somewhere in the middle of what a release keeps; expensive steps are cut short."""
    needed = _size_kib(workplace.store)
    shutil.rmtree(workplace.store)

    with _small_disk(workplace.store, int(needed * share)):
        _copy_while_there_is_room(first_release[0].store, workplace.store)
        finished = command_line(workplace.release)

        assert finished.code == 1
        assert "No space left" in finished.err or "could not be written" in finished.err, finished.err
        workplace.require_nothing_half_done()
        workplace.require_unpublished()

        _enlarge(workplace.store)
        shutil.copytree(first_release[0].store / "objects", workplace.store / "objects", dirs_exist_ok=True)
        shutil.copytree(first_release[0].store / "records", workplace.store / "records", dirs_exist_ok=True)
        again = command_line(workplace.release)

        assert again.code == 0, again.err
        assert verify_bundle(workplace.published, run=False).ok


def _copy_while_there_is_room(source: Path, target: Path) -> None:
    """Fill a disk with a finished store's objects, so that a release soon meets its end."""
    for path in sorted((source / "objects").rglob("*.*")):
        place = target / path.relative_to(source)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        except OSError:
            place.unlink(missing_ok=True)
            return


@pytest.mark.parametrize("full", ["output", "hub"])
def test_full_output_or_hub_leaves_nothing_half_written(
    mountable: None, workplace: Workplace, command_line: CommandLine, full: str
) -> None:
    folder = {"output": workplace.output, "hub": workplace.hub}[full]

    with _small_disk(folder, 200):
        finished = command_line(workplace.release)

        assert finished.code == 1
        assert "No space left on device" in finished.err
        workplace.require_unpublished()
        assert workplace.bundle.exists() is (full == "hub")
        workplace.require_nothing_half_done()

        _enlarge(folder)
        again = command_line(workplace.release)

        assert again.code == 0, again.err
        assert verify_bundle(workplace.published, run=False).ok
        assert open_bundle(workplace.bundle).manifest.identity == again.summary["identity"]


def test_store_that_can_only_be_read_is_one_clear_error(
    mountable: None, workplace: Workplace, command_line: CommandLine
) -> None:
    whole = workplace.store.rename(workplace.root / "whole")

    with _small_disk(workplace.store, 65536):
        shutil.copytree(whole, workplace.store, dirs_exist_ok=True)
        workplace.edit_spec('description = "another"\n')  # so that something must be written
        subprocess.run(["mount", "-o", "remount,ro", workplace.store], check=True)
        finished = command_line(workplace.release)

    assert finished.code == 1
    assert "Read-only file system" in finished.err
    assert "defect of the tool" not in finished.err
    workplace.require_unpublished()


# --- hardly any resources --------------------------------------------------------------------------------------------


def test_store_that_cannot_be_made_is_one_clear_error(workplace: Workplace, command_line: CommandLine) -> None:
    shutil.rmtree(workplace.store)
    workplace.store.write_text("a file where the store should be")

    finished = command_line(workplace.release)

    assert finished.code == 1
    assert str(workplace.store) in finished.err
    assert "defect of the tool" not in finished.err
    workplace.require_unpublished()
