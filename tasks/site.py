"""Site: a page beside the release folder on which the release can be tried in the browser."""

from __future__ import annotations

import logging
from pathlib import Path

import prefect

from aethernet.errors import WebError
from aethernet.release.bundle import Bundle
from aethernet.release.spec import WebSpec
from aethernet.web.onnxruntime_web import onnxruntime_web
from aethernet.web.site import write_site
from tasks.caching import current_context, reporting
from tasks.fetch import ValidationImage

__all__ = ["site"]

_LOG = logging.getLogger(__name__)


@prefect.task(persist_result=False, task_run_name="site {bundle.root.name}")
def site(bundle: Bundle, destination: Path, images: list[ValidationImage], spec: WebSpec) -> Path | None:
    """Never cached: it is quicker to write than to look up, and replaced in one step.

    None where the files of onnxruntime-web cannot be had: the release itself needs no npm.
    """
    with reporting("site", bundle.root.name):
        try:
            runtime = onnxruntime_web()
        except WebError as error:
            _LOG.warning("no page to try the release was made: %s; %s", error, error.hint)
            return None
        get = current_context().store.get
        samples = {image.low.name: get(image.low) for image in images[: spec.samples]}
        return write_site(bundle, destination, runtime, samples=samples, home=spec.home).root
