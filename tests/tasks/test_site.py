"""The page beside a release, and a release without npm."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

from aethernet.release.bundle import open_bundle
from aethernet.release.spec import WebSpec
from aethernet.store.store import Store
from aethernet.web import onnxruntime_web as fetching
from aethernet.web import site as writing
from aethernet.web.site import SITE
from tasks.caching import RunContext, running
from tasks.fetch import ValidationImage
from tasks.site import site
from tests.support.releases import small_images


@pytest.fixture
def images(tmp_path: Path) -> tuple[Store, list[ValidationImage]]:
    store = Store(tmp_path / "store")
    small_images(tmp_path / "low")
    paths = sorted((tmp_path / "low").iterdir())
    return store, [ValidationImage(name=path.stem, low=store.put(path), high=None) for path in paths]


def test_the_page_offers_the_validation_images(
    finished_release: Path,
    images: tuple[Store, list[ValidationImage]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, validation = images
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "package").mkdir()
    for name in fetching.DIGESTS:
        (tmp_path / "package" / name).write_text(name)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in fetching.DIGESTS}
    monkeypatch.setattr(fetching, "DIGESTS", digests)
    monkeypatch.setattr(writing, "DIGESTS", digests)
    fetching.onnxruntime_web(tmp_path / "package")

    with running(RunContext(store=store)):
        root = site.fn(open_bundle(finished_release), tmp_path / "page", validation, WebSpec(samples=1))

    assert root == tmp_path / "page"
    assert (tmp_path / "page" / SITE).is_file()
    names = [path.name for path in (tmp_path / "page" / "images").glob("sample_*")]
    assert names == [f"sample_1_{validation[0].low.name}"]


def test_without_npm_the_release_goes_on_and_says_so(
    finished_release: Path,
    images: tuple[Store, list[ValidationImage]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, validation = images
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))

    with running(RunContext(store=store)), caplog.at_level(logging.WARNING):
        assert site.fn(open_bundle(finished_release), tmp_path / "page", validation, WebSpec()) is None

    assert "no page to try the release was made" in caplog.text
    assert not (tmp_path / "page").exists()
