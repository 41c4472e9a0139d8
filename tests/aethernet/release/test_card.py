"""The model card: figures from the records, nothing else, no holes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id
from PIL import Image

import aethernet.release.card
from aethernet.engines.backends import Backend
from aethernet.engines.identity import read_record
from aethernet.errors import BundleError
from aethernet.precision import Precision
from aethernet.release.bundle import open_bundle
from aethernet.release.card import render_card
from aethernet.release.manifest import EngineEntry
from aethernet.release.summary import mean_quality, quality_rows
from tests.support.engines import paper_engine
from tests.support.releases import flip_byte
from tests.support.snippets import Block, code_blocks, run_block


def test_the_hub_reads_its_metadata(finished_release: Path) -> None:
    card = ModelCard((finished_release / "README.md").read_text(encoding="utf-8"))

    assert card.data.pipeline_tag == "image-to-image"
    assert card.data.license == "cc0-1.0"
    assert "license_name" not in card.data.to_dict()
    assert {result.metric_type for result in card.data.eval_results} == {"psnr", "ssim"}
    assert yaml.safe_load(card.data.to_yaml())["model-index"][0]["name"] == "tiny_2x"


def test_its_figures_are_the_manifests(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)
    text = (finished_release / "README.md").read_text(encoding="utf-8")

    released = [form.precision for form in bundle.manifest.forms if form.status == "released"]
    for entry in bundle.manifest.quality:
        if entry.precision not in (None, *released):
            continue
        assert f"| {entry.image} | {entry.psnr_rgb:.2f} dB | {entry.ssim_rgb:.4f} |" in text
    for row in quality_rows(bundle.manifest):
        assert f"| {row['label']} | {row['image']} | {row['quality'].psnr_rgb:.2f} dB |" in text
    for form, means in mean_quality(bundle.manifest).items():
        name = {"reference": "trained network", "bicubic": "bicubic"}.get(form, f"`{form}`")
        runtimes = [item.form.runtime for item in bundle.manifest.measurements if item.form.file == form]
        line = f"| {means['psnr_rgb']:.2f} dB | {means['ssim_rgb']:.4f} | {means['psnr_y']:.2f} dB |"
        assert form.endswith(".pth") or any(
            f"| {name} | {runtime} {line}" in text for runtime in (*runtimes, "Pillow", "pytorch-cpu")
        )
    for speed in bundle.build.speed.speeds:
        assert f"| {speed.median_ms:.1f} ms |" in text


def test_a_page_to_try_it_is_named_where_there_is_one(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)
    address = "https://huggingface.co/spaces/org/tiny_2x"
    manifest = bundle.manifest.model_copy(update={"page": address})

    assert f"**[Try it in your browser](<{address}>)**" in render_card(manifest, bundle.build)
    assert "Try it" not in render_card(bundle.manifest, bundle.build)


def test_it_prints_no_holes(finished_release: Path) -> None:
    text = (finished_release / "README.md").read_text(encoding="utf-8")

    assert not [word for word in ("None", "nan", "Undefined", "{{", "{%") if word in text.split()]


def test_text_from_a_spec_cannot_break_a_table(finished_release: Path) -> None:
    text = (finished_release / "README.md").read_text(encoding="utf-8")

    assert "| authors | A. Tester, B \\| C |" in text


def test_names_from_outside_cannot_break_a_table(finished_release: Path) -> None:
    bundle = open_bundle(finished_release)
    quality = tuple(item.model_copy(update={"image": "a|b\nc"}) for item in bundle.manifest.quality)
    manifest = bundle.manifest.model_copy(update={"license": "MIT |\nor not", "quality": quality})

    text = render_card(manifest, bundle.build)

    assert "| licence of the weights | MIT \\| or not |" in text
    assert text.count("| a\\|b c |") == len(quality_rows(manifest))
    assert (ModelCard(text).data.license, ModelCard(text).data.license_name) == ("other", "MIT \\| or not")


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
    draft = bundle.build.model_copy(update={"digests": {}, "checksum": ""})

    assert render_card(bundle.manifest, draft) == (finished_release / "README.md").read_text(encoding="utf-8")


def test_a_template_that_asks_for_more_than_is_recorded_is_an_error(
    finished_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(finished_release)
    (tmp_path / "template.md.jinja").write_text("{{ release.nonsense }}", encoding="utf-8")
    monkeypatch.setattr(aethernet.release.card.resources, "files", lambda _: tmp_path)

    with pytest.raises(BundleError, match="nonsense"):
        render_card(bundle.manifest, bundle.build)


@pytest.mark.parametrize(
    ("license_name", "stated"),
    [("Apache-2.0", "apache-2.0"), ("GPL-3.0-only", "gpl-3.0"), ("unknown", "unknown"), ("LicenseRef-Mine", "other")],
)
def test_licences_are_spelled_as_the_hub_does(finished_release: Path, license_name: str, stated: str) -> None:
    bundle = open_bundle(finished_release)

    card = ModelCard(render_card(bundle.manifest.model_copy(update={"license": license_name}), bundle.build))

    assert card.data.license == stated
    assert card.data.to_dict().get("license_name") == ("LicenseRef-Mine" if stated == "other" else None)


def test_the_hubs_own_rules_for_a_card_hold(finished_release: Path) -> None:
    """What its client checks before it sends anything, and that nothing is lost on the way there and back."""
    card = ModelCard((finished_release / "README.md").read_text(encoding="utf-8"))
    data = card.data.to_dict()

    validate_repo_id(f"somebody/{data['model-index'][0]['name']}")
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == card.data.model_name
    assert len(results) == len(card.data.eval_results)
    assert eval_results_to_model_index(name, results) == data["model-index"]
    assert data["library_name"] == "aethernet"
    assert {"super-resolution", "onnx"} <= set(data["tags"])
    with pytest.raises(HFValidationError):
        validate_repo_id("somebody/not--a--name")


def test_every_snippet_runs_as_it_stands(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(release)
    text = (release / "README.md").read_text(encoding="utf-8")
    blocks = [block for block in code_blocks(text) if not block.text.startswith("# ")]  # those of other tools

    # From the last to the first: verified while nothing else lies in the folder.
    _, _, torch, upscaler, _, onnx = (run_block(block) for block in reversed(blocks))

    assert [block.language for block in blocks] == ["python", "sh", "python", "python", "sh", "python"]
    assert torch["output"].shape == (1, 3, 128, 128)
    assert onnx["levels"].shape == upscaler["larger"].shape
    assert np.abs(onnx["levels"].astype(int) - upscaler["larger"]).max() <= 1
    with Image.open("upscaled.png") as made, Image.open("images/check_output.png") as wanted:
        assert made.size == wanted.size


def test_a_snippet_that_fails_is_noticed(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(release)
    *_, digests = code_blocks((release / "README.md").read_text(encoding="utf-8"))
    flip_byte(release / "tiny_2x_fp16.onnx")

    with pytest.raises(AssertionError, match=r"tiny_2x_fp16\.onnx"):
        run_block(digests)
    with pytest.raises(AssertionError, match="exit code 1"):
        run_block(Block(language="sh", text="aethernet verify ."))


def test_its_guide_names_files_that_there_are(finished_release: Path) -> None:
    text = (finished_release / "README.md").read_text(encoding="utf-8")
    guide = text.partition("| you have | take |")[2].partition("All files:")[0]

    named = re.findall(r"`([^`]+\.[a-z0-9]+)`", guide)

    assert len(named) >= 4
    assert all((finished_release / name).is_file() for name in named)


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
