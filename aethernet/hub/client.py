"""The Hugging Face client made fit for hubs one does not know: it waits for a limited time, reads a limited amount, and
fails in words that give no secret away.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

from aethernet.errors import ConflictError, HubError, UnreachableError
from aethernet.hub.address import printable
from aethernet.version import __version__

__all__ = ["TOKEN_HINT", "MissingError", "TakenError", "limited_get", "sensible", "stream", "translated"]

_SECONDS = {"connect": 15.0, "read": 60.0, "write": 60.0, "pool": 60.0}
_RESTING = {408, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524, 529}
"""Status codes that may pass."""


TOKEN_HINT = (
    "log in with `hf auth login`, or set HF_TOKEN to a token that is still valid; "
    "it is sent to the hub that HF_ENDPOINT names, and to no other"
)


class MissingError(HubError):
    """There is no such repository or file, or it is not for us to see."""

    hint = "check the name; a private one needs a token that may read it (HF_TOKEN or `hf auth login`)"


class TakenError(HubError):
    """The thing to create is there already."""


@contextmanager
def stream(url: str, what: str, headers: Mapping[str, str], token: bool | None) -> Iterator[Any]:
    """A GET answer whose content is still to be read; ``token``: False sends none, None the client's own, if any."""
    from huggingface_hub.utils import build_hf_headers, get_session

    own = build_hf_headers(token=token, library_name="aethernet", library_version=__version__)
    with translated(what):
        # Content-Length and ranges count the bytes as they are stored.
        asked = {**own, **headers, "Accept-Encoding": "identity"}
        with get_session().stream("GET", url, headers=asked) as response:
            if response.status_code >= 400:
                raise _refusal(what, response, _said(response))
            yield response


def limited_get(url: str, what: str, most: int, token: bool | None) -> tuple[bytes, str | None]:
    """A whole GET answer of at most ``most`` bytes, and the address of the next page."""
    with stream(url, what, {}, token) as response:
        content = bytearray()
        for chunk in response.iter_bytes(2**16):
            content += chunk
            if len(content) > most:
                raise HubError(f"could not {what}: the answer is larger than {most >> 20} MiB")
        following = response.links.get("next", {}).get("url")
    if following is None:
        return bytes(content), None
    following = urljoin(url, following)
    if urlsplit(following)[:2] != urlsplit(url)[:2]:  # the token goes with it
        raise HubError(f"could not {what}: the hub sends us elsewhere for the next page")
    return bytes(content), following


def _limit_waiting() -> None:
    """Make the client's session give up on a hub that says nothing: by default it waits for ever."""
    from huggingface_hub.utils import get_session

    hooks = get_session().event_hooks
    if _set_limits not in hooks["request"]:
        get_session().event_hooks = {**hooks, "request": [*hooks["request"], _set_limits]}


def _set_limits(request: Any) -> None:
    limits = request.extensions.get("timeout") or {}
    request.extensions["timeout"] = {kind: limits.get(kind) or seconds for kind, seconds in _SECONDS.items()}


@contextmanager
def sensible(expected: str) -> Iterator[None]:
    """Whatever a hub answers, it ends in words."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HubError(f"expected {expected}, found an answer that makes no sense ({type(error).__name__})") from error


@contextmanager
def translated(what: str) -> Iterator[None]:
    """The client's many errors become ours; nothing of an address but its host is told, it may be a signed one."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    _limit_waiting()
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__  # the client wraps what went wrong while uploading
        if isinstance(cause, HfHubHTTPError):
            raise _refusal(what, cause.response, cause.server_message or "") from None
        if isinstance(cause, OfflineModeIsEnabled):
            raise UnreachableError(f"could not {what}: HF_HUB_OFFLINE is set", final=True) from None
        if isinstance(cause, httpx2.HTTPError | httpx2.StreamError | ConnectionError):
            request = getattr(cause, "_request", None)
            raise UnreachableError(f"could not {what}: {_words(cause)}", final=_retried(request)) from None
        if isinstance(cause, OSError):
            raise HubError(f"could not {what}: {cause.strerror or printable(redacted(str(cause)))}") from None
        if isinstance(cause, json.JSONDecodeError):
            raise HubError(f"could not {what}: the hub's answer makes no sense") from None
        if isinstance(cause, ValueError | KeyError | TypeError):
            raise HubError(f"could not {what}: {printable(redacted(str(cause)))}") from None
        raise


def _words(error: BaseException) -> str:
    text = printable(redacted(str(error))) or type(error).__name__
    with contextlib.suppress(RuntimeError, AttributeError):
        return f"{error.request.url.host}: {text}"  # type: ignore[attr-defined]
    return text


def _said(response: Any) -> str:
    """What a hub says about its refusal, the beginning of it."""
    content = bytearray()
    for chunk in response.iter_bytes(2**12):
        content += chunk
        if len(content) > 2**16:
            break
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return str(response.headers.get("x-error-message", ""))


def _refusal(what: str, response: Any, said: str) -> HubError:
    status, request = response.status_code, response.request
    said = printable(redacted(said, request.headers.get("authorization", "")))
    told = f"could not {what}: {request.url.host} answered {status}" + (f" ({said})" if said else "")
    if status in _RESTING:
        asked = response.headers.get("retry-after", "")
        return UnreachableError(told, wait=float(asked) if asked.isdecimal() else None, final=_retried(request))
    if status == 401:
        return HubError(told, hint=TOKEN_HINT)
    if status == 403:
        gated = response.headers.get("x-error-code") == "GatedRepo"
        hint = "ask its owners for access on its page" if gated else "the token lacks the right to do this"
        return HubError(told, hint=hint)
    if status == 404:
        return MissingError(told)
    if status == 409:
        return TakenError(told)
    if status == 412:
        return ConflictError(told)
    return HubError(told)


def _retried(request: Any) -> bool:
    """Whether the client has tried this request again by itself: all uploads but the commit."""
    if request is None or request.method not in ("POST", "PUT"):
        return False
    once = r"/api/((models|spaces)/[^/]+/[^/]+/(commit|tag|branch)/|repos/create|validate-yaml)"
    return re.match(once, request.url.path) is None


def redacted(text: str, authorization: str = "") -> str:
    """A hub's words without tokens, should it repeat one, and without what signs an address."""
    if token := authorization.removeprefix("Bearer "):
        text = text.replace(token, "…")
    text = re.sub(r"\b(hf_|api_org_|Bearer\s+)[\w.-]{4,}", r"\1…", text)
    return re.sub(r"(https?://[^\s?]+)\?\S+", r"\1", text)
