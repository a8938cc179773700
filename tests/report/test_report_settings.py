"""How each member was pruned and trained, as a table."""

from __future__ import annotations

import re
from dataclasses import replace

from views import trial, view_of

from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery, Selection
from autoprune.report.settings import settings
from autoprune.schedule import Schedule


def rows(page: str) -> list[list[str]]:
    found = re.findall(r"<tr>(.*?)</tr>", page)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in found]
    return [[re.sub("<[^>]+>", "", cell) for cell in row] for row in cells]


def test_a_row_has_what_was_chosen_and_which_optimizer_it_was() -> None:
    made = Candidate.planned(
        Architecture({"a": 4}, ["body"], {"w": "2:4"}, "int8"),
        {"a": 8},
        selection=Selection("taylor", repair=False),
        schedule=Schedule("cubic", 0.1, 0.5, 3),
        recovery=Recovery(0.05, 0.25, 1.5, "task", ema=0.99, rewarm=True),
    )
    record = replace(
        trial(7, 0.8, 4.0, epochs=1.5, origin="tpe <projected>", optimizer="AdamW"), candidate=made
    )
    header, row = rows(settings(view_of(record)))
    assert dict(zip(header, row, strict=True)) == {
        "model": "trial 7",
        "precision": "int8",
        "blocks dropped": "body",
        "patterns": "2:4 in 1 weight",
        "schedule": "cubic in 3",
        "progress": "0.1 – 0.5",
        "importance": "taylor",
        "repair": "no",
        "optimizer": "AdamW",
        "lr": "0.05",
        "distillation": "0.25",
        "regularizer": "1.5",
        "options": "rewarm, ema 0.99",
        "epochs": "1.5",
        "origin": "tpe &lt;projected&gt;",
    }


def test_what_a_plain_candidate_has_is_said_too() -> None:
    made = Candidate(Architecture(), schedule=Schedule("one_shot", 0.2, 0.2))
    record = replace(trial(0, 0.8, 4.0), candidate=made)
    header, row = rows(settings(view_of(record)))
    found = dict(zip(header, row, strict=True))
    assert (found["blocks dropped"], found["patterns"], found["repair"]) == ("none", "none", "yes")
    assert (found["schedule"], found["progress"]) == ("one_shot", "at 0.2")
    assert (found["optimizer"], found["lr"]) == ("auto", "default")


def test_members_are_in_the_order_and_color_of_the_front() -> None:
    page = settings(view_of(trial(0, 0.9, 6.0), trial(1, 0.8, 4.0)))
    assert [row[0] for row in rows(page)[1:]] == ["trial 1", "trial 0"]
    assert re.findall(r"background:(#\w+)", page) == ["#12a594", "#a35cf0"]
    assert len(rows(settings(view_of()))) == 1


def test_what_all_have_alike_is_said_once() -> None:
    slow, fast = (Candidate(Architecture(), recovery=Recovery(lr)) for lr in (0.01, 0.1))
    few = replace(trial(0, 0.8, 4.0, origin="tpe"), candidate=slow)
    many = replace(trial(1, 0.9, 5.0, origin="tpe"), candidate=fast)
    page = settings(view_of(few, many))
    assert rows(page) == [["model", "lr"], ["trial 0", "0.01"], ["trial 1", "0.1"]]
    (note,) = re.findall("The same in all: (.*?)[.]</p>", page)
    assert "precision float32, blocks dropped none" in note
    assert note.endswith("origin tpe")


def test_the_words_of_origins_are_explained_where_they_occur() -> None:
    first, second = trial(0, 0.9, 5.0, origin="seed:least-0"), trial(1, 0.8, 4.0, origin="tpe")
    page = settings(view_of(first, second))
    assert (
        '<p class="note">Origin: seed: tried first, no random number; least: the widths with the '
        "least sensitivity at their cost.</p>"
    ) in page
    assert "Origin:" not in settings(view_of(second))


def test_an_optimizer_has_one_name() -> None:
    named = Candidate(Architecture(), recovery=Recovery(optimizer="sgd"))
    records = (
        replace(trial(0, 0.9, 5.0), candidate=named),
        replace(trial(1, 0.8, 4.0, optimizer="SGD"), candidate=named),
    )
    assert "optimizer SGD" in settings(view_of(*records))  # the same in all
