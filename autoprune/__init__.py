"""AutoML search for pruned architectures within a measured latency and memory budget.

Three verbs: `search` with a budget, inspect the front, `retrain` (and `export`) the winner. The
exported names are those of `__init__.pyi`; they load when first used, so that `import autoprune`
stays light.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"
__getattr__, _names, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __dir__() -> list[str]:
    return sorted(__all__)
