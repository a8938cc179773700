"""The search space: what may be searched, and the same fitted to a model."""

from autoprune.space.fitted import FittedSpace
from autoprune.space.search_space import SearchSpace, kept_units

__all__ = ["FittedSpace", "SearchSpace", "kept_units"]
