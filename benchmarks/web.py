"""The page of ``aethernet web`` in headless Chromium: milliseconds and differences to ONNX Runtime, as Markdown.

``python benchmarks/web.py SITE [--webgpu] [--screenshot FILE.png]``; WebGPU runs on Chromium's adapter in software,
which is slow and only shows that the numbers are right.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support import browser
from tests.support.site_server import serve
from tests.support.web_page import Page

WEBGPU = (
    *("enable-unsafe-webgpu", "use-webgpu-adapter=swiftshader", "enable-features=Vulkan,WebGPU"),
    "use-vulkan=swiftshader",
)
RUN = """
const [facts, provider, precision, values, shape, runs, done] = arguments;
(async () => {
  const ort = await import('./' + facts.runtime[provider].module);
  const packed = await (await fetch(facts.runtime[provider].binary.path)).blob();
  const unpacked = packed.stream().pipeThrough(new DecompressionStream('gzip'));
  ort.env.wasm.wasmBinary = await new Response(unpacked).arrayBuffer();
  ort.env.wasm.wasmPaths = new URL('ort/', location.href).href;
  ort.env.wasm.numThreads = crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  const session = await ort.InferenceSession.create(facts.files[precision].path, { executionProviders: [provider] });
  const input = new ort.Tensor('float32', Float32Array.from(values), shape);
  const times = [];
  let output;
  for (let run = 0; run < runs; run++) {
    const began = performance.now();
    output = await (await session.run({ [session.inputNames[0]]: input }))[session.outputNames[0]].getData();
    times.push(performance.now() - began);
  }
  done({ times, output: [...output], threads: ort.env.wasm.numThreads });
})().catch((error) => done({ error: String(error) }));
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("--webgpu", action="store_true", help="the adapter in software instead of WebAssembly")
    parser.add_argument("--screenshot", type=Path, help="of the page with a sample image enlarged")
    asked = parser.parse_args()
    facts = json.loads((asked.site / "site.json").read_text())
    with (
        serve(asked.site) as server,
        tempfile.TemporaryDirectory() as profile,
        browser.chromium(Path(profile), *(WEBGPU if asked.webgpu else ())) as driver,
    ):
        driver.set_window_size(1100, 1150)
        page = Page(driver, server.address).open()
        driver.set_script_timeout(500)
        driver.command_executor.client_config.timeout = 600  # a busy machine takes minutes for four runs
        version = driver.capabilities["browserVersion"]
        print("| browser | provider | file | image | first, ms | next, ms | largest difference to ONNX Runtime |")
        print("|---|---|---|---|---|---|---|")
        cases = [("webgpu", "fp32", 64, 2)] if asked.webgpu else [(w, p, s, 4) for w, p, s in WASM]
        for provider, precision, side, runs in cases:
            image = np.random.default_rng(0).random((1, facts["network"]["channels"], side, side), dtype=np.float32)
            found = driver.execute_async_script(
                RUN, facts, provider, precision, image.ravel().tolist(), list(image.shape), runs
            )
            if "error" in found:
                raise RuntimeError(found["error"])
            expected = by_onnxruntime(asked.site / facts["files"][precision]["path"], image)
            off = np.abs(np.array(found["output"], np.float32).reshape(expected.shape) - expected).max()
            what = f"WebAssembly, {found['threads']} threads" if provider == "wasm" else "WebGPU (SwiftShader)"
            print(
                f"| Chromium {version}, headless | {what} | {precision} | {side}x{side} | {found['times'][0]:.0f} | "
                f"{min(found['times'][1:]):.0f} | {off:.1e} |"
            )
        if asked.screenshot:
            page.open()
            page.forget()
            driver.find_elements("css selector", "[data-sample]")[-1].click()
            page.wait()
            driver.execute_script("window.scrollTo(0, 0)")
            driver.save_screenshot(str(asked.screenshot))


WASM = [("wasm", "fp32", 64), ("wasm", "int8", 64), ("wasm", "fp32", 256), ("wasm", "int8", 256)]


def by_onnxruntime(model: Path, image: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: image})
    return np.asarray(output)


if __name__ == "__main__":
    main()
