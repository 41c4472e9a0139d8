"""Sign: every file of the release folder, by key or identity; a signature that still fits is left alone."""

from __future__ import annotations

import prefect

from aethernet.bundle import Bundle
from aethernet.signing import Signer, sign_bundle
from tasks._caching import StageEvent, current_context

__all__ = ["sign"]


@prefect.task(persist_result=False, task_run_name="sign {bundle.root.name}")
def sign(bundle: Bundle, signer: Signer) -> None:
    """Never cached: the signature lies in the release folder and says itself whether it fits."""
    context = current_context()
    context.tell(StageEvent(stage="sign", label=bundle.root.name, kind="started"))
    written = sign_bundle(bundle, signer)
    context.tell(StageEvent(stage="sign", label=bundle.root.name, kind="ran" if written else "cached"))
