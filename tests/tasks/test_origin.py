"""Where a task's class comes from, and what is said where it cannot be imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autoprune.errors import TaskError
from autoprune.tasks.origin import Origin, is_imported, origin_of, revive

SOURCE = "import beside_it\nclass Outer:\n    class Inner:\n        value = beside_it.VALUE\n"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "beside_it", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "task.py").write_text(SOURCE)
    (tmp_path / "beside_it.py").write_text("VALUE = 7\n")
    return tmp_path


def of_file(folder: Path, name: str = "task.py") -> Origin:
    return Origin(str(folder / name), "", (str(folder),))


def refusal(origin: Origin) -> str:
    with pytest.raises(TaskError) as caught:
        origin.load()
    return str(caught.value)


def test_a_file_is_imported_once_with_its_siblings(folder: Path) -> None:
    origin = of_file(folder)
    assert not is_imported(str(folder / "task.py"))
    module = origin.load()
    assert module.Outer.Inner.value == 7
    assert origin.load() is module
    assert is_imported(str(folder / "task.py"))
    assert origin_of(module.Outer) == origin
    assert module.__name__.startswith("autoprune_task_task_")


def test_an_edited_file_is_another_module(folder: Path) -> None:
    first = of_file(folder).load()
    (folder / "task.py").write_text(SOURCE + "MORE = 1\n")
    second = of_file(folder).load()
    assert second is not first
    assert second.MORE == 1


def test_the_same_text_elsewhere_is_another_module(folder: Path) -> None:
    (folder / "other.py").write_text(SOURCE)
    assert of_file(folder).load() is not of_file(folder, "other.py").load()


def test_an_instance_is_revived_without_its_constructor(folder: Path) -> None:
    (folder / "task.py").write_text(
        "class Task:\n    class In:\n        def __init__(self, x):\n            1 / 0\n"
    )
    found = revive(of_file(folder), "Task.In")
    assert type(found).__qualname__ == "Task.In"
    assert vars(found) == {}


def test_a_module_is_imported_by_its_name(folder: Path) -> None:
    assert is_imported("json")
    assert not is_imported("no_such_module_at_all")
    module = Origin(None, "beside_it", (str(folder),)).load()
    assert module.VALUE == 7
    assert sys.path[0] == str(folder)
    assert origin_of(int) is None


@pytest.mark.parametrize("inner", ["", "jobs"])
def test_what_was_sent_of_a_folder_is_found_on_another_machine_with_its_siblings(
    folder: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / inner).mkdir(exist_ok=True)
    for name in ("task.py", "beside_it.py"):
        (folder / name).rename(folder / inner / name)
    place = Path("/gone/work", inner, "task.py")
    elsewhere = Origin(str(place), "", (str(place.parent), "/gone/work"))
    assert elsewhere.load().Outer.Inner.value == 7
    assert refusal(Origin("/gone/work/task.py", "", ("/other",))) == (
        "task file /gone/work/task.py does not exist · write it as path/to/file.py:MyTask"
    )


def test_a_file_that_fails_says_where_and_is_tried_again(folder: Path) -> None:
    path = folder / "task.py"
    path.write_text("\n\nraise ValueError('two\\n lines')\n")
    said = refusal(of_file(folder))
    assert said == f"task file {path} cannot be imported: ValueError: two lines (task.py, line 3)"
    assert refusal(of_file(folder)) == said
    path.write_text("raise SystemExit('no data')\n")
    assert refusal(of_file(folder)) == (
        f"task file {path} cannot be imported: SystemExit: no data (task.py, line 1)"
    )
    path.write_text("def broken(:\n")
    assert refusal(of_file(folder)).startswith(
        f"task file {path} cannot be imported: SyntaxError: "
    )


def test_a_file_that_is_no_python_is_refused(folder: Path) -> None:
    (folder / "task.txt").write_text("x = 1\n")
    assert refusal(of_file(folder, "task.txt")) == (
        f"task file {folder / 'task.txt'} must be a Python file that ends in .py"
    )


def test_a_module_that_is_not_there_is_told_from_one_that_lacks_another(folder: Path) -> None:
    assert refusal(Origin(None, "no_such_task", ())) == (
        "task module 'no_such_task' cannot be found (no module named 'no_such_task') · install it, "
        "or name a file instead: path/to/file.py:MyTask"
    )
    (folder / "lacking.py").write_text("import no_such_thing\n")
    assert refusal(Origin(None, "lacking", (str(folder),))) == (
        "task module 'lacking' cannot be imported: ModuleNotFoundError: No module named "
        "'no_such_thing' (lacking.py, line 1)"
    )
    (folder / "dividing.py").write_text("1 / 0\n")
    assert refusal(Origin(None, "dividing", (str(folder),))) == (
        "task module 'dividing' cannot be imported: ZeroDivisionError: division by zero "
        "(dividing.py, line 1)"
    )
