"""What cannot be sent to a worker is found at once, by the attribute's name."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune._search.trials.sendable import check_sendable
from autoprune.errors import TaskError


class Holder:
    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


def closes_over(value: object) -> Any:
    return lambda: value


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (Holder(guard=threading.Lock()), r"Holder\.guard .* a lock cannot be pickled"),
        (Holder(data=Holder(guard=threading.Lock())), r"Holder\.data\.guard "),
        (Holder(data={"a": [1, threading.Lock()]}), r"Holder\.data\['a'\]\[1\] "),
        (Holder(loss=closes_over(threading.Lock())), r"Holder\.loss\.value "),
        (Holder(rows=(row for row in ())), r"Holder\.rows .* a generator cannot be pickled"),
    ],
)
def test_the_attribute_is_named(task: object, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        check_sendable(task)


def test_an_open_file_is_named(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log, pytest.raises(TaskError, match=r"Holder\.log "):
        check_sendable(Holder(log=log))


def test_what_can_be_sent_passes() -> None:
    check_sendable(Holder(x=torch.zeros(3), loss=lambda a, b: a, path=Path(), none=None))


def test_what_getstate_leaves_out_is_not_asked() -> None:
    class Careful(Holder):
        def __getstate__(self) -> dict[str, Any]:
            return {"x": 1}

    check_sendable(Careful(guard=threading.Lock()))
