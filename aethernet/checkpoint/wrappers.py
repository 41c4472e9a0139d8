"""What training frameworks put around a network's tensors is taken off, for every architecture alike.

torch.compile (``_orig_mod.``), DistributedDataParallel and AveragedModel (``module.``), Lightning (``state_dict`` with
one prefix before every name), BasicSR (``params``, ``params_ema``), MMagic (``generator.`` beside ``generator_ema.``),
in any order and depth. Where several networks are inside, averaged weights of the same network win, and different ones
have to be chosen between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aethernet.checkpoint.tensors import is_tensor
from aethernet.errors import NotACheckpointError, UsageError

__all__ = ["Unwrapped", "settings_of_metadata", "unwrap", "what_it_is"]

_SETTINGS = ("arch_config", "hyper_parameters", "network_g", "net_g", "generator", "config", "args", "opt", "metadata")
"""Where frameworks say how a network was built."""
_NOT_WEIGHTS = re.compile(
    r"optim|sched|scaler|callback|loop|rng|discriminator|net_d|^losses?$|^state$|message_hub", re.I
)
_PREFIXES = (
    *("module", "_orig_mod", "model", "net", "network", "net_g", "netG", "generator", "student", "ema", "model_ema"),
    *("ema_model", "net_g_ema", "generator_ema", "netG_ema", "teacher", "online_model", "swa_model", "averaged_model"),
)
_AVERAGED = re.compile(r"(^|[._-])(ema|swa)($|[._-])|averaged", re.IGNORECASE)
_COUNTERS = re.compile(r"(^|\.)(n_averaged|initted|step|steps|step_counter|_?start_iter|epoch|iter|global_step)$")
_ORDER = ("params_ema", "params", "state_dict")
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """One network's entries by its own names."""

    entries: dict[str, Any]
    key: str
    """Where they were, such as ``state_dict.generator_ema``; empty where nothing was around them."""
    settings: dict[str, Any]
    """What the file says about how the network was built, in whatever words its framework has."""
    notes: tuple[str, ...] = ()
    all_known: bool = False
    """Whether everything in the file that might be a network is one that somebody can build."""


def unwrap(
    content: Mapping[str, Any],
    weights: str | None = None,
    *,
    known: Callable[[Mapping[str, Any]], bool] = lambda _: False,
) -> Unwrapped:
    """Take off everything around a network's tensors.

    Args:
        content: What the file holds.
        weights: Key of the network to take, as the message about several lists them; None takes the only one.
        known: Whether tensors by name are a network somebody can build.

    Raises:
        NotACheckpointError: There are no tensors inside.
        UsageError: There are several networks and none was chosen, or not that one.
    """
    found: dict[str, dict[str, Any]] = {}
    for path, group in _groups(content, ""):
        for key, entries in _networks(path, group, known):
            found.setdefault(key, entries)
    if not found:
        listed = ", ".join(str(name) for name in list(content)[:5]) or "nothing"
        raise NotACheckpointError(f"expected tensors by name, found {listed}")
    recognised = {key: entries for key, entries in found.items() if known(entries)}
    key, notes = _chosen(found, recognised or found, weights)
    return Unwrapped(found[key], key, _settings(content), notes, len(recognised) == len(found))


def _groups(content: Mapping[Any, Any], path: str, depth: int = 0) -> Iterable[tuple[str, dict[str, Any]]]:
    """Every dictionary that holds tensors itself, with the keys that lead there."""
    own = {str(name): value for name, value in content.items() if not isinstance(value, Mapping)}
    if any(is_tensor(value) for value in own.values()):
        yield path, own
    names = sorted((name for name in content if isinstance(name, str)), key=_rank)
    for name in names:
        inner = content[name]
        if isinstance(inner, Mapping) and depth < _DEEPEST and not _NOT_WEIGHTS.search(name):
            yield from _groups(inner, f"{path}.{name}" if path else name, depth + 1)


def _rank(name: str) -> int:
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _networks(
    path: str, group: dict[str, Any], known: Callable[[Mapping[str, Any]], bool]
) -> Iterable[tuple[str, dict[str, Any]]]:
    """The networks of one dictionary, prefixes off."""
    entries = group
    while not known(entries):
        inner = {name: value for name, value in entries.items() if not _COUNTERS.search(name)}
        heads = {name.partition(".")[0] for name in inner if "." in name}
        whole = len(heads) == 1 and all("." in name for name in inner)
        if whole and (heads & set(_PREFIXES) or known(_without(inner, next(iter(heads))))):
            entries = _without(inner, next(iter(heads)))
            continue
        several = [head for head in sorted(heads) if head in _PREFIXES or _AVERAGED.search(head)]
        parts = {head: _without(inner, head) for head in several}
        # A network may have a part called ``model`` itself: only what is a network on its own is taken apart.
        if parts and (len(several) > 1 or any(known(_bare(part)) for part in parts.values())):
            for head, part in parts.items():
                if any(map(_is_weight, part.values())):
                    yield from _networks(f"{path}.{head}" if path else head, part, known)
            return
        break
    yield path, entries


def _bare(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Without further prefixes that all names share."""
    bare = dict(entries)
    while bare and len(heads := {name.partition(".")[0] for name in bare}) == 1 and heads & set(_PREFIXES):
        bare = _without(bare, next(iter(heads)))
    return bare


def _without(entries: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in entries.items() if name.startswith(start)}


def _chosen(
    found: Mapping[str, dict[str, Any]], candidates: Mapping[str, dict[str, Any]], weights: str | None
) -> tuple[str, tuple[str, ...]]:
    """The key of the network to take, and what a user should be told about it."""
    if weights is not None:
        matching = [key for key in found if weights in (key, key.rpartition(".")[2])]
        if len(matching) != 1:
            raise UsageError(
                f"expected one of the file's networks as --weights, found '{weights}'",
                hint=f"it holds {_listed(found)}",
            )
        return matching[0], ()
    kinds: dict[frozenset[tuple[str, Any]], list[str]] = {}
    for key, entries in candidates.items():
        shapes = frozenset((name, getattr(value, "shape", None)) for name, value in entries.items())
        kinds.setdefault(shapes, []).append(key)
    if len(kinds) > 1:
        raise UsageError(
            f"expected one network in the file, found {len(kinds)}: {_listed(candidates)}",
            hint="choose one with --weights KEY",
        )
    keys = next(iter(kinds.values()))
    averaged = [key for key in keys if _AVERAGED.search(key)]
    key = (averaged or keys)[0]
    if len(keys) == 1:
        return key, ()
    others = ", ".join(f"'{one}'" for one in keys if one != key)
    what = "averaged weights" if averaged else "weights"
    return key, (f"the {what} '{key}' were taken; the file also holds {others} (--weights KEY takes those)",)


def _listed(networks: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"'{key or 'the outermost'}' ({len(entries)} tensors)" for key, entries in networks.items())


def _settings(content: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
    """Settings of every level, the outer ones first, the most specific last."""
    plain = {
        str(name): value
        for name, value in content.items()
        if (isinstance(value, str | int | float | bool | list | tuple) or is_tensor(value))
        # Outermost lie the weights themselves, one of which may be called so.
        and (depth or (name in ("scale", "upscale", "res_scale") and not is_tensor(value)))
    }
    if depth > _DEEPEST:
        return plain
    for name in reversed(_SETTINGS):
        inner = content.get(name)
        # A wrapper may be called as settings are: those hold no weights.
        if isinstance(inner, Mapping) and not any(_is_weight(value) for value in inner.values()):
            plain |= _settings(inner, depth + 1)
    return plain


def _is_weight(value: Any) -> bool:
    return is_tensor(value) and value.ndim > 1


def settings_of_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The same from safetensors metadata, whose values are texts: JSON where more than one thing is said."""
    content: dict[str, Any] = {}
    for name, text in metadata.items():
        if name in (*_SETTINGS, "scale", "upscale", "res_scale", "img_range"):
            try:
                content[name] = json.loads(text)
            except (ValueError, RecursionError):
                continue
    return _settings({"config": {name: content[name] for name in content if name not in _SETTINGS}, **content})


_KINDS = (
    (re.compile(r"lora_(down|up|A|B)\b|\.lora\.|lora_te|hada_w1"), "a LoRA, which only changes another network"),
    (re.compile(r"diffusion_model\.|double_blocks\.\d|(^|\.)transformer_blocks\."), "a diffusion model"),
    (
        re.compile(r"first_stage_model|quant_conv\.|(^|\.)(en|de)coder\.mid\.block_"),
        "the autoencoder of a diffusion model",
    ),
    (
        re.compile(r"weight_orig$|^conv0_0\.|^(main|model)\.\d+\.weight_u$|^linear[12]\.weight$|discriminator"),
        "a discriminator, which judges images and makes none",
    ),
    (re.compile(r"exp_avg|^state\.\d|param_groups"), "an optimizer's state"),
    (re.compile(r"text_model\.encoder|^transformer\.h\.\d|token_embedding"), "a language or text network"),
)


def what_it_is(names: Iterable[str]) -> str | None:
    """What tensors by these names belong to, where that is no network from image to image; None where unknown."""
    listed = list(names)
    return next((words for pattern, words in _KINDS if any(pattern.search(name) for name in listed)), None)
