"""The stage that chooses which parts stay float."""

from __future__ import annotations

from pathlib import Path

import pytest

from aethernet.artifact import Artifact
from aethernet.checkpoint import save_safetensors
from aethernet.errors import SpecError
from aethernet.images.files import list_pictures
from aethernet.networks.fusion import fuse
from aethernet.release.spec import QuantizationSpec, make_spec
from aethernet.store.store import Store
from tasks.fetch import ValidationImage
from tasks.sensitivity import FloatParts, sensitivity
from tests.support.networks import tiny_network
from tests.support.releases import small_pictures

pytestmark = pytest.mark.slow  # every part is timed


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact, list[ValidationImage]]:
    folder = tmp_path_factory.mktemp("sensitivity")
    store = Store(folder / "store")
    fused = store.put(save_safetensors(fuse(tiny_network(2, depths=(1,))), folder / "fused.safetensors"))
    pictures = [
        ValidationImage(name=path.stem, low=store.put(path), high=None)
        for path in list_pictures(small_pictures(folder / "low"))
    ]
    return store, fused, pictures


@pytest.fixture(scope="module")
def chosen(inputs: tuple[Store, Artifact, list[ValidationImage]]) -> FloatParts:
    store, fused, pictures = inputs
    return sensitivity.fn(store, fused, None, fused, pictures, QuantizationSpec(budget_db=40))


def test_the_choice_is_a_spec_with_the_parts_chosen(chosen: FloatParts) -> None:
    assert chosen.reason is None
    assert chosen.facts is not None
    assert chosen.spec.keep_float == tuple(part.name for part in chosen.facts.parts if part.kept_float)
    assert chosen.spec.budget_db == chosen.facts.budget == 40
    assert [one.name for one in chosen.speeds] == [part.name for part in chosen.facts.parts]
    assert chosen.chart is not None


def test_the_same_inputs_give_the_same_choice_and_the_same_chart(
    chosen: FloatParts, inputs: tuple[Store, Artifact, list[ValidationImage]]
) -> None:
    store, fused, pictures = inputs

    again = sensitivity.fn(store, fused, None, fused, pictures, QuantizationSpec(budget_db=40))

    assert (again.facts, again.spec, again.chart) == (chosen.facts, chosen.spec, chosen.chart)


def test_a_budget_out_of_reach_is_a_reason(inputs: tuple[Store, Artifact, list[ValidationImage]]) -> None:
    store, fused, pictures = inputs

    choice = sensitivity.fn(store, fused, None, fused, pictures, QuantizationSpec(budget_db=100))

    assert choice.facts is None
    assert "within 100 dB" in (choice.reason or "")
    assert "budget_db" in (choice.reason or "")


def test_without_pictures_or_records_there_is_a_reason(inputs: tuple[Store, Artifact, list[ValidationImage]]) -> None:
    store, fused, _ = inputs

    choice = sensitivity.fn(store, fused, None, fused, [], QuantizationSpec(budget_db=40))

    assert "found neither" in (choice.reason or "")


def test_a_budget_is_a_positive_number(tmp_path: Path) -> None:
    spec = {"name": "a", "checkpoint": str(tmp_path / "a.pth")}

    assert make_spec({**spec, "quantization": {"budget_db": 46}}).quantization.budget_db == 46
    with pytest.raises(SpecError, match="budget_db"):
        make_spec({**spec, "quantization": {"budget_db": -1}})
