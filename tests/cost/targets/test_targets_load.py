"""The load by others, read from counters of the system."""

from __future__ import annotations

import pytest

from autoprune.cost.targets import load


def test_others_load_is_what_our_cores_did_less_what_we_did(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda pid: {0, 2})
    monkeypatch.setattr(load.os, "sysconf", lambda name: 100)
    clocks = {"monotonic": iter([0.0, 10.0, 10.0]), "process_time": iter([1.0, 4.0, 30.0])}
    for name, values in clocks.items():
        monkeypatch.setattr(load.time, name, lambda values=values: next(values))
    stat.write_text(
        "cpu 9 9 9 9\ncpu0 100 0 0 5 5 0 0 0\ncpu1 7 7 7 7 7 7 7 7\ncpu2 0 0 0 0 0 0 0 0\n"
    )
    watch = load.ExternalLoad(stat)
    # of 2 x 10 s: 6 s user and nice, 1 s system, 2 s stolen; idle, waiting and cpu1 do not count
    stat.write_text(
        "cpu0 400 100 100 90 90 0 0 200\ncpu1 0 0 0 0 0 0 0 0\ncpu2 200 0 0 5 5 0 0 0\n"
    )
    assert watch.share() == pytest.approx((9.0 - 3.0) / 20.0)
    # we did more than the counters have noticed yet; but what was stolen was not ours
    assert watch.share() == pytest.approx(2.0 / 20.0)
    assert load.steal_s(stat) == pytest.approx(2.0)


@pytest.mark.parametrize("content", [None, "cpu0 1 2\n", "cpu0 a b c d e f g h\n"])
def test_a_system_that_does_not_tell_its_load_is_unknown(monkeypatch, tmp_path, content):
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda pid: {0})
    stat = tmp_path / "stat"
    if content is not None:
        stat.write_text(content)
    assert load.ExternalLoad(stat).share() is None
    assert load.steal_s(stat) == 0.0
