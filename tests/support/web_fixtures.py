"""A release's site, a server and browsers for tests of the page."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aethernet.errors import WebError
from aethernet.upscale.upscaler import Upscaler
from aethernet.web import onnxruntime_web as fetching
from aethernet.web import site as writing
from aethernet.web.onnxruntime_web import onnxruntime_web
from aethernet.web.site import SITE, write_site
from tests.support import browser
from tests.support.site_server import SiteServer, serve
from tests.support.web_page import Page

__all__ = [
    "CONTENT",
    "axe",
    "chromium",
    "package",
    "page",
    "runtime",
    "runtime_files",
    "server",
    "site",
    "stand_in",
    "upscaler",
    "with_webgpu",
]

_AXE = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"


CONTENT = {name: f"stands for {name}".encode() for name in fetching.DIGESTS}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of small files whose digests are the pinned ones."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    monkeypatch.setattr(fetching, "DIGESTS", digests)
    monkeypatch.setattr(writing, "DIGESTS", digests)
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    for name, content in {**CONTENT, "ort.all.js": b"not needed"}.items():
        (folder / "dist" / name).write_bytes(content)
    return folder


@pytest.fixture
def runtime(package: Path, tmp_path: Path) -> Path:
    return onnxruntime_web(package, cache=tmp_path / "cache")


@pytest.fixture(scope="session")
def runtime_files() -> Path:
    try:
        return onnxruntime_web()
    except WebError as error:
        pytest.skip(f"needs the files of onnxruntime-web: {error}")


@pytest.fixture(scope="module")
def site(finished_release: Path, runtime_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(finished_release, tmp_path_factory.mktemp("web") / "site", runtime_files).root


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[SiteServer]:
    with serve(site) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser.chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def page(chromium: Any, server: SiteServer) -> Page:
    browser.forget(chromium)
    return Page(chromium, server.address).open()


@pytest.fixture(scope="module")
def upscaler(finished_release: Path) -> Iterator[Upscaler]:
    with Upscaler(finished_release, "fp32", "onnxruntime-cpu") as opened:
        yield opened


@pytest.fixture(scope="module")
def with_webgpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    switches = (
        *("enable-unsafe-webgpu", "use-webgpu-adapter=swiftshader", "enable-features=Vulkan,WebGPU"),
        "use-vulkan=swiftshader",
    )
    with browser.chromium(tmp_path_factory.mktemp("webgpu"), *switches) as driver:
        yield driver


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core, by npm: a tool of these tests alone."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm to fetch axe-core")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "pack", "axe-core@4.14.1", "--ignore-scripts", "--pack-destination", str(folder)]
    if subprocess.run(command, capture_output=True, cwd=folder, timeout=300).returncode:
        pytest.skip("needs a registry where npm can fetch axe-core 4.14.1")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        content = file.read()
    assert hashlib.sha256(content).hexdigest() == _AXE
    return content.decode()


def stand_in(site: Path, destination: Path, *, at_one_size_only: bool = False, slow_fp32: bool = False) -> Path:
    """A copy of a site whose network repeats every pixel in no time, and whose check image says so.

    Args:
        site: The site.
        destination: The copy.
        at_one_size_only: Whether it stops with an error at all sizes but the check image's.
        slow_fp32: Whether there are two files, called fp32 and int8, of which the first takes longer.
    """
    from PIL import Image

    shutil.copytree(site, destination)
    facts = json.loads((destination / SITE).read_text())
    scale, check = facts["network"]["scale"], facts["check"]
    shape = [1, facts["network"]["channels"], check["height"], check["width"]]
    networks = {"fp32": _repeating(shape, scale, fixed=at_one_size_only, detours=100 if slow_fp32 else 0)}
    if slow_fp32:
        networks["int8"] = _repeating(shape, scale)
    with Image.open(destination / check["input"]["path"]) as image:
        larger = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    larger.save(destination / check["output"]["path"])
    facts["files"] = {name: {"path": f"models/repeat_{name}.onnx"} for name in networks}
    facts["check"]["limits"]["int8"] = facts["check"]["limits"]["fp32"]
    for name, content in networks.items():
        (destination / facts["files"][name]["path"]).write_bytes(content)
    facts["network"]["receptive_radius"] = 1
    for one in (*facts["files"].values(), check["output"]):
        one["sha256"] = hashlib.sha256((destination / one["path"]).read_bytes()).hexdigest()
    (destination / SITE).write_text(json.dumps(facts))
    return destination


def _repeating(shape: list[int], scale: int, *, fixed: bool = False, detours: int = 0) -> bytes:
    """An ONNX file that repeats every pixel, after convolutions that change nothing."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    channels = shape[1]
    same = np.zeros((channels, channels, 3, 3), np.float32)
    same[range(channels), range(channels), 1, 1] = 1
    nodes = [helper.make_node("Reshape", ["input", "shape"], ["step_0"])]
    for step in range(detours):
        nodes.append(helper.make_node("Conv", [f"step_{step}", "same"], [f"step_{step + 1}"], pads=[1, 1, 1, 1]))
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes.append(helper.make_node("Resize", [f"step_{detours}", "", "scales"], ["output"], **modes))
    graph = helper.make_graph(
        nodes,
        "repeat",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, channels, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [
            helper.make_tensor("shape", TensorProto.INT64, [4], shape if fixed else [0, 0, 0, 0]),
            helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, scale, scale]),
            numpy_helper.from_array(same, "same"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())
