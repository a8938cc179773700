"""The recipe of a retraining: its learning rate by length, other optimizers."""

from __future__ import annotations

import pytest
from stripes import Stripes
from torch import nn
from torch.optim import Adam

from autoprune._retraining.planning import for_length, with_recovery
from autoprune.architecture import Architecture
from autoprune.candidate import Candidate, Recovery
from autoprune.config import RunConfig
from autoprune.errors import UsageError
from autoprune.training.optimizers import rate_for_length

SHORT = RunConfig.from_dict({"task": "digits", "budget": {"macs": "50%"}, "search": {"epochs": 2}})


def candidate(**recovery: object) -> Candidate:
    return Candidate(Architecture({"a": 3}), recovery=Recovery(**recovery))  # type: ignore[arg-type]


@pytest.mark.parametrize(("epochs", "rate"), [(1.0, 0.01), (2.0, 0.01), (8.0, 0.02), (200.0, 0.04)])
def test_the_rate_of_sgd_grows_with_the_square_root_of_the_length(
    epochs: float, rate: float
) -> None:
    before = candidate(lr=0.01, optimizer="sgd", distillation=0.25)
    after = for_length(before, SHORT, epochs, Stripes())
    assert after.recovery == Recovery(lr=rate, optimizer="sgd", distillation=0.25)
    assert after.architecture == before.architecture


def test_a_high_rate_does_not_grow_further() -> None:
    assert rate_for_length(Recovery(lr=0.06, optimizer="sgd"), 1.0, 16.0) == 0.1
    assert rate_for_length(Recovery(lr=0.3, optimizer="sgd"), 1.0, 16.0) == 0.3


@pytest.mark.parametrize("optimizer", ["adamw", "task"])
def test_other_optimizers_keep_their_rate(optimizer: str) -> None:
    before = candidate(lr=0.001, optimizer=optimizer)
    assert for_length(before, SHORT, 20.0, Stripes()) == before


class WithAdam(Stripes):
    def configure_optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> Adam:
        return Adam(model.parameters(), lr, weight_decay=weight_decay)


def test_auto_has_the_rate_of_the_optimizer_that_fits_the_model() -> None:
    """SGD for convolutions: 16-fold length, at most 4-fold rate."""
    before = with_recovery(candidate(lr=0.0005, optimizer="adamw"), {"optimizer": "auto"})
    after = for_length(before, SHORT, 32.0, Stripes())
    assert after.recovery == Recovery(lr=0.04, optimizer="auto")
    assert for_length(before, SHORT, 32.0, WithAdam()) == before


def test_a_rate_cannot_rise_anew_without_a_warm_up() -> None:
    before = candidate(warmup=0.0)
    with pytest.raises(UsageError, match=r"recovery.rewarm must be false where recovery.warmup is"):
        with_recovery(before, {"rewarm": True})
    assert with_recovery(before, {"rewarm": True, "warmup": 0.1}).recovery.rewarm


def test_another_optimizer_has_its_own_rate_and_decay(caplog: pytest.LogCaptureFixture) -> None:
    before = candidate(lr=0.05, weight_decay=1e-3, optimizer="sgd")

    def after(**recovery: object) -> tuple[object, ...]:
        found = with_recovery(before, recovery).recovery.resolved("adamw")
        return found.optimizer, found.lr, found.weight_decay

    assert after(optimizer="adamw") == ("adamw", 0.0003, 0.01)
    assert [record.getMessage() for record in caplog.records] == [
        "recovery.lr is the default of adamw, not the trial's 0.05 with sgd",
        "recovery.weight_decay is the default of adamw, not the trial's 0.001 with sgd",
    ]
    assert after(optimizer="auto") == ("adamw", 0.0003, 0.01)
    assert after(optimizer="adamw", lr=0.002) == ("adamw", 0.002, 0.01)
    assert after(optimizer="adamw", weight_decay=0.0) == ("adamw", 0.0003, 0.0)
    assert after(optimizer="sgd") == ("sgd", 0.05, 1e-3)
    assert after(ema=0.9) == ("sgd", 0.05, 1e-3)


def test_the_rate_of_another_optimizer_grows_from_its_default() -> None:
    before = candidate(lr=0.0005, optimizer="adamw")
    after = for_length(with_recovery(before, {"optimizer": "sgd"}), SHORT, 32.0, Stripes())
    assert after.recovery.lr == 0.04
    after = for_length(with_recovery(before, {"optimizer": "task"}), SHORT, 32.0, Stripes())
    assert after.recovery.lr == 0.001
