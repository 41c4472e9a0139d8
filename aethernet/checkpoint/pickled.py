"""What a PyTorch file holds, without PyTorch: its pickle is followed by a machine that knows data alone.

Nothing in a file is ever called: the few names that PyTorch writes around tensors stand for our own descriptions of
them. Whatever PyTorch's reader might see differently (another version, another opcode, a damaged byte, tensors that lie
in each other) is doubt, and :class:`Doubt` leaves the file to that reader. Time and memory stay in proportion to the
file: every object has one place, so that nothing multiplies by being named again, and no number of the file decides how
much is made.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

from aethernet.checkpoint.tensors import ITEM_SIZE, StoredTensor

__all__ = ["Doubt", "read_torch_zip"]

_LONGEST_PICKLE = 1 << 20
"""Bytes, a few thousand tensors; followed in two to three seconds at worst."""
_MOST_DIMENSIONS = 8
_LARGEST_KEY = 1 << 31
"""Whole numbers that are keys; larger ones can be chosen so that a dictionary takes very long."""

_STORAGES = {
    "torch DoubleStorage": "float64",
    "torch FloatStorage": "float32",
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}
_TENSOR, _PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
_ORDERED = "collections OrderedDict"
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class Doubt(Exception):  # noqa: N818 (nothing is wrong yet)
    """The file is not of the kind that is sure to be understood here; it may well be a good one."""


class _Name(str):
    """A name that the pickle refers to; a kind of its own, so that no text passes for one."""

    __slots__ = ()


class _Ordered(dict[Any, Any]):
    """An OrderedDict of the file, which may have attributes."""


class _Storage:
    """The numbers of one or several tensors."""

    __slots__ = ("count", "data", "dtype", "identity")

    def __init__(self, identity: tuple[Any, ...], data: memoryview) -> None:
        self.identity = identity
        self.dtype, _, self.count = identity
        self.data = data


def read_torch_zip(file: BinaryIO, data: memoryview) -> Mapping[Any, Any]:
    """What :func:`torch.load` makes of a file, with described tensors.

    Args:
        file: A ZIP archive.
        data: All of its bytes; tensors keep referring to them.

    Raises:
        Doubt: It is better read with PyTorch.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError) as error:
        raise Doubt from error
    records = {info.filename: info for info in listed}
    # PyTorch finds records whatever their case.
    if not records or len({name.lower() for name in records}) != len(listed):
        raise Doubt
    root = listed[0].filename.partition("/")[0]
    if min(info.header_offset for info in records.values()) or f"{root}/constants.pkl" in records:
        raise Doubt

    looked_at = 0

    def record(name: str) -> memoryview:
        nonlocal looked_at
        if (info := records.get(f"{root}/{name}")) is None:
            raise Doubt
        looked_at += info.file_size
        if looked_at > len(data):  # records that lie in each other
            raise Doubt
        return _stored(data, info)

    if bytes(record("version")) != b"3\n":
        raise Doubt
    if f"{root}/byteorder" in records and bytes(record("byteorder")) != b"little":
        raise Doubt
    program = record("data.pkl")
    if len(program) > _LONGEST_PICKLE:
        raise Doubt
    storages: dict[str, _Storage] = {}

    def storage(reference: Any) -> _Storage:
        kind, name, key, location, count = _of(reference, tuple, 5)
        dtype = _STORAGES.get(name) if type(name) is _Name else None
        if kind != "storage" or dtype is None or type(key) is not str or type(location) is not str:
            raise Doubt
        if location != "cpu" and not location.startswith("cuda"):
            raise Doubt
        identity = (dtype, key, _whole(count))
        if key not in storages:
            storages[key] = _Storage(identity, record(f"data/{key}"))
        found = storages[key]
        if found.identity != identity or len(found.data) != found.count * ITEM_SIZE[dtype]:
            raise Doubt
        return found

    content = _followed(bytes(program), storage)
    if not isinstance(content, Mapping):
        raise Doubt
    return content


def _stored(data: memoryview, info: zipfile.ZipInfo) -> memoryview:
    """The bytes of a record that is not compressed, whole by its check sum."""
    start = info.header_offset
    header = data[start : start + 30]
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or bytes(header[:4]) != b"PK\x03\x04":
        raise Doubt
    start += 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    found = data[start : start + info.file_size]
    if info.compress_size != info.file_size or len(found) != info.file_size or zlib.crc32(found) != info.CRC:
        raise Doubt
    return found


def _followed(program: bytes, storage: Callable[[Any], _Storage]) -> Any:
    """The value that a pickle describes."""
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, found, _ in pickletools.genops(program):
            name, argument = opcode.name, cast(Any, found)
            if name in _VALUES:
                stack.append(argument)
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(_named_again(memo[argument]))
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name == "MARK":
                marks.append(stack)
                stack = []
            elif name == "TUPLE":
                made, stack = tuple(stack), marks.pop()
                stack.append(made)
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                count = int(name[-1])
                if len(stack) < count:
                    raise Doubt
                stack[-count:] = [tuple(stack[-count:])]
            elif name == "EMPTY_DICT":
                stack.append({})
            elif name == "EMPTY_LIST":
                stack.append([])
            elif name == "BINPERSID":
                stack.append(storage(stack.pop()))
            elif name == "GLOBAL":
                stack.append(_known(argument))
            elif name == "REDUCE":
                arguments = stack.pop()
                stack.append(_made(stack.pop(), arguments))
            elif name == "SETITEM":
                value = stack.pop()
                _set(stack[-2], [stack.pop(), value])
            elif name == "SETITEMS":
                items, stack = stack, marks.pop()
                _set(stack[-1], items)
            elif name == "APPEND":
                value = stack.pop()
                _of(stack[-1], list).append(value)
            elif name == "APPENDS":
                items, stack = stack, marks.pop()
                _of(stack[-1], list).extend(items)
            elif name == "BUILD":
                state = stack.pop()
                if type(stack[-1]) is not _Ordered or type(state) is not dict or list(state) != ["_metadata"]:
                    raise Doubt
            elif name == "STOP":
                break
            elif name != "PROTO" or argument != 2:
                raise Doubt
    except (ValueError, LookupError, ArithmeticError, RecursionError) as error:
        raise Doubt from error
    if len(stack) != 1 or marks:
        raise Doubt
    return stack[0]


def _named_again(value: Any) -> Any:
    """What may stand in several places: nothing that holds anything that could hold more."""
    flat = not isinstance(value, list | dict | tuple)
    if not flat and not (type(value) is tuple and not any(isinstance(one, list | dict | tuple) for one in value)):
        raise Doubt
    return value


def _known(argument: str) -> _Name:
    if argument not in _STORAGES and argument not in (_TENSOR, _PARAMETER, _ORDERED):
        raise Doubt
    return _Name(argument)


def _made(name: Any, arguments: Any) -> Any:
    """What PyTorch makes of a name and arguments, described."""
    if type(name) is not _Name or type(arguments) is not tuple:
        raise Doubt
    if name == _ORDERED and not arguments:
        return _Ordered()
    if name == _PARAMETER:
        tensor, learns, hooks = _of(arguments, tuple, 3)
        if type(tensor) is not StoredTensor:
            raise Doubt
        _check_learning(tensor.dtype, learns, hooks)
        return tensor
    if name == _TENSOR:
        storage, offset, shape, strides, learns, hooks = _of(arguments, tuple, 6)
        if type(storage) is not _Storage:
            raise Doubt
        _check_learning(storage.dtype, learns, hooks)
        return _tensor(storage, _whole(offset), _of(shape, tuple), _of(strides, tuple))
    raise Doubt


def _check_learning(dtype: str, learns: Any, hooks: Any) -> None:
    """Only floating-point numbers can be learned; hooks would be code."""
    if type(learns) is not bool or (learns and "float" not in dtype) or type(hooks) is not _Ordered or hooks:
        raise Doubt


def _tensor(storage: _Storage, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]) -> StoredTensor:
    """A tensor whose numbers lie side by side, each once, whatever the order of its dimensions."""
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        raise Doubt
    sides = sorted((_whole(stride), _whole(side)) for stride, side in zip(strides, shape, strict=True))
    count = math.prod(shape)
    if offset + count > storage.count:
        raise Doubt
    step = 1
    for stride, side in sides if count else ():
        if stride != step and side != 1:
            raise Doubt
        step *= side
    size = ITEM_SIZE[storage.dtype]
    return StoredTensor(shape=shape, dtype=storage.dtype, data=storage.data[offset * size : (offset + count) * size])


def _set(target: Any, items: list[Any]) -> None:
    if type(target) not in (dict, _Ordered) or len(items) % 2:
        raise Doubt
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str and not (type(key) is int and abs(key) < _LARGEST_KEY):
            raise Doubt
        target[key] = value


def _of(value: Any, kind: type, length: int | None = None) -> Any:
    if type(value) is not kind or (length is not None and len(value) != length):  # type: ignore[arg-type]
        raise Doubt
    return value


def _whole(value: Any) -> int:
    """A number of elements."""
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise Doubt
    return value
