"""The run folder: every file that a run leaves, by name and by content, safe to kill at any moment.

No other module joins a path to one of these files or parses one. Files that are replaced are
written beside and renamed; records are appended and synced one line at a time. What is read is
checked: a file that is missing or damaged is one StoreError line with its name and the key at
fault. Nothing in a run is a pickle.
"""

from __future__ import annotations

from autoprune.store.contents import RECORDS, SENSITIVITY, device_file
from autoprune.store.files import write_bytes, write_text
from autoprune.store.mending import TUNE, mend, set_aside
from autoprune.store.models import (
    FORMAT,
    RECIPE,
    Recipe,
    is_model,
    read_model,
    recipe_of,
    save_model,
)
from autoprune.store.packed import (
    PACKED_FILE,
    is_packed,
    pack,
    packed_parts,
    read_packed,
    with_file_bytes,
    write_packed,
)
from autoprune.store.quantization import (
    INT8_FILE,
    INT8_REPORT,
    FrontQuantization,
    PrecisionReport,
    QuantizationReport,
    QuantizationSettings,
    model_name,
    read_quantization,
    write_quantization,
)
from autoprune.store.records import rows as table_rows
from autoprune.store.retraining import RetrainingFolder, read_metrics, write_metrics
from autoprune.store.run import CONFIG, STARTS, STUDY, RunFolder
from autoprune.store.values import (
    DONE,
    BlockInfo,
    DenseReport,
    DenseTest,
    FoundRate,
    FrontReport,
    FrozenInfo,
    GroupInfo,
    Groups,
    LayerCosts,
    LayerInfo,
    Network,
    ProfileSummary,
    RateTrial,
    RetrainingPlan,
    RetrainingSummary,
    RunState,
    SearchPlan,
    SeedReport,
    Spread,
    StartingState,
)

__all__ = [
    "CONFIG",
    "DONE",
    "FORMAT",
    "INT8_FILE",
    "INT8_REPORT",
    "PACKED_FILE",
    "RECIPE",
    "RECORDS",
    "SENSITIVITY",
    "STARTS",
    "STUDY",
    "TUNE",
    "BlockInfo",
    "DenseReport",
    "DenseTest",
    "FoundRate",
    "FrontQuantization",
    "FrontReport",
    "FrozenInfo",
    "GroupInfo",
    "Groups",
    "LayerCosts",
    "LayerInfo",
    "Network",
    "PrecisionReport",
    "ProfileSummary",
    "QuantizationReport",
    "QuantizationSettings",
    "RateTrial",
    "Recipe",
    "RetrainingFolder",
    "RetrainingPlan",
    "RetrainingSummary",
    "RunFolder",
    "RunState",
    "SearchPlan",
    "SeedReport",
    "Spread",
    "StartingState",
    "device_file",
    "is_model",
    "is_packed",
    "mend",
    "model_name",
    "pack",
    "packed_parts",
    "read_metrics",
    "read_model",
    "read_packed",
    "read_quantization",
    "recipe_of",
    "save_model",
    "set_aside",
    "table_rows",
    "with_file_bytes",
    "write_bytes",
    "write_metrics",
    "write_packed",
    "write_quantization",
    "write_text",
]
