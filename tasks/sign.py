"""Sign: every file of the release folder, by key or identity; a signature that still fits is left alone."""

from __future__ import annotations

import prefect

from aethernet.release.bundle import Bundle
from aethernet.release.signing import Signer, sign_bundle
from tasks.caching import reporting

__all__ = ["sign"]


@prefect.task(persist_result=False, task_run_name="sign {bundle.root.name}")
def sign(bundle: Bundle, signer: Signer) -> None:
    """Never cached: the signature lies in the release folder and says itself whether it fits."""
    with reporting("sign", bundle.root.name) as report:
        report.unchanged = not sign_bundle(bundle, signer)
