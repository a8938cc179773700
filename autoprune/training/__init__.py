"""Recovery: training a candidate while its units are pruned."""

from autoprune.training.answers import Answers
from autoprune.training.precision import (
    Precision,
    choose,
    training_device,
    training_precision,
)
from autoprune.training.recovery import RecoveryRun

__all__ = ["Answers", "Precision", "RecoveryRun", "choose", "training_device", "training_precision"]
