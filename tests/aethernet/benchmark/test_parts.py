"""Which part a kernel's time goes to; never how long it takes."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from aethernet.benchmark.parts import owners, time_units
from aethernet.networks import AetherNet
from aethernet.quantization.post_training import calibrate
from aethernet.quantization.sensitivity import UnitTimes
from aethernet.quantization.structure import units_of
from tests.support.quantization import calibration_pictures, fused_network


def chain(*nodes: tuple[str, str]) -> list[onnx.NodeProto]:
    """Operators one after the other, each reading the one before; (operator, name)."""
    names = ["input", *(name for _, name in nodes)]
    return [helper.make_node(kind, [names[index]], [name], name=name) for index, (kind, name) in enumerate(nodes)]


def test_marked_nodes_and_what_lies_between_them_belong_to_their_unit() -> None:
    nodes = chain(("Conv", "a@first"), ("Sigmoid", "plain"), ("Conv", "a@last"), ("Relu", "after"), ("Conv", "b@one"))

    assert owners(nodes, ["a", "b"]) == {
        "a@first": "a",
        "plain": "a",
        "a@last": "a",
        "after": None,
        "b@one": "b",
    }


def test_what_only_changes_layout_or_type_goes_to_its_neighbour() -> None:
    nodes = chain(
        ("LayerNormalization", "norm"),
        ("QuantizeLinear", "q"),
        ("Transpose", "t"),
        ("QLinearConv", "a@conv"),
        ("ReorderOutput", "r"),
        ("Add", "sum"),
        ("Transpose", "far"),
        ("Softmax", "end"),
    )

    found = owners(nodes, ["a"])

    assert [name for name, unit in found.items() if unit == "a"] == ["q", "t", "a@conv", "r"]


def test_a_mark_on_an_output_counts_where_a_merged_node_has_a_new_name() -> None:
    node = helper.make_node("BiasGelu", ["x"], ["a@gelu"], name="BiasGelu_7")

    assert owners([node], ["a"]) == {"BiasGelu_7": "a"}


def test_without_marks_nothing_belongs_anywhere() -> None:
    nodes = chain(("Conv", "one"), ("Transpose", "two"), ("Conv", "three"))

    assert set(owners(nodes, ["one", "a"]).values()) == {None}


@pytest.fixture(scope="module")
def network() -> AetherNet:
    return fused_network(2, depths=(1,))


@pytest.fixture(scope="module")
def timed(network: AetherNet) -> UnitTimes:
    ready = calibrate(network, pictures=calibration_pictures(1))
    return time_units(network, ready.network, calibration_pictures(1, 24)[0], runs=2, threads=1)


@pytest.mark.slow
def test_every_part_takes_time_in_both_graphs(timed: UnitTimes, network: AetherNet) -> None:
    assert list(timed.units) == units_of(network)
    assert all(min(pair) > 0 for pair in timed.units.values())
    assert min(timed.elsewhere) > 0
    assert (timed.shape, timed.runs) == ((1, 3, 24, 24), 2)


@pytest.mark.slow
def test_parts_and_the_rest_make_up_the_whole(timed: UnitTimes) -> None:
    for place in (0, 1):
        parts = sum(pair[place] for pair in timed.units.values()) + timed.elsewhere[place]

        assert parts == pytest.approx(timed.total[place])
