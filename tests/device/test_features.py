"""Features of latency: work and traffic, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chains import chain

from autoprune.device.features import LEAST, TOTALS, LatencyFeatures


def test_features_are_one_for_the_dense_model_and_count_work_by_hand():
    graph = chain((16, 8))
    features = LatencyFeatures(graph)
    names = features.names
    dense = dict(zip(names, features.of(features.row({}))[0], strict=True))
    assert {name: value for name, value in dense.items() if " off " not in name} == {
        name: 1.0 for name in names if " off " not in name
    }
    assert {value for name, value in dense.items() if " off " in name} == {0.0}
    assert len(names) == len(set(names))
    row = dict(zip(names, features.of(features.row({"layer0": 9}))[0], strict=True))
    assert row["layer1: macs"] == pytest.approx(9 / 16)
    assert row["layer1: macs in blocks of 8"] == pytest.approx(16 / 16)  # 9 channels fill two
    assert row["layer1: weights"] == pytest.approx(9 / 16)
    # the largest known is the layer with 15 and 7 channels; the 8 channels out are on every step
    assert row["layer1: macs with channels in off 4"] == pytest.approx(9 * 8 / (15 * 7))
    assert row["layer1: macs with channels out off 4"] == 0.0
    assert row["layer0: macs with channels out off 8"] == pytest.approx(9 / 15)
    assert row["layer1: bytes in"] == pytest.approx(9 / 16)
    # what this group does not change: the last layer
    assert row["layer2: macs"] == 1.0
    # relu reads and writes, views move nothing: 2 x (9 + 8 + 10) of 2 x (16 + 8 + 10)
    assert row["all other: bytes"] == pytest.approx(27 / 34)
    assert "layer0: bytes in" not in names  # the image's size never changes


def test_shared_features_are_named_all_and_the_last_is_the_constant():
    features = LatencyFeatures(chain((16, 8)))
    assert features.shared.tolist() == [name.startswith("all ") for name in features.names]
    assert features.names[-1] == "all constant"
    assert features.of(features.row({"layer0": 3}))[0, -1] == 1.0


def test_rows_that_are_not_named_are_unpruned():
    features = LatencyFeatures(chain((16, 8)))
    assert features.row({}).tolist() == [[16, 8]]
    assert features.row({"layer1": 3}).tolist() == [[16, 3]]


def test_many_candidates_are_each_by_itself_and_none_is_negative():
    features = LatencyFeatures(chain((16, 8)))
    counts = np.array([[16, 8], [1, 1], [5, 7], [9, 2]])
    every = features.of(counts)
    assert (every >= 0.0).all()
    for row, count in zip(every, counts, strict=True):
        assert row.tolist() == features.of(count[None])[0].tolist()


def test_a_contractions_part_is_its_own_features_and_its_share_of_the_shared():
    graph = chain((16, 8))
    features = LatencyFeatures(graph)
    counts = np.array([[16, 8], [5, 7]])
    alone = np.array([name == "layer1: macs" for name in features.names], dtype=float)
    parts = features.by_contraction(counts, alone)
    assert features.contractions == ["layer0", "layer1", "layer2"]
    assert parts.tolist() == [[0.0, pytest.approx(1.0), 0.0], [0.0, pytest.approx(35 / 128), 0.0]]
    (kind,) = {n.partition(":")[0] for n in features.names if n.endswith(": macs") and "all" in n}
    shared = np.array([name == f"{kind}: macs" for name in features.names], dtype=float)
    macs = np.array([[32 * 16, 16 * 8, 8 * 10], [32 * 5, 5 * 7, 7 * 10]])
    expected = macs / macs[0].sum()
    assert features.by_contraction(counts, shared) == pytest.approx(expected)


def test_parts_add_up_to_the_whole_less_what_is_of_none():
    features = LatencyFeatures(chain((16, 8)))
    counts = np.array([[16, 8], [5, 7], [1, 2]])
    coefficients = np.random.default_rng(0).uniform(0.0, 1.0, len(features.names))
    of_none = np.array(
        [
            name in ("all other: bytes", "all other: calls", "all constant")
            for name in features.names
        ]
    )
    rest = features.of(counts)[:, of_none] @ coefficients[of_none]
    parts = features.by_contraction(counts, coefficients).sum(axis=1)
    assert parts + rest == pytest.approx(features.of(counts) @ coefficients)


def test_a_layer_with_several_products_is_numbered():
    graph = chain((16, 8))
    ops = [replace(op, layer="all") if op.macs else op for op in graph.ops]
    assert LatencyFeatures(replace(graph, ops=tuple(ops))).contractions == [
        "all",
        "all #2",
        "all #3",
    ]


def test_blocks_and_steps_may_be_others():
    features = LatencyFeatures(chain((16, 8)), blocks=(5,), steps=())
    names = {name.partition(": ")[2] for name in features.names}
    assert "macs in blocks of 5" in names
    assert not any("off" in name or "blocks of 8" in name for name in names)
    row = dict(zip(features.names, features.of(features.row({"layer0": 6}))[0], strict=True))
    # 6 channels fill two blocks of 5, 16 four: and the 8 after them two
    assert row["layer1: macs in blocks of 5"] == pytest.approx((10 * 10) / (20 * 10))


def test_totals_are_sums_over_the_model_relative_to_the_dense_one():
    """Of chain((16, 8)), whose last layer has 10 channels out of 8."""
    features = LatencyFeatures(chain((16, 8)))
    counts = np.concatenate([features.row({}), features.row({"layer0": 9})])
    x, totals = features.with_totals(counts)
    assert x.tolist() == features.of(counts).tolist()
    assert totals[0].tolist() == [1.0] * len(TOTALS)
    found = dict(zip(TOTALS, totals[1], strict=True))
    assert found["macs"] == pytest.approx((32 * 9 + 9 * 8 + 80) / (32 * 16 + 16 * 8 + 80))
    assert found["bytes in"] == pytest.approx((32 + 9 + 8) / (32 + 16 + 8))
    assert found["bytes out"] == pytest.approx((9 + 8 + 10) / (16 + 8 + 10))
    assert found["other bytes"] == pytest.approx(27 / 34)
    assert found["calls"] == found["other calls"] == 1.0


def test_a_total_that_is_gone_still_has_a_logarithm():
    features = LatencyFeatures(chain((16, 8)))
    totals = features.with_totals(np.zeros((1, 2), dtype=np.int64))[1]
    assert totals.min() >= LEAST
    assert np.isfinite(np.log(totals)).all()
