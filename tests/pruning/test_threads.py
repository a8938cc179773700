import pytest
import torch

from autoprune.pruning.threads import threads_of


def test_the_number_of_threads_holds_inside_and_returns_after_an_error() -> None:
    before = torch.get_num_threads()
    with threads_of(before + 1):
        assert torch.get_num_threads() == before + 1
        with threads_of(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == before + 1
    with pytest.raises(ValueError, match="inside"), threads_of(before + 1):
        raise ValueError("inside")
    assert torch.get_num_threads() == before
