"""The only place that knows caching.

A stage is a function from artifacts and plain values to artifacts and plain values. Its cache key is one digest over
the stage's name, its inputs (files by content), the code it reaches, the tool versions and, where numbers depend on
it, the host. Prefect keeps the record under that key as JSON; records name files by digest, and a hit whose files are
gone or changed is a miss. A store that several machines share holds the records, too, so that what one has done no
other does again. Prefect's own policies are not used: they mix up tasks with equal inputs, miss changes in helpers,
hash paths as text, and never look at files.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import shutil
import time
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

import prefect
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from prefect.serializers import JSONSerializer
from prefect.transactions import CommitMode, Transaction
from pydantic import TypeAdapter

from aethernet.artifact import Artifact, atomic_path
from aethernet.errors import AethernetError, StoreError
from aethernet.host import describe_host, toolchain
from aethernet.store.store import Store
from tasks.code_digest import code_digest, remembered_sources

__all__ = [
    "CacheKeyError",
    "Observer",
    "Report",
    "RunContext",
    "Stage",
    "StageEvent",
    "reporting",
    "running",
    "stage",
]

RECORD_SCHEMA = 2
"""Raised when records change shape, so that old ones are never read as new."""

_NOTE_AGAIN_S = 12 * 3600
"""How old a shared record's note of its last use may be; housekeeping goes by days."""

_SERIALIZER = JSONSerializer(object_encoder=None, object_decoder=None)
"""Plain JSON: Prefect's own decoder calls whatever a record names."""

P = ParamSpec("P")
R = TypeVar("R")


class CacheKeyError(AethernetError):
    """A cache key could not be computed. The run stops: going on uncached would hide it."""

    hint = "every input of a stage must be an artifact or a plain value"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEvent:
    """Something happened to a stage."""

    stage: str
    label: str
    kind: str
    """``started``, ``ran``, ``cached``, ``rebuilding`` or ``failed``."""
    seconds: float = 0.0
    own_seconds: float = 0.0
    """Of these, those in the stage's function; the rest is what cache, records and Prefect's engine take."""
    detail: str = ""

    @property
    def step(self) -> str:
        """Stage and label, as people see it."""
        return f"{self.stage} {self.label}".strip()


class Observer(Protocol):
    """Told about every stage event, in order."""

    def __call__(self, event: StageEvent) -> None:
        """Take note of one event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """Where stages keep files and whom they tell."""

    store: Store
    observers: tuple[Observer, ...] = field(default=())

    def tell(self, event: StageEvent) -> None:
        """Pass an event on to every observer."""
        for observer in self.observers:
            observer(event)


_context: ContextVar[RunContext] = ContextVar("aethernet_run")
_body_store: ContextVar[Store] = ContextVar("aethernet_body_store")


@contextmanager
def running(context: RunContext) -> Iterator[RunContext]:
    """Stages called inside use this store and these observers."""
    token = _context.set(context)
    try:
        with remembered_sources(context.store.root):
            yield context
    finally:
        _context.reset(token)


def current_context() -> RunContext:
    """The context of the running flow.

    Raises:
        LookupError: No flow is running.
    """
    return _context.get()


def current_store() -> Store:
    """The store a stage's body works in."""
    return _body_store.get()


@dataclass(slots=True)
class Report:
    """What :func:`reporting` tells at the end."""

    unchanged: bool = False
    """There was nothing to do."""
    own_seconds: float | None = None
    """Seconds of the work itself; None: all of them."""


@contextmanager
def reporting(stage: str, label: str) -> Iterator[Report]:
    """Tells the run's observers when a step begins and how it ends."""
    context, report = current_context(), Report()
    context.tell(StageEvent(stage=stage, label=label, kind="started"))
    start = time.perf_counter()
    try:
        yield report
    except BaseException as error:
        seconds = time.perf_counter() - start
        context.tell(StageEvent(stage=stage, label=label, kind="failed", seconds=seconds, detail=str(error)))
        raise
    seconds = time.perf_counter() - start
    own = 0.0 if report.unchanged else seconds if report.own_seconds is None else report.own_seconds
    kind = "cached" if report.unchanged else "ran"
    context.tell(StageEvent(stage=stage, label=label, kind=kind, seconds=seconds, own_seconds=own))


class Stage(Generic[P, R]):
    """A cached task. Calling it inside :func:`running` returns the function's result, from the cache where possible."""

    def __init__(self, function: Callable[P, R], *, host_matters: bool, quick: bool) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.name = function.__name__
        self.host_matters = host_matters
        self.quick = quick
        hints = typing.get_type_hints(function)
        self._output: TypeAdapter[R] = TypeAdapter(hints.pop("return"))
        self._inputs = {name: TypeAdapter(hint) for name, hint in hints.items()}
        self._signature = inspect.signature(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the stage, or take what it made before."""
        context = current_context()
        inputs = self.encode(*args, **kwargs)
        key = self.key(inputs)
        label = _label(inputs)
        with reporting(self.name, label) as report:
            # A finished stage needs no lock: records appear whole, and what they name is verified.
            whole, problem = _find(context.store, key)
            if problem:
                context.tell(StageEvent(stage=self.name, label=label, kind="rebuilding", detail=problem))
            if whole:
                output = self._run(context, key, inputs, report)
            else:
                # To keep other machines out, or to ask whether one was faster, takes longer than a quick stage.
                alone = self.quick and context.store.is_shared
                with context.store.lock(key, everywhere=not alone):
                    missing = alone or not _find(context.store, key)[0]
                    output = self._run(context, key, inputs, report, missing=missing)
        return self._output.validate_python(output)

    def encode(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """The arguments as JSON values.

        Raises:
            CacheKeyError: An argument has no JSON form by the function's annotations.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            return {name: self._inputs[name].dump_python(value, mode="json") for name, value in bound.arguments.items()}
        except Exception as error:
            raise CacheKeyError(f"the inputs of stage '{self.name}' cannot be written as JSON: {error}") from error

    def key(self, inputs: dict[str, Any]) -> str:
        """The cache key of encoded inputs, 64 hexadecimal digits.

        Raises:
            CacheKeyError: It cannot be computed.
        """
        try:
            parts = {
                "schema": RECORD_SCHEMA,
                "stage": self.name,
                "inputs": inputs,
                "code": code_digest(Path(inspect.getfile(self.function))),
                "tools": toolchain(),
                "host": describe_host() if self.host_matters else None,
            }
            return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()
        except Exception as error:
            raise CacheKeyError(f"no cache key for stage '{self.name}': {error}") from error

    def _run(
        self, context: RunContext, key: str, inputs: dict[str, Any], report: Report, *, missing: bool = False
    ) -> Any:
        record = context.store.records / key
        if missing:
            _remove(record)  # Prefect must never see what is not whole
        task = prefect.task(
            name=self.name,
            task_run_name=f"{self.name} {_label(inputs)}".strip(),
            cache_policy=CacheKeyFnPolicy(cache_key_fn=lambda _context, _parameters: key),
            result_storage=context.store.records,
            result_serializer=_SERIALIZER,
            persist_result=True,
            refresh_cache=missing,
            # Failures here are deterministic: the same inputs fail the same way again.
            retries=0,
        )(self._body(context.store, key, inputs, report))
        # Inside another task, Prefect would keep the record back until that one has ended.
        with Transaction(commit_mode=CommitMode.EAGER):
            state = task(return_state=True)
        sealed = state.result()
        if _read_record(record, key) != sealed:
            # Prefect only logs that a result could not be kept, for instance on a full disk.
            raise StoreError(
                f"the record of stage '{self.name}' could not be written to {context.store.records}",
                hint="free space or choose another folder with --store",
            )
        report.unchanged = state.name == "Cached"
        return sealed["output"]

    def _body(self, store: Store, key: str, inputs: dict[str, Any], report: Report) -> Callable[[], dict[str, Any]]:
        """The task, without parameters: in those Prefect would look through every value for runs it depends on."""

        def body() -> dict[str, Any]:
            arguments = {name: self._inputs[name].validate_python(value) for name, value in inputs.items()}
            start = time.perf_counter()
            output = self.fn(store, **arguments)  # type: ignore[call-arg]
            report.own_seconds = time.perf_counter() - start
            plain = json.loads(json.dumps(self._output.dump_python(output, mode="json"), allow_nan=False))
            sealed = {"output": plain, "seal": _seal(key, plain)}
            if store.is_shared:
                # Before Prefect calls the task completed, so that what is completed never runs again elsewhere.
                _share(store, key, sealed)
            return sealed

        return body

    def fn(self, store: Store, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function itself in ``store``, without Prefect and without cache."""
        token = _body_store.set(store)
        try:
            return self.function(*args, **kwargs)
        finally:
            _body_store.reset(token)


def stage(*, host_matters: bool = False, quick: bool = False) -> Callable[[Callable[P, R]], Stage[P, R]]:
    """Make a cached stage of an annotated function.

    Args:
        host_matters: Whether another machine would give other numbers.
        quick: It only reads and writes a few kilobytes, the same every time, so two machines may well do it at once.
    """
    return lambda function: Stage(function, host_matters=host_matters, quick=quick)


def _label(inputs: dict[str, Any]) -> str:
    """What this run of a stage is about: its ``label`` or ``precision``, and the kind of its files."""
    words = [str(inputs[name]) for name in ("label", "precision") if isinstance(inputs.get(name), str)]
    files = inputs.get("files")
    if isinstance(files, list) and files and isinstance(files[0], dict) and "name" in files[0]:
        words.append(Path(str(files[0]["name"])).suffix.lstrip("."))
    return " ".join(words)


def _seal(key: str, output: Any) -> str:
    """Ties an output to its key, so that a record that was changed or belongs elsewhere is found out."""
    return hashlib.sha256(f"{key} {json.dumps(output, sort_keys=True)}".encode()).hexdigest()


def _find(store: Store, key: str) -> tuple[bool, str | None]:
    """Whether an earlier run left a record and every file it names; and what is wrong with one that names others."""
    found = _recall(store, key)
    problem = next(filter(None, (store.problem(artifact) for artifact in _artifacts(found))), None)
    return found is not None and problem is None, problem


def _recall(store: Store, key: str) -> dict[str, Any] | None:
    """The record under a key, noted as used; a shared store's is copied to where Prefect looks."""
    found = _read_record(store.records / key, key)
    if not store.is_shared:
        if found is not None:
            store.place.touch(f"records/{key}")
        return found
    try:
        noted = json.loads(store.place.read(f"records/{key}") or "{}")
        shared = _unseal(json.dumps(noted["sealed"]), key)
        used = float(noted["used"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if shared is None:
        return None
    if abs(time.time() - used) > _NOTE_AGAIN_S:
        _share(store, key, shared)
    if found != shared:
        results = ResultStore(result_storage=LocalFileSystem(basepath=str(store.records)), serializer=_SERIALIZER)
        with atomic_path(store.records / key) as temporary:
            temporary.write_bytes(results.create_result_record(shared, key=key).serialize())
    return shared


def _share(store: Store, key: str, sealed: dict[str, Any]) -> None:
    store.place.write(f"records/{key}", json.dumps({"sealed": sealed, "used": time.time()}).encode())


def _read_record(path: Path, key: str) -> dict[str, Any] | None:
    """What a stage left under its key, or None: whatever is not exactly that is a miss. Nothing in it is executed."""
    try:
        record = json.loads(path.read_bytes())
        if record["metadata"]["serializer"] != _SERIALIZER.model_dump(mode="json"):
            return None
        return _unseal(record["result"], key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _unseal(content: bytes | str, key: str) -> dict[str, Any] | None:
    try:
        sealed = json.loads(content)
        whole = sealed.keys() == {"output", "seal"} and sealed["seal"] == _seal(key, sealed["output"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return sealed if whole else None


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot replace the record {path}: {error.strerror or error}") from error


def _artifacts(value: Any) -> Iterator[Artifact]:
    if isinstance(value, dict):
        if set(value) == {"name", "sha256", "size"}:
            yield Artifact(**value)
        else:
            for item in value.values():
                yield from _artifacts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _artifacts(item)
