"""Whether a written file computes what the model does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune._export.agreement import compare, difference, resized, variants
from autoprune.cost.inputs import Inputs
from autoprune.errors import ExportError


@pytest.mark.parametrize(
    ("expected", "found", "off"),
    [
        ([2.0, 4.0], [2.0, 3.0], 0.25),
        ([0.0, 0.0], [0.0, 0.5], 0.5),
        ([1.0, float("nan")], [1.0, float("nan")], 0.0),
        ([1.0, float("nan")], [1.0, 1.0], float("inf")),
        ([1.0, float("inf")], [1.0, float("-inf")], float("inf")),
    ],
)
def test_difference_is_relative_and_knows_non_finite_values(expected, found, off):
    assert difference(torch.tensor(expected), torch.tensor(found)) == off


def test_random_inputs_stay_within_the_example(tmp_path):
    tokens = torch.tensor([[2, 5, 3]])
    for trial in variants({"t": tokens, "m": torch.tensor([True, False])}, False, 0):
        assert trial["t"].dtype == torch.int64
        assert 2 <= int(trial["t"].min()) <= int(trial["t"].max()) <= 5
        assert trial["m"].dtype == torch.bool


VALUES = st.lists(st.floats(0.5, 1e6), min_size=1, max_size=8)


@given(VALUES, st.floats(0.01, 100.0))
def test_a_difference_does_not_depend_on_the_scale(values: list[float], scale: float) -> None:
    ours = torch.tensor(values, dtype=torch.float64)
    theirs = ours + torch.linspace(0, 1, len(values), dtype=torch.float64)
    assert difference(ours, ours) == 0.0
    expected = pytest.approx(difference(ours, theirs), rel=1e-6)
    assert difference(scale * ours, scale * theirs) == expected


def test_nothing_differs_from_nothing() -> None:
    assert difference(torch.empty(0), torch.empty(0)) == 0.0
    infinite = torch.tensor([float("nan"), float("inf")])
    assert difference(infinite, infinite) == 0.0


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


ONES = torch.ones(2, 3)


def off_by(amount: float):
    def run(inputs: Inputs) -> list[Tensor]:
        return [2 * inputs + amount]

    return run


def test_the_largest_difference_of_all_trials_is_given_back() -> None:
    # 0.0001 of 2 and of 200
    found = compare(Double(), off_by(1e-4), [ONES, 100 * ONES], "m.onnx")
    assert found == pytest.approx(5e-5, rel=1e-2)


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (
            off_by(0.002),
            "m.onnx must agree with the model within 0.0001 of the largest output, got 0.001 on "
            "inputs 2x3 · nothing was written",
        ),
        (
            off_by(float("nan")),
            "m.onnx must agree with the model within 0.0001 of the largest output, got inf on "
            "inputs 2x3 · nothing was written",
        ),
        (
            lambda inputs: [inputs[:1]],
            "m.onnx must give outputs of shapes 2x3, got 1x3",
        ),
        (lambda inputs: [], "m.onnx must give outputs of shapes 2x3, got "),
        (
            lambda inputs: [ONES, torch.tensor(1.0)],
            "m.onnx must give outputs of shapes 2x3, got 2x3, scalar",
        ),
    ],
)
def test_a_file_that_does_not_agree_is_refused(run, says: str) -> None:
    with pytest.raises(ExportError) as caught:
        compare(Double(), run, [ONES], "m.onnx")
    assert str(caught.value) == says


def test_a_file_that_does_not_run_says_on_which_inputs() -> None:
    def run(inputs: Inputs) -> list[Tensor]:
        raise RuntimeError("no kernel\nfor this")

    with pytest.raises(ExportError) as caught:
        compare(Double(), run, [(ONES,)], "m.onnx")
    assert str(caught.value) == "m.onnx was written but does not run on inputs 2x3: no kernel"


def test_a_model_in_half_precision_may_differ_more() -> None:
    half = ONES.half()
    assert compare(Double(), off_by(0.01), [half], "m") == pytest.approx(0.005, rel=0.1)
    with pytest.raises(ExportError, match=r"within 0\.01 of the largest output, got 0\.0[45]"):
        compare(Double(), off_by(0.1), [half], "m")


def test_the_first_trial_is_the_example_and_the_seed_says_the_others() -> None:
    trials = variants(ONES, False, seed=3)
    assert len(trials) == 4
    assert trials[0] is ONES
    again = variants(ONES, False, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(trials, again, strict=True))
    assert not torch.equal(trials[1], variants(ONES, False, seed=4)[1])


def test_random_floats_are_like_the_example() -> None:
    example = 5.0 + 0.1 * torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    _, other, *_ = variants(example, False, 0)
    assert other.shape == example.shape
    assert float(other.mean()) == pytest.approx(5.0, abs=0.02)
    assert float(other.std()) == pytest.approx(0.1, rel=0.1)
    assert variants(torch.zeros(1, 3).double(), False, 0)[1].dtype == torch.float64


def test_what_is_no_number_stays() -> None:
    inputs = {"x": ONES, "flag": True, "c": torch.tensor([1j]), "none": torch.empty(0, 3)}
    for trial in variants(inputs, False, 0):
        assert trial["flag"] is True
        assert trial["c"] is inputs["c"]
        assert trial["none"] is inputs["none"]


def test_with_a_free_batch_other_sizes_are_tried_too() -> None:
    trials = variants((ONES, torch.tensor(3)), True, 0)
    assert [trial[0].shape[0] for trial in trials] == [2, 2, 2, 2, 1, 3]
    assert {trial[1].dim() for trial in trials} == {0}


@given(rows=st.integers(1, 5), batch=st.integers(1, 12))
def test_another_batch_repeats_the_rows_in_turn(rows: int, batch: int) -> None:
    example = torch.arange(2 * rows).reshape(rows, 2)
    found = resized({"x": example}, batch)["x"]
    assert found.tolist() == [example[k % rows].tolist() for k in range(batch)]
