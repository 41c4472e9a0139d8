"""``report.html``: one page that needs nothing from outside, with the records' figures and nothing else."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import aethernet.release.report
from aethernet.errors import BundleError
from aethernet.images.files import save_image
from aethernet.release.bundle import open_bundle
from aethernet.release.manifest import PartFacts, PartSpeed, QuantizationFacts, SensitivityFacts
from aethernet.release.report import Piece, render_report
from aethernet.release.report.charts import Point, bars, scatter
from tests.support.images import natural_image


@pytest.fixture
def page(finished_release: Path) -> str:
    return (finished_release / "report.html").read_text(encoding="utf-8")


def pieces_of(page: str) -> list[dict]:
    found = re.search(r'<script type="application/json" id="pieces">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return list(json.loads(found[1]))


def test_it_asks_for_nothing_from_outside(page: str) -> None:
    without_data = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", page)

    assert "default-src 'none'" in page
    assert re.findall(r"https?://|//[a-z]|@import|<link|url\(", without_data) == []
    assert all(value.startswith("#") for value in re.findall(r'(?:href|src)="([^"]*)"', without_data))


def test_its_figures_are_the_manifests(page: str, finished_release: Path) -> None:
    bundle = open_bundle(finished_release)

    released = [form.precision for form in bundle.manifest.forms if form.status == "released"]
    for entry in bundle.manifest.quality:
        if entry.precision not in (None, *released):
            continue
        assert f"<td>{entry.psnr_rgb:.2f}</td><td>{entry.ssim_rgb:.4f}</td>" in page
    for speed in bundle.build.speed.speeds:
        assert f"<td>{speed.median_ms:.1f}</td>" in page
    for entry in bundle.manifest.files:
        if entry.role in ("onnx", "weights"):
            assert f"<td>{entry.path}</td>" in page
            assert entry.sha256[:16] in page
    assert not [word for word in ("None", "nan", "Undefined") if re.search(rf">\s*{word}\b", page)]


def test_images_are_what_released_files_make(page: str, finished_release: Path) -> None:
    found = pieces_of(page)

    assert [piece["name"] for piece in found] == ["cat_eye", "coffee_spoon"]
    for piece in found:
        assert [one["caption"] for one in piece["versions"]] == ["nearest", "bicubic", "fp32", "original"]
        assert {(one["width"], one["height"]) for one in piece["versions"]} == {(128, 128)}


def test_images_are_kept_without_loss(finished_release: Path, tmp_path: Path) -> None:
    bundle = open_bundle(finished_release)
    save_image(natural_image(33, 47).numpy(), tmp_path / "image.png")

    page = render_report(bundle.manifest, bundle.build, [Piece(name="a", versions=[("fp32", tmp_path / "image.png")])])

    ((version,),) = (piece["versions"] for piece in pieces_of(page))
    data = base64.b64decode(version["data"].partition(",")[2])
    with Image.open(io.BytesIO(data)) as found, Image.open(tmp_path / "image.png") as wanted:
        assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(wanted.convert("RGB")))


def test_words_from_outside_cannot_become_markup(finished_release: Path, tmp_path: Path) -> None:
    bundle = open_bundle(finished_release)
    evil = "</script><script>alert(1)</script>"
    save_image(natural_image(16, 16).numpy(), tmp_path / "image.png")
    quality = tuple(item.model_copy(update={"image": evil}) for item in bundle.manifest.quality)
    manifest = bundle.manifest.model_copy(update={"description": evil, "license": evil, "quality": quality})

    page = render_report(manifest, bundle.build, [Piece(name=evil, versions=[(evil, tmp_path / "image.png")])])

    assert "<script>alert" not in page
    assert page.count("<script") == 2
    assert pieces_of(page)[0]["name"] == evil


def test_a_page_to_try_it_is_linked_where_there_is_one(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)
    manifest = bundle.manifest.model_copy(update={"page": "https://example.org/tiny_2x/"})

    assert '<a href="https://example.org/tiny_2x/">Try it' in render_report(manifest, bundle.build, [])
    assert "Try it" not in render_report(bundle.manifest, bundle.build, [])


def test_a_release_without_images_and_quality_has_a_page_too(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)
    manifest = bundle.manifest.model_copy(update={"quality": (), "authors": (), "description": ""})

    page = render_report(manifest, bundle.build, [])

    assert "<script" not in page
    assert 'id="quality"' not in page
    assert "not stated" in page


def test_sensitivity_is_drawn_where_it_was_measured(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)
    costs = {"body": (50.0, False), "head": (47.0, True), "tail": (None, False)}
    parts = tuple(
        PartFacts(name=name, psnr=psnr, snr=psnr, channel_shift=0.0, work=0.3, kept_float=kept)
        for name, (psnr, kept) in costs.items()
    )
    facts = SensitivityFacts(budget=48.0, expected_psnr=49.0, parts=parts)
    quantization = QuantizationFacts(
        origin="pictures", method="best", images=("a",), keep_float=("head",), tensors=(), sensitivity=facts
    )
    manifest = bundle.manifest.model_copy(update={"quantization": quantization})
    build = bundle.build.model_copy(update={"parts": (PartSpeed(name="body", fp32_ms=3.0, int8_ms=1.0),)})

    page = render_report(manifest, build, [])

    section = page.partition('id="sensitivity"')[2].partition("</section>")[0]
    body, head, tail = (float(width) for width in re.findall(r'width="([\d.]+)" height="14"', section))
    assert head == pytest.approx(body * 10**0.3, rel=1e-2)
    assert tail == 1
    assert "50.0 dB, +2.0 ms saved<" in section
    assert "47.0 dB (stays float)" in section
    assert "keeps 48.0 dB" in section
    assert 'id="sensitivity"' not in render_report(bundle.manifest, build, [])


def test_rendering_again_gives_the_same_page(finished_release: Path, tmp_path: Path) -> None:
    bundle = open_bundle(finished_release)
    draft = bundle.build.model_copy(update={"digests": {}, "checksum": ""})

    assert render_report(bundle.manifest, draft, []) == render_report(bundle.manifest, bundle.build, [])


def test_a_template_that_asks_for_more_than_is_recorded_is_an_error(
    finished_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(finished_release)
    (tmp_path / "page.html.jinja").write_text("{{ release.nonsense }}", encoding="utf-8")
    monkeypatch.setattr(aethernet.release.report.resources, "files", lambda _: tmp_path)

    with pytest.raises(BundleError, match="nonsense"):
        render_report(bundle.manifest, bundle.build, [])


POINTS = [
    Point(x=100, low=90, high=130, y=30.001, label="slow"),
    Point(x=10, low=9, high=12, y=30.0, label="fast <b>"),
    Point(x=11, low=9, high=12, y=28.0, label="bad"),
]


def test_points_stand_where_their_values_are() -> None:
    drawn = str(scatter(POINTS, "ms", "dB", (27.0, "bicubic")))
    places = {
        label: (float(x), float(y))
        for (x, y), label in zip(
            re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn),
            re.findall(r'r="5"/><text[^>]*>([^<]*)</text>', drawn),
            strict=True,
        )
    }

    assert places["fast &lt;b&gt;"][0] < places["bad"][0] < places["slow"][0]
    assert places["bad"][1] > places["slow"][1]
    assert "<b>" not in drawn


def test_labels_do_not_cover_each_other() -> None:
    many = [Point(x=10 + one, low=9, high=30, y=30.0, label=f"form {one}") for one in range(9)]
    drawn = str(scatter(many, "ms", "dB", None))

    heights = [float(y) for y in re.findall(r'r="5"/><text x="[\d.]+" y="([\d.]+)"', drawn)]

    assert len(heights) == 9
    assert all(after - before >= 16.9 for before, after in itertools.pairwise(heights))
    assert min(heights) > 0


def test_bars_are_as_long_as_their_values() -> None:
    drawn = str(bars([("one", 2.0, "a", False), ("two", 1.0, "b", True)], "error"))

    first, second = (float(width) for width in re.findall(r'width="([\d.]+)"', drawn))
    assert first == pytest.approx(2 * second)
    assert drawn.count('class="muted"') == 1
