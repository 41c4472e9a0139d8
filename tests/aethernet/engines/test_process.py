"""Whatever the library does to its process, the caller gets an error with the log, and nothing keeps running."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from aethernet.engines import process
from aethernet.engines.backends import Gpu
from aethernet.engines.process import gpu_lock, run_worker
from aethernet.engines.worker import exchange, receive, send
from aethernet.errors import BuilderError
from tests.support import misbehaving_worker


@pytest.fixture
def badly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run a task of the misbehaving worker and return the error."""
    monkeypatch.setattr(process, "worker", misbehaving_worker)

    def run(task: str, timeout: float = 60, **more: str) -> BuilderError:
        with pytest.raises(BuilderError) as raised:
            run_worker({"task": task, "backend": "tensorrt_rtx", **more}, tmp_path, timeout=timeout)
        assert "these are my last words" in raised.value.log
        return raised.value

    return run


def test_a_crash_is_an_error_with_the_log(badly) -> None:
    error = badly("crash")

    assert "the TensorRT-RTX builder crashed: Segmentation fault" in str(error)
    assert "these are my last words" in error.hint


def test_running_out_of_memory_is_called_that(badly) -> None:
    assert "most likely because memory ran out" in str(badly("out of memory"))


def test_a_refusal_is_passed_on_in_the_builders_words(badly) -> None:
    assert str(badly("refuse")) == "TensorRT-RTX refused: no such kernel"


def test_a_builder_that_hangs_is_ended_with_all_its_children(badly, tmp_path: Path) -> None:
    error = badly("hang", timeout=2, child=str(tmp_path / "child"))

    assert "to end within 2 s" in str(error)
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not _running(child):
            break
        time.sleep(0.05)
    assert not _running(child)


def _running(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_two_builds_on_one_gpu_wait_for_each_other_and_on_two_do_not() -> None:
    card, other = (
        Gpu(name="x", capability="8.9", driver="1", memory=1, uuid=f"GPU-test-{os.getpid()}-{index}")
        for index in (1, 2)
    )
    entered: list[str] = []

    def build(gpu: Gpu, name: str) -> None:
        with gpu_lock(gpu):
            entered.append(name)

    with gpu_lock(card):
        waiting = threading.Thread(target=build, args=(card, "same"))
        free = threading.Thread(target=build, args=(other, "other"))
        waiting.start()
        free.start()
        free.join(10)
        waiting.join(0.2)
        assert entered == ["other"]
    waiting.join(10)

    assert entered == ["other", "same"]


def test_without_a_gpu_nobody_waits() -> None:
    with gpu_lock(None), gpu_lock(None):
        pass


def test_pictures_cross_to_the_worker_and_back() -> None:
    picture = np.arange(24, dtype=np.float16).reshape(1, 2, 3, 4)
    asked, answered = io.BytesIO(), io.BytesIO()
    send(asked, picture)
    send(asked, np.zeros((1, 1, 1, 1), np.float32))
    asked.seek(0)

    def infer(array: np.ndarray) -> np.ndarray:
        if array.size == 1:
            raise ValueError("too small")
        return 2 * array

    exchange(infer, asked, answered)

    answered.seek(0)
    assert receive(answered) is None  # ready
    np.testing.assert_array_equal(receive(answered), 2 * picture)
    with pytest.raises(RuntimeError, match="ValueError: too small"):
        receive(answered)
    assert receive(answered) is None


def test_an_array_that_breaks_off_is_not_taken_for_one() -> None:
    whole = io.BytesIO()
    send(whole, np.ones(10, np.float32))

    with pytest.raises(EOFError):
        receive(io.BytesIO(whole.getvalue()[:-1]))
