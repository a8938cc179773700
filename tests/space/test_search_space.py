"""The space of a search as it is written: what is read, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.errors import ConfigError
from autoprune.space import SearchSpace, kept_units


@pytest.mark.parametrize(
    ("size", "ratio", "round_to", "kept"),
    [
        (64, 0.5, 8, 32),
        (64, 0.55, 8, 32),  # 28.8 is nearer to 32 than to 24
        (64, 0.5625, 8, 32),  # 28 lies between 24 and 32: ties keep more
        (64, 0.0, 8, 64),
        (64, 0.99, 8, 8),
        (10, 0.0, 4, 10),  # the step is 2: 10 // 4
        (11, 0.05, 2, 10),  # 10.45 is nearer to 10 than to 11
        (16, 0.5, 64, 8),  # a group of 16 keeps four choices: step 4
        (3, 0.9, 8, 1),
        (1, 0.9, 8, 1),
    ],
)
def test_kept_units_is_the_nearest_multiple_of_the_effective_step(
    size: int, ratio: float, round_to: int, kept: int
) -> None:
    assert kept_units(size, ratio, round_to) == kept


@given(
    size=st.integers(1, 600), ratio=st.floats(0.0, 0.999), round_to=st.sampled_from([1, 2, 4, 8])
)
def test_kept_units_agrees_with_a_search_over_all_allowed_numbers(
    size: int, ratio: float, round_to: int
) -> None:
    step = min(round_to, max(1, size // 4))
    allowed = {*range(step, size + 1, step), size}
    distance = min(abs(units - size * (1 - ratio)) for units in allowed)
    kept = kept_units(size, ratio, round_to)
    assert kept in allowed
    assert abs(kept - size * (1 - ratio)) == pytest.approx(distance, abs=1e-8)
    assert kept_units(size, 1 - kept / size, round_to) == kept


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"ratio": {"max": 0.5}}, "space.ratio is not a key · did you mean 'ratios'?"),
        ({"recovery": {"learning": 1}}, "space.recovery.learning is not a key"),
        ({"schedule": {"kinds": "cubic"}}, "did you mean 'kind'?"),
        ({"ratios": {"max": 1.0}}, r"space.ratios.max must lie in \[0, 1\), got 1.0"),
        ({"ratios": {"min": 0.9}}, "0 <= min <= max < 1"),
        ({"ratios": 0.5}, "space.ratios must be a mapping"),
        ({"ratios": {"per": "layer"}}, "one of group, global, got 'layer'"),
        ({"round_to": 0}, "space.round_to must lie in"),
        ({"round_to": 2.5}, "space.round_to must be a whole number or auto, got 2.5"),
        ({"importance": "l3"}, "space.importance must be one of l1, l2"),
        ({"importance": {"min": 0, "max": 1}}, "takes a value or a list"),
        ({"repair": "yes"}, "space.repair must be true or false"),
        (
            {"schedule": {"kind": "linear", "begin": 0.4, "end": {"min": 0.1, "max": 0.3}}},
            "space.schedule.begin must not be above end, got begin=0.4, end=0.3",
        ),
        ({"schedule": {"steps": 10**9}}, r"space.schedule.steps must lie in \[1, 100\]"),
        ({"round_to": 10**9}, r"space.round_to must lie in \[1, 4096\]"),
        ({"recovery": {"lr": 1e300}}, r"space.recovery.lr must lie in \(0, 100\], got 1e\+300"),
        ({"schedule": {"kind": []}}, "space.schedule.kind is an empty list"),
        ({"schedule": {"kind": ["cubic", "cube"]}}, r"space.schedule.kind\[1\]"),
        ({"recovery": {"lr": {"min": 0.1}}}, "is a range and needs max"),
        ({"recovery": {"lr": {"min": 0.1, "max": 0.01}}}, "min must not be above max"),
        ({"recovery": {"lr": 0}}, r"space.recovery.lr must lie in \(0, 100\]"),
        ({"recovery": {"lr": {"sgd": 0}}}, r"space.recovery.lr.sgd must lie in \(0, 100\]"),
        ({"recovery": {"lr": {"sdg": 1}}}, "recovery.lr.sdg is not a key · did you mean 'sgd'"),
        ({"recovery": {"lr.sgd": 0.1}}, "space.recovery.lr.sgd is not a key"),
        ({"recovery": {"distillation": {"sgd": 0.1}}}, "distillation.sgd is not a key"),
        ({"recovery": {"optimizer": "adam"}}, "one of auto, sgd, adamw, task, got 'adam'"),
        ({"recovery": {"warmup": 1.0}}, r"space.recovery.warmup must lie in \[0, 1\)"),
        ({"recovery": {"grad_clip": -1}}, r"space.recovery.grad_clip must lie in \[0, 1e\+09\]"),
        ({"recovery": {"regularizer": {"min": 0, "max": 1, "log": True}}}, "needs min above 0"),
        ({"recovery": {"distillation": 1.5}}, r"must lie in \[0, 1\], got 1.5"),
        (
            {"patterns": {"sparsity": [0.3, 0.8]}},
            r"a number or {min: ..., max: ...}, got \[0.3, 0.8",
        ),
        ({"recovery": {"lr": "fast"}}, "must be a number, got 'fast'"),
    ],
)
def test_a_mistake_names_its_place(spec: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SearchSpace.parse(spec)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (0.7, r"space.depth must be true, false or a mapping such as .max: 0.7., got 0.7"),
        ({"most": 0.5}, "space.depth.most is not a key"),
        ({"max": 1.5}, r"space.depth.max must lie in \[0, 1\], got 1.5"),
    ],
)
def test_a_wrong_depth_is_refused(written: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SearchSpace.parse({"depth": written})


@pytest.mark.parametrize("rewarm", [True, [False, True]])
def test_a_rate_cannot_rise_anew_without_a_warm_up(rewarm: object) -> None:
    says = r"space.recovery.rewarm must be false where space.recovery.warmup is 0: .* such as to 0"
    with pytest.raises(ConfigError, match=says):
        SearchSpace.parse({"recovery": {"rewarm": rewarm, "warmup": 0.0}})
    for recovery in ({"warmup": [0.0, 0.1]}, {"warmup": {"min": 0.0, "max": 0.1}}, {}):
        SearchSpace.parse({"recovery": {"rewarm": rewarm, **recovery}})
    SearchSpace.parse({"recovery": {"rewarm": False, "warmup": 0.0}})
