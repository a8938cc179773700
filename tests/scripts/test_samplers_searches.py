"""Whole searches with several samplers: whose the members of a front are, and the table."""

from __future__ import annotations

import pandas as pd
import pytest

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate
from autoprune.record import TrialRecord
from scripts.benchmarks.samplers import searches


def record(number: int, origin: str) -> TrialRecord:
    return TrialRecord(number, Candidate(Architecture({})), "complete", 0, origin=origin)


@pytest.mark.parametrize(
    ("origin", "kind"),
    [
        ("seed:uniform-0-rate-1", "firsts"),
        ("baseline:uniform-2", "firsts"),
        ("gp", "sampled"),
        ("tpe projected", "sampled"),
        ("screened:tpe", "sampled"),
        ("screened:tpe projected", "sampled"),
        ("screened:gap", "moved"),
        ("screened:recipe", "moved"),
    ],
)
def test_who_proposed_a_trial(origin: str, kind: str) -> None:
    assert searches.whose(record(0, origin), []) == kind


def test_a_converted_model_is_of_who_proposed_the_trial() -> None:
    trials = [record(0, "seed:least-0"), record(7, "gp"), record(8, "converted from trial 7")]
    assert searches.whose(trials[2], trials) == "sampled"


def test_differences_to_random_are_those_of_equal_seeds() -> None:
    common = {"trials": 32, "first": 0.5, "members": 4, "firsts": 0.5, "sampled": 0.5, "moved": 0.0}
    common |= {"proposing_s": 0.1, "minutes": 2.0, "cores": 1, "threads": 1, "python": "3"}
    common |= {"machine": "m", "versions": "v", "commit": "c", "command": "x", "date": "d"}
    rows = [
        {"variant": "random", "seed": 0, "validation": 0.6, "test": 0.5, **common},
        {"variant": "random", "seed": 1, "validation": 0.7, "test": 0.6, **common},
        {"variant": "gp", "seed": 1, "validation": 0.75, "test": 0.7, **common},
    ]
    gp = next(line for line in searches.page(pd.DataFrame(rows)).splitlines() if "| gp" in line)
    assert "0.0500 ± nan" in gp
    assert "0.1000 ± nan" in gp
