"""The child process in which TensorRT runs: ``python -m aethernet.engines.worker REQUEST.json``.

Its libraries crash, hang and run out of memory in ways no Python caller survives, and which of the two Polygraphy
drives is settled when that is imported. So nothing of theirs is loaded anywhere else. The parent sets
``POLYGRAPHY_USE_TENSORRT_RTX``, gives a request file, and reads the answer the request names; ``serve`` requests
speak over stdin and stdout besides.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

__all__ = ["exchange", "main", "receive", "send"]

_WORTH_KEEPING = ("unsupported", "not supported", "fallback", "fall back", "falling back", "fp32", "int8", "precision")
_HARMLESS_WITHOUT_GPU = (
    "cuda driver version is insufficient",
    "cuda initialization",
    "no cuda-capable device",
    "gpu memory",
)


class _Messages:
    """Everything the parser and the builder said that someone may want to read."""

    def __init__(self) -> None:
        self.said: Counter[tuple[str, str]] = Counter()

    def keep(self, severity: str, text: str) -> None:
        """Take note of one message."""
        words = text.lower()
        if severity == "info" and not any(word in words for word in _WORTH_KEEPING):
            return
        if severity != "error" and any(word in words for word in _HARMLESS_WITHOUT_GPU):
            return
        self.said[severity, text.strip()[:500]] += 1

    def to_json(self) -> list[dict[str, Any]]:
        """Errors first, at most a hundred."""
        order = {"error": 0, "warning": 1, "info": 2}
        kept = sorted(self.said.items(), key=lambda item: order[item[0][0]])[:100]
        return [{"severity": severity, "text": text, "count": count} for (severity, text), count in kept]


def _listen(messages: _Messages) -> Any:
    """Make Polygraphy's TensorRT logger one that keeps messages with their severity; returns the TensorRT module."""
    from polygraphy.backend.trt import util
    from polygraphy.mod.trt_importer import lazy_import_trt

    trt = lazy_import_trt()
    names = {trt.ILogger.INTERNAL_ERROR: "error", trt.ILogger.ERROR: "error", trt.ILogger.WARNING: "warning"}

    class Listener(trt.ILogger):  # type: ignore[misc, name-defined]  # Polygraphy ships no types
        def log(self, severity: Any, text: str) -> None:
            if severity != trt.ILogger.VERBOSE:
                messages.keep(names.get(severity, "info"), text)
                sys.stderr.write(f"{names.get(severity, 'info')} {text}\n")
                sys.stderr.flush()

    util.TRT_LOGGER = Listener()
    return trt


def _build(request: Mapping[str, Any], messages: _Messages) -> dict[str, Any]:
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath

    from aethernet.engines.counts import count_network, count_plan
    from aethernet.precision import Precision

    trt = _listen(messages)
    # TensorRT 11 knows nothing else, and may have dropped the flag.
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    parsed = NetworkFromOnnxPath(request["onnx"], strongly_typed=typed)()
    answer: dict[str, Any] = {"version": trt.__version__, "strongly_typed": typed or _major(trt) >= 11}
    answer["network"] = count_network(parsed[1], Precision(request["precision"])).model_dump(mode="json")
    start = time.perf_counter()
    cache = request.get("timing_cache")
    plan = bytes(EngineBytesFromNetwork(parsed, config=_config(request, trt), save_timing_cache=cache)())
    answer["seconds"] = time.perf_counter() - start
    Path(request["engine"]).write_bytes(plan)
    counted = count_plan(plan, len(request["profiles"])) if request["backend"] == "tensorrt_rtx" else None
    if request["gpu"]:
        # A GPU is here, so the engine itself can be asked; a plan it refuses is no engine.
        from polygraphy.backend.trt import EngineFromBytes

        from aethernet.engines.counts import count_inspected

        engine = EngineFromBytes(plan)()
        inspector = engine.create_engine_inspector()
        told = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        layers = [layer for layer in told.get("Layers", []) if isinstance(layer, dict)]
        counted = count_inspected(layers) if layers else counted
    answer["plan"] = counted.model_dump(mode="json") if counted else None
    return answer


def _major(trt: Any) -> int:
    return int(trt.__version__.split(".")[0])


def _config(request: Mapping[str, Any], trt: Any) -> Any:
    """A builder configuration: profiles, target, TF32 off (fp32 means fp32), layer names kept for the inspector."""
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import CreateConfig, PostprocessConfig, Profile

    profiles = []
    for profile in request["profiles"]:
        shapes = [
            [shape[0], request["channels"], *shape[1:]]
            for shape in (profile[key] for key in ("minimum", "optimum", "maximum"))
        ]
        profiles.append(Profile().add("input", *shapes))
    common: dict[str, Any] = {"profiles": profiles, "profiling_verbosity": trt.ProfilingVerbosity.DETAILED}
    if request["backend"] == "tensorrt_rtx":
        known = sorted(name[2:] for name in trt.ComputeCapability.__members__ if name.startswith("SM"))
        wanted = [text.split(".") for text in request["capabilities"]]
        if unknown := [".".join(one) for one in wanted if "".join(one) not in known]:
            raise ValueError(
                f"expected compute capabilities that this version compiles for "
                f"({', '.join(f'{name[:-1]}.{name[-1]}' for name in known)}), found {', '.join(unknown)}"
            )
        config = CreateConfigRTX(compute_capabilities=[(int(major), int(minor)) for major, minor in wanted], **common)
    else:
        config = CreateConfig(load_timing_cache=request.get("timing_cache"), **common)

    def without_tf32(builder: Any, network: Any, config: Any) -> None:
        del builder, network
        config.clear_flag(trt.BuilderFlag.TF32)

    return PostprocessConfig(config, without_tf32)


def _serve(request: Mapping[str, Any], messages: _Messages, stdin: IO[bytes], stdout: IO[bytes]) -> dict[str, Any]:
    """Run pictures through an engine until stdin ends."""
    import numpy as np
    from polygraphy.backend.trt import EngineFromPath, TrtRunner

    _listen(messages)
    with TrtRunner(EngineFromPath(request["engine"])) as runner:
        dtype = _input_type(runner)

        def infer(picture: Any) -> Any:
            _choose_profile(runner, request, picture.shape)
            answer = runner.infer({"input": picture.astype(dtype)})["output"]
            return np.asarray(answer).astype(np.float32)

        exchange(infer, stdin, stdout)
    return {}


def _input_type(runner: Any) -> Any:
    import numpy as np

    return np.float16 if "16" in str(runner.get_input_metadata()["input"].dtype) else np.float32


def _choose_profile(runner: Any, request: Mapping[str, Any], shape: Sequence[int]) -> None:
    """The first profile that holds an [N, C, H, W]; TensorRT does not look for one itself."""
    sides = (shape[0], *shape[2:])
    for index, profile in enumerate(request["profiles"]):
        bounds = zip(profile["minimum"], sides, profile["maximum"], strict=True)
        if all(low <= side <= high for low, side, high in bounds):
            if len(request["profiles"]) > 1:
                runner.set_profile(index)
            return
    raise ValueError(f"no profile of the engine holds {'x'.join(map(str, sides))}")


def _time(request: Mapping[str, Any], messages: _Messages) -> dict[str, Any]:
    """Latency by CUDA events and throughput at one locked shape, data staying on the GPU."""
    import numpy as np
    from cuda.bindings import runtime as cuda
    from polygraphy.backend.trt import EngineFromPath, TrtRunner

    def call(result: tuple[Any, ...]) -> Any:
        if int(result[0]):
            raise RuntimeError(f"CUDA error {result[0]}")
        return result[1] if len(result) > 1 else None

    _listen(messages)
    with TrtRunner(EngineFromPath(request["engine"])) as runner:
        _choose_profile(runner, request, request["shape"])
        picture = np.random.default_rng(0).random(request["shape"], np.float32).astype(_input_type(runner))
        runner.infer({"input": picture})  # shape, addresses and buffers stay for what follows
        context, stream = runner.context, runner.stream.ptr
        begin, end = call(cuda.cudaEventCreate()), call(cuda.cudaEventCreate())
        latencies = []
        for run in range(request["warm_up"] + request["runs"]):
            call(cuda.cudaEventRecord(begin, stream))
            context.execute_async_v3(stream)
            call(cuda.cudaEventRecord(end, stream))
            call(cuda.cudaEventSynchronize(end))
            if run >= request["warm_up"]:
                latencies.append(float(call(cuda.cudaEventElapsedTime(begin, end))))
        start = time.perf_counter()
        for _ in range(request["runs"]):
            context.execute_async_v3(stream)
        call(cuda.cudaStreamSynchronize(stream))
        seconds = time.perf_counter() - start
    return {"latencies_ms": latencies, "per_second": request["shape"][0] * request["runs"] / seconds}


def exchange(infer: Callable[[Any], Any], stdin: IO[bytes], stdout: IO[bytes]) -> None:
    """Answer arrays with arrays until there are no more; an error is answered as text and ends nothing."""
    send(stdout, None)  # ready
    while (picture := receive(stdin)) is not None:
        try:
            answer = infer(picture)
        except Exception as error:  # noqa: BLE001 (whatever the library throws goes to the parent)
            send(stdout, f"{type(error).__name__}: {error}")
        else:
            send(stdout, answer)


def send(stream: IO[bytes], content: Any) -> None:
    """One message: a header line of JSON, then the bytes it announces; text is an error, None means ready."""
    import numpy as np

    if isinstance(content, np.ndarray):
        array = np.ascontiguousarray(content)
        header: dict[str, Any] = {"shape": array.shape, "dtype": array.dtype.str}
    else:
        array, header = None, {"error": content}
    stream.write(json.dumps(header).encode() + b"\n")
    if array is not None:
        stream.write(array.tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """The array of the next message, or None at the end.

    Raises:
        RuntimeError: The other side reports an error.
        EOFError: The other side ended in the middle.
    """
    import numpy as np

    line = stream.readline()
    if not line:
        return None
    header = json.loads(line)
    if "error" in header:
        if header["error"] is None:
            return None
        raise RuntimeError(header["error"])
    dtype = np.dtype(header["dtype"])
    size = dtype.itemsize * int(np.prod(header["shape"]))
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("the other side ended in the middle of an array")
    return np.frombuffer(data, dtype).reshape(header["shape"]).copy()


def _stdout_alone() -> IO[bytes]:
    """Stdout for pictures only; whatever the libraries print there goes to stderr from now on."""
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return own


def _die_with_parent() -> None:
    """Linux ends this process when the one that started it is gone, however it went."""
    if sys.platform == "linux":
        import ctypes
        import signal

        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def main() -> int:
    """Do what the request file says; 0 done, 3 the library refused."""
    _die_with_parent()
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    messages = _Messages()
    tasks: dict[str, Callable[[], dict[str, Any]]] = {
        "build": lambda: _build(request, messages),
        "serve": lambda: _serve(request, messages, sys.stdin.buffer, _stdout_alone()),
        "time": lambda: _time(request, messages),
    }
    try:
        answer = tasks[request["task"]]()
    except Exception as error:  # noqa: BLE001 (Polygraphy and TensorRT share no base class)
        answer = {"error": f"{error}".strip() or type(error).__name__}
    answer["messages"] = messages.to_json()
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    return 3 if "error" in answer else 0


if __name__ == "__main__":
    raise SystemExit(main())
