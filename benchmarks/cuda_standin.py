# ruff: noqa: ARG001, ARG002  (parameters are those of the calls that are stood for)
"""A stand-in for a CUDA card, so that what runs on one can be rehearsed where there is none.

It computes on the CPU and keeps the contract of the calls that it stands for, errors included:

- tensors are on ``cuda:0`` or on the CPU, and an operation on both is refused; a tensor on the card is no array;
- work is done when somebody waits for it: the time between events that nobody waited for cannot be asked;
- memory is counted, has a peak and a limit, and beyond the limit PyTorch's own ``OutOfMemoryError`` is raised;
- float32 convolutions and products are TF32 unless that is switched off, in PyTorch and in ONNX Runtime alike;
- ONNX Runtime has a ``CUDAExecutionProvider``, with bound inputs and outputs on the card;
- ``nvidia-smi`` answers, in child processes too.

No figure measured on it says anything about a card. Not for use outside a rehearsal: it replaces functions of PyTorch
and ONNX Runtime in this process.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

__all__ = ["CAPABILITY", "DRIVER", "NAME", "CardTensor", "Event", "Stream", "install"]

NAME, CAPABILITY, DRIVER = "Stand-in for a CUDA card", (8, 9), "0.0"
MEMORY = 512 * 2**20
"""Bytes of the card; little, so that a rehearsal meets its end."""

_CARD = torch.device("cuda", 0)
_PRODUCTS = ("convolution", "conv2d", "linear", "mm", "addmm", "bmm", "matmul")
_TENSOR_CORES = {getattr(torch.ops.aten, name).default for name in _PRODUCTS}
"""What float32 is rounded to TF32 for, and fp16 added up in fp32."""
_BETWEEN_DEVICES = {torch.ops.aten.copy_.default, torch.ops.aten._has_compatible_shallow_copy_type.default}


# --- memory ----------------------------------------------------------------------------------------------------------


class _Memory:
    """What is allocated, by storage: views hold no memory of their own."""

    def __init__(self) -> None:
        self.limit = MEMORY
        self.used = self.peak = 0
        self._holders: Counter[int] = Counter()
        self._lock = threading.RLock()

    def hold(self, holder: CardTensor, values: Tensor) -> None:
        storage = values.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        with self._lock:
            if not self._holders[address]:
                if self.used + size > self.limit:
                    del self._holders[address]
                    raise torch.OutOfMemoryError(
                        f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU 0 has a total capacity of "
                        f"{MEMORY / 2**20:.2f} MiB of which {(self.limit - self.used) / 2**20:.2f} MiB is free."
                    )
                self.used += size
                self.peak = max(self.peak, self.used)
            self._holders[address] += 1
        weakref.finalize(holder, self._let_go, address, size)

    def _let_go(self, address: int, size: int) -> None:
        with self._lock:
            self._holders[address] -= 1
            if not self._holders[address]:
                del self._holders[address]
                self.used -= size


_memory = _Memory()


# --- tensors ---------------------------------------------------------------------------------------------------------


class CardTensor(Tensor):
    """A tensor that says it is on the card and computes on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> CardTensor:
        with torch.inference_mode(False):  # a view of a parameter shares its version counter, which inference has not
            made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls,
                values.size(),
                strides=values.stride(),
                storage_offset=values.storage_offset(),
                dtype=values.dtype,
                layout=values.layout,
                device="meta",  # PyTorch would ask a driver about any other that is not the CPU
                requires_grad=False,
            )
        made.values = values
        _memory.hold(made, values)
        return made  # type: ignore[no-any-return]

    def __init__(self, values: Tensor) -> None:
        """Everything is done by ``__new__``."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return _CARD

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"CardTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
        elsewhere = [one for one in given if not isinstance(one, CardTensor) and one.dim()]
        if elsewhere and func not in _BETWEEN_DEVICES:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
            )
        if "device" in kwargs and kwargs["device"] is not None:
            kwargs["device"] = torch.device("cpu")
        values_args, values_kwargs = tree_map(_values_of, args), tree_map(_values_of, kwargs)
        if func in _TENSOR_CORES:
            values_args = _as_the_card_computes(values_args)
        half = func in _TENSOR_CORES and any(
            isinstance(one, Tensor) and one.dtype == torch.float16 for one in values_args
        )
        if half:  # products of fp16 are added up in fp32
            values_args = tree_map(lambda one: one.float() if isinstance(one, Tensor) else one, values_args)
        result = func(*values_args, **values_kwargs)
        if half:
            result = tree_map(lambda one: one.half() if isinstance(one, Tensor) else one, result)
        own = {id(_values_of(one)): one for one in given}  # an operation in place gives back its own operand
        return tree_map(lambda one: own.get(id(one), CardTensor(one)) if isinstance(one, Tensor) else one, result)


def _values_of(one: Any) -> Any:
    return one.values if isinstance(one, CardTensor) else one


def _as_the_card_computes(args: Any) -> Any:
    if not torch.backends.cudnn.allow_tf32:
        return args
    return tree_map(lambda one: torch.from_numpy(as_tf32(one.numpy())) if _is_float32(one) else one, args)


def _is_float32(one: Any) -> bool:
    return isinstance(one, Tensor) and one.dtype == torch.float32


def as_tf32(values: Any) -> Any:
    """float32 rounded to the 10 bits of mantissa that TF32 keeps."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def _target(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.device | None, dict[str, Any]]:
    """What ``Tensor.to`` was asked for: the device, and the rest by name."""
    device, wanted = kwargs.get("device"), {key: kwargs[key] for key in ("dtype", "memory_format") if key in kwargs}
    for one in args:
        if isinstance(one, Tensor):  # to(other)
            device, wanted["dtype"] = one.device, one.dtype
        elif isinstance(one, str | torch.device):
            device = one
        elif isinstance(one, torch.dtype):
            wanted["dtype"] = one
    wanted = {key: value for key, value in wanted.items() if value is not None}
    return None if device is None else torch.device(device), wanted


def _to(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device, wanted = _target(args, kwargs)
        on_card = isinstance(self, CardTensor)
        if device is None or device.type == ("cuda" if on_card else "cpu"):
            return original(self, **wanted) if wanted else self
        values = self.values if isinstance(self, CardTensor) else self.detach()
        moved = values.clone(memory_format=torch.preserve_format)
        if wanted:
            moved = original(moved, **wanted)
        if device.type == "cuda":
            return CardTensor(moved)
        _wait_for_all()  # a copy to the host waits for what makes it
        return moved

    return to


def _factory(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def factory(*args: Any, **kwargs: Any) -> Tensor:
        device = torch.device(kwargs.pop("device", None) or "cpu")
        if device.type != "cuda":
            return original(*args, device=device, **kwargs)
        return CardTensor(original(*args, **kwargs))

    return factory


# --- streams and events ----------------------------------------------------------------------------------------------

_pending: weakref.WeakSet[Event] = weakref.WeakSet()


class Stream:
    """Work in order; it is over when somebody has waited."""

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.cuda_stream = id(self)

    def synchronize(self) -> None:
        _wait_for_all()

    def query(self) -> bool:
        return not any(event._pending for event in _pending)

    def wait_stream(self, stream: Stream) -> None:
        """Order between streams: all work is in one order here."""

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event


class Event:
    """A moment of a stream; between two of them there is a time once both are over."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None:
        self._timing, self._moment, self._pending = enable_timing, None, False
        _pending.add(self)

    _moment: float | None

    def record(self, stream: Stream | None = None) -> None:
        self._moment, self._pending = time.perf_counter(), True

    def query(self) -> bool:
        return not self._pending

    def synchronize(self) -> None:
        _wait_for_all()

    def elapsed_time(self, end: Event) -> float:
        if not (self._timing and end._timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if self._moment is None or end._moment is None:
            raise ValueError("Both events must be recorded before calculating elapsed time.")
        if self._pending or end._pending:
            raise RuntimeError("CUDA error: device not ready")
        return (end._moment - self._moment) * 1000


def _wait_for_all(*_: Any) -> None:
    for event in list(_pending):
        event._pending = False


_default_stream = Stream()


@contextmanager
def _stream(stream: Stream | None) -> Iterator[None]:
    yield


# --- ONNX Runtime ----------------------------------------------------------------------------------------------------


class _OrtValue:
    """An array on the card or on the CPU."""

    def __init__(self, array: Any, device: str) -> None:
        self._array, self._device = array, device

    def device_name(self) -> str:
        return self._device

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def numpy(self) -> Any:
        return self._array.copy()


class _Binding:
    def __init__(self, session: _Session) -> None:
        self._session = session
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, str] = {}
        self._made: list[_OrtValue] = []

    def bind_ortvalue_input(self, name: str, value: _OrtValue) -> None:
        if not isinstance(value, _OrtValue):
            raise TypeError(f"expected an OrtValue, found {type(value).__name__}")
        self._inputs[name] = value

    def bind_output(self, name: str, device_type: str = "cpu", device_id: int = 0, **_: Any) -> None:
        self._outputs[name] = device_type

    def get_outputs(self) -> list[_OrtValue]:
        return self._made

    def copy_outputs_to_cpu(self) -> list[Any]:
        return [one.numpy() for one in self._made]

    def synchronize_inputs(self) -> None:
        _wait_for_all()

    def synchronize_outputs(self) -> None:
        _wait_for_all()


class _Session:
    """An inference session of the CPU that says it is one of the card."""

    def __init__(self, inner: Any, providers: list[str], options: dict[str, Any]) -> None:
        self._inner, self._providers = inner, providers
        self._tf32 = str(options.get("use_tf32", "1")) != "0"

    def get_providers(self) -> list[str]:
        return self._providers

    def run(self, names: Any, given: dict[str, Any], *rest: Any) -> list[Any]:
        if self._tf32:
            given = {name: as_tf32(one) if one.dtype == np.float32 else one for name, one in given.items()}
        made: list[Any] = self._inner.run(names, given, *rest)
        return made

    def io_binding(self) -> _Binding:
        return _Binding(self)

    def run_with_iobinding(self, binding: _Binding, *_: Any) -> None:
        names = list(binding._outputs)
        made = self.run(names, {name: one._array for name, one in binding._inputs.items()})
        binding._made = [_OrtValue(one, binding._outputs[name]) for name, one in zip(names, made, strict=True)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _install_onnxruntime() -> None:
    import onnxruntime

    real, available = onnxruntime.InferenceSession, onnxruntime.get_available_providers()
    real_value = onnxruntime.OrtValue.ortvalue_from_numpy

    def session(path: Any, sess_options: Any = None, providers: Any = None, **more: Any) -> Any:
        wanted = [one if isinstance(one, str) else one[0] for one in providers or []]
        if "CUDAExecutionProvider" not in wanted:
            return real(path, sess_options, providers=providers, **more)
        options = next((one[1] for one in providers if not isinstance(one, str) and one[0] == wanted[0]), {})
        inner = real(path, sess_options, providers=["CPUExecutionProvider"], **more)
        return _Session(inner, ["CUDAExecutionProvider", "CPUExecutionProvider"], options)

    def value(array: Any, device_type: str = "cpu", device_id: int = 0, *rest: Any) -> Any:
        return _OrtValue(array.copy(), "cuda") if device_type == "cuda" else real_value(array, "cpu", 0, *rest)

    onnxruntime.InferenceSession = session
    onnxruntime.get_available_providers = lambda: ["CUDAExecutionProvider", *available]
    onnxruntime.OrtValue.ortvalue_from_numpy = staticmethod(value)


# --- putting it in place ---------------------------------------------------------------------------------------------


def _install_nvidia_smi() -> None:
    """A program of that name, found first on the path."""
    folder = Path(tempfile.mkdtemp(prefix="aethernet-standin-"))
    weakref.finalize(_memory, _remove, folder)
    program = folder / "nvidia-smi"
    capability = ".".join(map(str, CAPABILITY))
    program.write_text(
        f'#!/bin/sh\necho "{NAME}, {capability}, {DRIVER}, {MEMORY // 2**20}, GPU-stand-in"\n', encoding="ascii"
    )
    program.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def install() -> None:
    """Put the stand-in in place of the card, for this process and what it starts."""
    if getattr(torch.cuda, "stands_in", False):
        return
    Tensor.to = _to(Tensor.to)  # type: ignore[method-assign,assignment]
    Tensor.cuda = lambda self, *_, **__: self.to("cuda")  # type: ignore[method-assign]
    Tensor.cpu = lambda self, *_, **__: self.to("cpu")  # type: ignore[method-assign]
    for name in ("rand", "randn", "zeros", "ones", "empty", "full", "arange", "tensor"):
        setattr(torch, name, _factory(getattr(torch, name)))

    def fraction(share: float, device: Any = None) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"Invalid fraction value: {share}. Allowed range: 0~1")
        _memory.limit = int(share * MEMORY)

    def reset(*_: Any) -> None:
        _memory.peak = _memory.used

    properties = SimpleNamespace(
        name=NAME, total_memory=MEMORY, major=CAPABILITY[0], minor=CAPABILITY[1], multi_processor_count=1
    )
    calls: dict[str, Any] = {
        "Event": Event,
        "Stream": Stream,
        "stream": _stream,
        "current_stream": lambda *_: _default_stream,
        "synchronize": _wait_for_all,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: NAME,
        "get_device_capability": lambda *_: CAPABILITY,
        "get_device_properties": lambda *_: properties,
        "mem_get_info": lambda *_: (_memory.limit - _memory.used, MEMORY),
        "memory_allocated": lambda *_: _memory.used,
        "max_memory_allocated": lambda *_: _memory.peak,
        "reset_peak_memory_stats": reset,
        "empty_cache": lambda: None,
        "set_per_process_memory_fraction": fraction,
        "stands_in": True,
    }
    for name, call in calls.items():
        setattr(torch.cuda, name, call)
    # A parameter that stays the same object would keep the values of its old type.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    # The compiler makes kernels for a card; what it promises is the same numbers from a callable.
    torch.compile = lambda model, *_, **__: model  # type: ignore[assignment]
    _install_onnxruntime()
    _install_nvidia_smi()
    from aethernet.runtimes import opening

    opening._has_nvidia_gpu = lambda: True
