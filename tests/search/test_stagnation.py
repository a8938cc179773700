import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune._search.state.stagnation import GROWTH, Stagnation


def test_growth_of_less_than_half_a_percent_is_none() -> None:
    stagnation = Stagnation(2, start=100.0)
    for volume in (100.0, 100.49):
        stagnation.note(volume)
    assert stagnation.reached
    stagnation.note(100.6)  # 100.0 two trials ago
    assert not stagnation.reached


def test_it_waits_for_the_first_model() -> None:
    stagnation = Stagnation(1, start=0.0)
    for _ in range(5):
        stagnation.note(0.0)
    assert not stagnation.reached


def test_zero_is_never() -> None:
    stagnation = Stagnation(0, start=1.0)
    for _ in range(50):
        stagnation.note(1.0)
    assert not stagnation.reached


def test_the_last_trials_alone_count() -> None:
    stagnation = Stagnation(2, start=1.0)
    for volume, expected in ((1.0, False), (1.0, True), (2.0, False), (2.0, False), (2.0, True)):
        stagnation.note(volume)
        assert stagnation.reached is expected


@pytest.mark.parametrize(("volume", "expected"), [(1.005, False), (1.00499, True)])
def test_exactly_half_a_percent_is_growth(volume: float, expected: bool) -> None:
    stagnation = Stagnation(1, start=1.0)
    stagnation.note(volume)
    assert stagnation.reached is expected
    assert GROWTH == 0.005


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.lists(st.floats(1e-3, 1e3), max_size=12))
def test_a_resume_begins_the_count_anew(patience: int, volumes: list[float]) -> None:
    growing = [sum(volumes[: n + 1]) for n in range(len(volumes))]
    stagnation = Stagnation(patience, start=growing[0] if growing else 1.0)
    for ended, volume in enumerate(growing[1:], 1):
        stagnation.note(volume)
        assert ended >= patience or not stagnation.reached
        before = growing[ended - patience] if ended >= patience else 0.0
        assert stagnation.reached is (before > 0.0 and volume < before * 1.005)
