"""What a person does by hand to release a network, in one plain script: the reference for the time of a release.

Fuses the network, exports fp32 with PyTorch's exporter, converts to fp16 and quantises statically, both with ONNX
Runtime's own tools, then compares every file with PyTorch on the given images. No cache, no gate, no card, no engines::

    python benchmarks/by_hand.py CHECKPOINT --images FOLDER --output FOLDER

Prints one JSON object: seconds of each step and of the whole process, and each file's PSNR against PyTorch.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START = time.perf_counter()

import numpy as np  # noqa: E402  (imports are part of the process's time)
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static  # noqa: E402
from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: E402
from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: E402
from PIL import Image  # noqa: E402

from aethernet import load  # noqa: E402

OPSET = 18


class Images(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships no types
    """Images for calibration, one after another."""

    def __init__(self, images: list[np.ndarray[Any, Any]]) -> None:
        self._left = iter(images)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The next image as the graph's input; None behind the last."""
        image = next(self._left, None)
        return None if image is None else {"input": image}


def read(path: Path, channels: int) -> np.ndarray[Any, Any]:
    """An image file as [1, C, H, W] float32 in [0, 1]."""
    pixels = np.asarray(Image.open(path).convert("RGB" if channels == 3 else "L"), dtype=np.float32) / 255
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)[None])


def psnr(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Peak signal-to-noise ratio in dB, both clipped to [0, 1]."""
    error = np.mean((np.clip(one, 0, 1).astype(np.float64) - np.clip(other, 0, 1)) ** 2)
    return float(min(200.0, -10 * np.log10(max(error, 1e-20))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="low-resolution images")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {"imports": time.perf_counter() - START}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[step] = time.perf_counter() - start

    files = {name: options.output / f"{name}.onnx" for name in ("fp32", "fp16", "prepared", "int8")}
    with timed("load and fuse"):
        loaded = load(options.checkpoint)
        network = loaded.folded
        images = [read(path, loaded.config.in_channels) for path in sorted(options.images.iterdir())]
    with timed("export fp32"):
        sides = {2: torch.export.Dim("height", min=1), 3: torch.export.Dim("width", min=1)}
        torch.onnx.export(
            network,
            (torch.from_numpy(images[0]),),
            str(files["fp32"]),
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=(sides,),
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    with timed("convert to fp16"):
        onnx.save(convert_float_to_float16(onnx.load(files["fp32"]), keep_io_types=False), files["fp16"])
    with timed("quantise"):
        quant_pre_process(files["fp32"], files["prepared"])
        quantize_static(
            files["prepared"],
            files["int8"],
            Images(images),
            quant_format=QuantFormat.QDQ,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            per_channel=True,
        )
    quality: dict[str, float] = {}
    with timed("compare"):
        with torch.inference_mode():
            expected = {
                form: [one(torch.from_numpy(image)).numpy() for image in images]
                for form, one in (("trained", loaded.model), ("fused", network))
            }
        quality["fused"] = min(map(psnr, expected["fused"], expected["trained"]))
        for form in ("fp32", "fp16", "int8"):
            session = onnxruntime.InferenceSession(str(files[form]), providers=["CPUExecutionProvider"])
            entry = session.get_inputs()[0]
            kind = np.float16 if "float16" in entry.type else np.float32
            outputs = [session.run(None, {entry.name: image.astype(kind)})[0] for image in images]
            quality[form] = min(map(psnr, outputs, expected["trained"]))
    seconds["whole"] = time.perf_counter() - START
    print(
        json.dumps(
            {
                "seconds": {step: round(value, 1) for step, value in seconds.items()},
                "lowest_psnr": {form: round(value, 1) for form, value in quality.items()},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
