from pathlib import Path

import pandas as pd
import yaml

from autoprune.config import RunConfig
from scripts.benchmarks.examples.__main__ import as_published
from scripts.benchmarks.examples.table import markdown, spread
from scripts.benchmarks.harness import ROOT


def test_a_published_configuration_holds_no_folder_of_this_machine(tmp_path):
    file = ROOT / "examples" / "voice_commands.yaml"
    text = as_published(RunConfig.load(file, [f"output={tmp_path}"]))
    assert str(ROOT) not in text
    assert str(tmp_path) not in text
    place = ROOT / "results" / "examples" / "voice_commands"
    again = RunConfig.from_dict(yaml.safe_load(text), base=place)
    task, _, name = again.task.rpartition(":")
    assert Path(task).resolve() == ROOT / "examples" / "voice_commands.py"
    assert name == "VoiceCommands"
    assert again.budget == RunConfig.load(file).budget


def test_the_spread_over_seeds_is_the_sample_standard_deviation():
    assert spread(pd.Series([0.5, 0.75])) == "0.625 ± 0.177"
    assert spread(pd.Series([0.25])) == "0.250"


def test_what_was_only_measured_in_training_has_no_column():
    row = {"recipe": "a", "schedule": None, "epochs": 1.0, "seed": 0, "val_loss": 0.3}
    sizes = {"weight_bytes": 2000.0, "file_bytes": 3000, "peak_bytes": 4000}
    rows = pd.DataFrame([{**sizes, **row, "val_f1": 0.8, "test_f1": 0.7}])
    lines = markdown(rows).splitlines()
    assert lines[0].endswith("| peak, kB | val f1 | test f1 |")
    assert lines[2].endswith("| 4.0 | 0.800 | 0.700 |")


def test_latencies_are_a_column_where_they_were_measured():
    row = {"recipe": "a", "schedule": None, "epochs": 1.0, "seed": 0, "test_f1": 0.7}
    sizes = {"weight_bytes": 2000.0, "file_bytes": 3000, "peak_bytes": 4000}
    first, second = ({**sizes, **row, "latency_share": share} for share in (0.5, 0.6))
    lines = markdown(pd.DataFrame([first, {**second, "seed": 1}])).splitlines()
    assert lines[0].endswith("| peak, kB | latency of dense | test f1 |")
    assert lines[2].endswith("| 4.0 | 55.0% | 0.700 ± 0.000 |")


def test_each_recipe_is_one_line_in_the_order_of_the_runs():
    sizes = {"weight_bytes": 2000.0, "file_bytes": 3000, "peak_bytes": 4000}
    rows = [
        {"recipe": "dense", "schedule": None, "epochs": 0.0, "seed": 0, "test_accuracy": 0.9},
        {
            "recipe": "uniform, L2, no repair",
            "schedule": "one_shot",
            "epochs": 5.0,
            "seed": 0,
            "test_accuracy": 0.5,
        },
        {
            "recipe": "uniform, L2, no repair",
            "schedule": "one_shot",
            "epochs": 5.0,
            "seed": 1,
            "test_accuracy": 0.6,
        },
    ]
    lines = markdown(pd.DataFrame([{**sizes, **row} for row in rows])).splitlines()
    assert lines[2] == "| dense |  | 0 | 1 | 2.0 | 3.0 | 4.0 | 0.900 |"
    assert (
        lines[3]
        == "| uniform, L2, no repair | one_shot | 5 | 2 | 2.0 | 3.0 | 4.0 | 0.550 ± 0.071 |"
    )
