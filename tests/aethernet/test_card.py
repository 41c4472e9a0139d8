"""The model card: figures from the records, nothing else, no holes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import aethernet.card
from aethernet.bundle import open_bundle
from aethernet.card import render_card
from aethernet.engine import Backend, read_record
from aethernet.errors import BundleError
from aethernet.manifest import EngineEntry
from aethernet.precision import Precision
from tests.support.engines import paper_engine


def test_the_hub_reads_its_metadata(finished_release: Path) -> None:
    card = ModelCard((finished_release / "README.md").read_text(encoding="utf-8"))

    assert card.data.pipeline_tag == "image-to-image"
    assert card.data.license == "cc0-1.0"
    assert {result.metric_type for result in card.data.eval_results} == {"psnr", "ssim"}
    assert yaml.safe_load(card.data.to_yaml())["model-index"][0]["name"] == "tiny_2x"


def test_its_figures_are_the_manifests(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)
    text = (finished_release / "README.md").read_text(encoding="utf-8")

    for entry in bundle.manifest.quality:
        assert f"| {entry.form} | {entry.picture} | {entry.psnr_rgb:.2f} dB | {entry.ssim_rgb:.4f} |" in text
    for speed in bundle.build.speed.speeds:
        assert f"| {speed.median_ms:.1f} ms |" in text


def test_it_prints_no_holes(finished_release: Path) -> None:
    text = (finished_release / "README.md").read_text(encoding="utf-8")

    assert not [word for word in ("None", "nan", "Undefined", "{{", "{%") if word in text.split()]


def test_text_from_a_spec_cannot_break_a_table(finished_release: Path) -> None:
    text = (finished_release / "README.md").read_text(encoding="utf-8")

    assert "| authors | A. Tester, B \\| C |" in text


def test_names_from_outside_cannot_break_a_table(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)
    quality = tuple(item.model_copy(update={"picture": "a|b\nc"}) for item in bundle.manifest.quality)
    manifest = bundle.manifest.model_copy(update={"license": "MIT |\nor not", "quality": quality})

    text = render_card(manifest, bundle.build)

    assert "| licence of the weights | MIT \\| or not |" in text
    assert text.count("| a\\|b c |") == len(quality)
    assert ModelCard(text).data.license == "mit |\nor not"


def test_every_file_it_names_exists(finished_release: Path) -> None:
    manifest = open_bundle(finished_release).manifest
    text = (finished_release / "README.md").read_text(encoding="utf-8")

    for entry in manifest.files:
        if entry.role in ("onnx", "weights"):
            assert f"`{entry.path}`" in text


def test_skipped_forms_are_named_with_their_reason(finished_release: Path) -> None:
    skipped = [form for form in open_bundle(finished_release).manifest.forms if form.status == "skipped"]
    text = (finished_release / "README.md").read_text(encoding="utf-8")

    assert skipped
    assert all(f"**{form.precision.value} is not part of this release:**" in text for form in skipped)


def test_rendering_again_gives_the_same_card(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)
    draft = bundle.build.model_copy(update={"digests": {}, "seal": ""})

    assert render_card(bundle.manifest, draft) == (finished_release / "README.md").read_text(encoding="utf-8")


def test_a_template_that_asks_for_more_than_is_recorded_is_an_error(
    finished_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(finished_release)
    (tmp_path / "template.md.jinja").write_text("{{ release.nonsense }}", encoding="utf-8")
    monkeypatch.setattr(aethernet.card.resources, "files", lambda _: tmp_path)

    with pytest.raises(BundleError, match="nonsense"):
        render_card(bundle.manifest, bundle.build)


def test_its_python_snippet_upscales_the_check_picture(release: Path) -> None:
    text = (release / "README.md").read_text(encoding="utf-8")
    snippet = text.split("```python\n")[1].split("```")[0]

    subprocess.run([sys.executable, "-c", snippet], cwd=release, check=True)

    with Image.open(release / "upscaled.png") as made, Image.open(release / "images" / "check_output.png") as wanted:
        assert made.size == wanted.size


def test_engines_are_listed_with_what_was_counted_and_how_to_build_them(finished_release: Path, tmp_path: Path) -> None:
    bundle = open_bundle(finished_release)
    engine = paper_engine(tmp_path / "engines", adjustments=("a change | of spelling",))
    record = read_record(engine).model_copy(
        update={"findings": ("the network has 2 int8 layers, the built engine none",)}
    )
    entries = (
        EngineEntry(
            precision=Precision.FP16,
            backend=Backend.TENSORRT_RTX,
            status="built, not executed",
            file=f"engines/{engine.name}",
            record=record,
        ),
        EngineEntry(precision=Precision.INT8, backend=Backend.TENSORRT, status="skipped", reason="no GPU"),
    )

    text = render_card(bundle.manifest.model_copy(update={"engines": entries}), bundle.build)

    row = next(line for line in text.splitlines() if line.startswith(f"| `{engine.name}` | 0.3 kB | 8.6, 8.9 |"))
    assert "| 1x16x16 to 1x640x640, best 1x512x512 | 1.05 MB | 2 in fp16 | no, there was no GPU for it |" in row
    assert f"- `engines/{engine.name}`: the network has 2 int8 layers, the built engine none." in text
    assert "was built with a change \\| of spelling." in text
    assert "- There is no TensorRT engine of int8: no GPU" in text
    assert "trtexec --onnx=net_fp16.onnx" in text
    assert "--stronglyTyped" in text
    assert "TensorRT engines" not in (finished_release / "README.md").read_text(encoding="utf-8")
