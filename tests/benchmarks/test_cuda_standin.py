"""The stand-in for a card keeps the contract of the calls it stands for; in a process of its own, which it changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json, sys
sys.path[:0] = [{root!r}, {root!r} + "/benchmarks"]
import cuda_standin
cuda_standin.install()
import gc, threading
import numpy as np
import torch
from torch import nn
from aethernet.engines.backends import find_gpu
from aethernet.runtimes import runtimes_here

found = {{}}
torch.manual_seed(0)
torch.set_num_threads(1)

def refusal(call):
    try:
        call()
    except Exception as error:
        return f"{{type(error).__name__}}: {{error}}"
    return "nothing"

net, x = nn.Conv2d(3, 8, 3), torch.rand(1, 3, 9, 9)
with torch.inference_mode():
    wanted = net(x)
    card = net.to("cuda")
    found["device"] = str(next(card.parameters()).device)
    found["mixed"] = refusal(lambda: card(x))
    y = card(x.to("cuda"))
    found["array"] = refusal(y.numpy)
    found["tf32"] = float((y.cpu() - wanted).abs().max())
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found["fp32"] = float((card(x.cuda()).cpu() - wanted).abs().max())
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(card(x.to("cuda")).device.type))
        thread.start(); thread.join()
        found["thread"] = elsewhere
    half = card.half()(x.to("cuda", torch.float16))
    found["half"] = [str(half.dtype), float((half.cpu().float() - wanted).abs().max())]

first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
found["unrecorded"] = refusal(lambda: first.elapsed_time(last))
first.record(); last.record()
found["not waited for"] = refusal(lambda: first.elapsed_time(last))
last.synchronize()
found["elapsed"] = first.elapsed_time(last)
found["untimed"] = refusal(lambda: torch.cuda.Event().elapsed_time(last))

del net, card, y, half
gc.collect()
torch.cuda.reset_peak_memory_stats()
before = torch.cuda.memory_allocated()
block = torch.zeros(2**20, device="cuda")
view = block.view(1024, 1024)
found["held"] = torch.cuda.memory_allocated() - before
del block, view
gc.collect()
found["after"] = torch.cuda.memory_allocated() - before
found["peak"] = torch.cuda.max_memory_allocated() - before
found["too much"] = refusal(lambda: torch.zeros(2**28, device="cuda"))
torch.cuda.set_per_process_memory_fraction(0.001)
found["beyond the fraction"] = refusal(lambda: torch.zeros(2**20, device="cuda"))
gpu = find_gpu()
found["nvidia-smi"] = [gpu.name, gpu.capability]
found["runtimes"] = runtimes_here()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    script = SCRIPT.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_tensors_are_on_the_card_or_not_and_never_both(found: dict[str, Any]) -> None:
    assert found["device"] == "cuda:0"
    assert found["mixed"].startswith("RuntimeError: Expected all tensors to be on the same device")
    assert found["array"].startswith("TypeError: can't convert cuda:0 device type tensor to numpy")
    assert found["thread"] == ["cuda"]


def test_float32_is_tf32_until_that_is_switched_off(found: dict[str, Any]) -> None:
    assert found["fp32"] == 0
    assert 1e-5 < found["tf32"] < 1e-2


def test_half_precision_is_half_precision(found: dict[str, Any]) -> None:
    dtype, difference = found["half"]
    assert dtype == "torch.float16"
    assert 1e-5 < difference < 1e-2


def test_a_time_is_there_only_between_recorded_events_that_were_waited_for(found: dict[str, Any]) -> None:
    assert "must be recorded" in found["unrecorded"]
    assert found["not waited for"] == "RuntimeError: CUDA error: device not ready"
    assert found["elapsed"] >= 0
    assert "enable_timing=True" in found["untimed"]


def test_memory_is_counted_once_for_all_views_and_ends(found: dict[str, Any]) -> None:
    assert found["held"] == 4 * 2**20
    assert found["after"] == 0
    assert found["peak"] == 4 * 2**20
    assert found["too much"].startswith("OutOfMemoryError: CUDA out of memory")
    assert found["beyond the fraction"].startswith("OutOfMemoryError: CUDA out of memory")


def test_the_library_finds_the_card(found: dict[str, Any]) -> None:
    assert found["nvidia-smi"] == ["Stand-in for a CUDA card", "8.9"]
    assert found["runtimes"]["pytorch-cuda"] == found["runtimes"]["onnxruntime-cuda"] == ""
