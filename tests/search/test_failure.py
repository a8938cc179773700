import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune._search.state.failure import (
    LONGEST,
    LONGEST_LINE,
    bounded,
    is_out_of_memory,
    reason,
)
from autoprune.errors import TaskError
from autoprune.tasks.failures import named


def raised(error: Exception) -> Exception:
    """The error with a traceback, as a trial raises it."""
    try:
        raise error
    except Exception as caught:  # noqa: BLE001
        return caught


def test_a_reason_is_one_line_and_then_the_traceback() -> None:
    first, *trace = reason(raised(ValueError("  widths differ\nin two places "))).splitlines()
    assert first == "ValueError: widths differ"
    assert trace[0] == "Traceback (most recent call last):"
    assert any("raise error" in line for line in trace)
    assert trace[-2:] == ["ValueError:   widths differ", "in two places"]


def test_an_error_without_words_is_its_kind() -> None:
    assert reason(raised(KeyError())).splitlines()[0] == "KeyError"


def test_causes_are_in_the_traceback() -> None:
    error = ValueError("outer")
    error.__cause__ = raised(KeyError("inner"))
    assert "KeyError: 'inner'" in reason(error)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA"), True),
        (RuntimeError("CUDA error: Out Of Memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("[enforce fail] not enough memory: you tried"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),  # only torch says it with a RuntimeError
    ],
)
def test_no_memory_is_called_so(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory
    first = reason(error).splitlines()[0]
    assert first.startswith("out of memory" if is_memory else type(error).__name__)


def test_of_an_error_in_the_code_of_a_task_the_cause_counts() -> None:
    def failed(cause: Exception) -> TaskError:
        try:
            with named("Mine.loss"):
                raise cause
        except TaskError as error:
            return error
        raise AssertionError

    memory = reason(failed(torch.OutOfMemoryError("CUDA out of memory")))
    assert memory.startswith("out of memory: Mine.loss failed: OutOfMemoryError: CUDA out of ")
    other = reason(failed(IndexError("Target 5 is out of bounds.")))
    first, _, trace = other.partition("\n")
    assert first == "TaskError: Mine.loss failed: IndexError: Target 5 is out of bounds."
    assert "raise cause" in trace  # where it happened


def test_an_endless_text_is_cut_in_the_line_and_in_the_traceback() -> None:
    found = reason(raised(ValueError("x" * 100_000)))
    first, _, trace = found.partition("\n")
    assert first.startswith("ValueError: xxx")
    assert len(first) < LONGEST_LINE
    assert len(trace) < LONGEST
    assert "characters …" in trace


@settings(max_examples=40, deadline=None)
@given(st.text("abc \n", max_size=200), st.integers(4, 60))
def test_what_is_left_out_is_counted(text: str, most: int) -> None:
    found = bounded(text, most)
    if len(text) <= most:
        assert found == text
        return
    quarter = most // 4
    assert found.startswith(f"{text[:quarter]} … ")
    assert found.endswith(f" … {text[len(text) - quarter :]}")
    left_out = int(found[quarter:].split(" … ")[1].split()[0])
    assert left_out == len(text) - 2 * quarter
