"""The configuration: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from autoprune.config import RunConfig
from autoprune.config.limited_yaml import read_yaml
from autoprune.config.presets import presets
from autoprune.errors import BudgetError, ConfigError, UsageError

MINIMAL = "task: digits\nbudget: {latency_ms: 50%}\n"


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str, name: str = "budget.yaml") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write_file


def test_defaults_are_those_of_the_documentation(write) -> None:
    config = RunConfig.load(write(MINIMAL))
    assert config.task == "digits"
    assert (config.device.runtime, config.device.threads, config.device.batch) == (
        "onnxruntime",
        1,
        1,
    )
    assert (config.search.sampler, config.search.trials, config.search.epochs) == ("tpe", 30, 2.0)
    assert config.search.objectives is None
    assert config.output is None
    assert config.budget.fields == ("latency_ms",)
    assert config.to_dict()["space"] == read_yaml(presets()["standard"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budget: {macs: 50%}", "budget.yaml: task is missing · e.g. task: digits"),
        ("task: digits", "budget.yaml: budget is missing · e.g. budget: {latency_ms: 50%}"),
        ("- task", "budget.yaml must hold keys such as task and budget, got ['task']"),
        ("", "budget.yaml must hold keys such as task and budget, got None"),
        ("task: [", "budget.yaml:1: not valid YAML"),
        (
            "task: a\nbudget: {macs: 50%}\ntask: b",
            "budget.yaml:3: not valid YAML: duplicate key task",
        ),
    ],
)
def test_incomplete_file_is_refused(write, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(write(text))
    assert str(caught.value).startswith(message)


def test_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file · write one with: autoprune init"):
        RunConfig.load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ("[30%, 60%]", "budget.yaml: search.levels: '60%' must be below the budget's latency_ms"),
        ("[8 MB]", "budget.yaml: search.levels.latency_ms: unit 'MB' does not fit"),
        ("30%", "budget.yaml: search.levels"),
    ],
)
def test_a_level_that_cannot_be_is_refused(write, levels: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        RunConfig.load(write(MINIMAL + f"search: {{levels: {levels}}}"))
    assert str(caught.value).startswith(message)


def test_a_quota_has_a_unit(write) -> None:
    config = RunConfig.load(write(MINIMAL + "search: {max_disk: 2 GB}"))
    assert config.max_disk_bytes == 2e9
    with pytest.raises(BudgetError, match=r"search\.max_disk: cannot read 'much' · write e\.g\."):
        RunConfig.load(write(MINIMAL + "search: {max_disk: much}"))


def test_levels_are_lower_first_limits() -> None:
    text = {"task": "digits", "budget": {"macs": "50%", "params": 900}}
    config = RunConfig.from_dict({**text, "search": {"levels": ["30%", 1000]}})
    assert [str(level) for level in config.levels] == [
        "macs <= 0.3 x dense, params <= 900",
        "macs <= 1000, params <= 900",
    ]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("{latency_ms: 8 MB}", "budget.yaml: budget.latency_ms: unit 'MB' does not fit"),
        ("{latency: 8 ms}", "budget.yaml: budget.latency is not a cost"),
        ("{}", "budget.yaml: budget needs at least one limit"),
        ("{macs: 100000%}", "budget.yaml: budget.macs must be at most 1000% of the dense"),
        ("{macs: 1e+300}", "budget.yaml: budget.macs must be above 0 and below 1e+30"),
    ],
)
def test_wrong_limit_names_file_and_key(write, budget: str, message: str) -> None:
    with pytest.raises(BudgetError) as caught:
        RunConfig.load(write(f"task: digits\nbudget: {budget}"))
    assert str(caught.value).startswith(message)


def test_resolved_copy_reads_back_equal(write, tmp_path: Path) -> None:
    text = MINIMAL + "space: quick\nsearch: {epochs: 0.5, objectives: [accuracy, macs]}\ndata: d"
    config = RunConfig.load(write(text))
    copy = write(config.to_yaml(), "elsewhere/run/config.yaml")
    assert RunConfig.load(copy) == config
    assert yaml.safe_load(copy.read_text())["space"] == read_yaml(presets()["quick"])


def test_budget_levels_and_space_are_parsed_once_and_written_as_they_were(write) -> None:
    text = {"task": "digits", "budget": {"macs": "50 %"}, "search": {"levels": ["30%"]}}
    config = RunConfig.from_dict({**text, "space": {"ratios": {"max": 0.5}}})
    assert config.budget is config.budget
    assert config.space is config.space
    assert config.levels is config.levels
    assert (config.space.max_ratio, str(config.levels[0])) == (0.5, "macs <= 0.3 x dense")
    written = config.to_dict()
    assert written["budget"] == {"macs": "50 %"}
    assert written["space"] == {"ratios": {"max": 0.5}}
    assert list(written)[:4] == ["task", "task_args", "data", "budget"]


def test_paths_are_meant_from_the_file_and_become_absolute(write, tmp_path: Path) -> None:
    text = "task: tasks/mine.py:Mine\nbudget: {macs: 1 M}\ndata: ../data\noutput: runs/a"
    config = RunConfig.load(write(text, "job/budget.yaml"))
    assert config.task == f"{tmp_path}/job/tasks/mine.py:Mine"
    assert config.data == f"{tmp_path}/job/../data"
    assert config.output == f"{tmp_path}/job/runs/a"


@pytest.mark.parametrize("task", ["digits", "package.module:Mine"])
def test_task_that_is_no_file_stays_as_written(task: str) -> None:
    assert RunConfig.from_dict({"task": task, "budget": {"macs": 1}}).task == task


def test_overrides_replace_and_add(write) -> None:
    config = RunConfig.load(
        write(MINIMAL + "search: {trials: 5}"),
        ["search.trials=7", "search.seed=3", "budget.macs=20 M", "device.runtime=torch"],
    )
    assert (config.search.trials, config.search.seed) == (7, 3)
    assert config.budget.fields == ("latency_ms", "macs")
    assert config.device.runtime == "torch"


@pytest.mark.parametrize("text", ["", "space: standard", "space: mine.yaml"])
def test_an_override_changes_one_key_of_a_preset_or_a_file(write, text: str) -> None:
    standard = Path(presets()["standard"]).read_text(encoding="utf-8")
    write(standard, "mine.yaml")
    plain = RunConfig.load(write(MINIMAL + text)).space
    changed = RunConfig.load(write(MINIMAL + text), ["space.ratios.max=0.91"]).space
    assert (changed.max_ratio, plain.max_ratio) == (0.91, 0.85)
    assert replace(changed, max_ratio=0.85) == plain


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.trials", "--set search.trials must have the form key=value"),
        ("task.name=3", "--set task.name=3: task is 'digits', which has no keys inside"),
        ("search.trails=3", "budget.yaml: search.trails is not a key · nearest: trials"),
        ("search.trials=[", "--set search.trials=[:1: not valid YAML"),
    ],
)
def test_wrong_override_is_refused(write, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(write(MINIMAL), [override])
    assert str(caught.value).startswith(message)


def test_space_from_a_file_beside_the_configuration(write) -> None:
    write("ratios: {max: 0.4}\nrecovery: {lr: [1e-3, 1e-2]}", "mine.yaml")
    space = RunConfig.load(write(MINIMAL + "space: mine.yaml")).space
    assert space.max_ratio == 0.4
    assert [parameter.choices for parameter in space.varied] == [(0.001, 0.01)]


def test_mistake_inside_the_space_names_its_key(write) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(write(MINIMAL + "space: {ratios: {maxx: 0.5}}"))
    assert str(caught.value).startswith("budget.yaml: space.ratios.maxx is not a key")


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("1e6", 1e6), ("2.5E+1", 25.0)])
def test_exponents_are_numbers(write, text: str, value: float) -> None:
    assert read_yaml(write(f"a: {text}")) == {"a": value}


def test_a_base_that_is_no_folder_is_refused_except_in_a_run(
    tmp_path: Path,
) -> None:
    data = {"task": "digits", "budget": {"macs": "50%"}, "base": "lost"}
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict(data, place="a.yaml", base=tmp_path)
    assert str(caught.value) == (
        f"a.yaml: base must be a folder, {tmp_path / 'lost'} is none · leave it out for the folder "
        "of the configuration"
    )
    assert RunConfig.from_dict(data, base=tmp_path, resolved=True).base == str(tmp_path / "lost")
    (tmp_path / "lost").mkdir()
    assert RunConfig.from_dict(data, base=tmp_path).base == str(tmp_path / "lost")


def test_a_device_profile_says_runtime_threads_and_batch(tmp_path: Path) -> None:
    there = {"device": {"name": "a phone", "runtime": "torch", "threads": 2, "batch": 4}}
    (tmp_path / "device.json").write_text(json.dumps(there))
    data = {"task": "digits", "budget": {"latency_ms": "50%"}, "device": "device.json"}
    config = RunConfig.from_dict(data, base=tmp_path)
    assert (config.device.runtime, config.device.threads, config.device.batch) == ("torch", 2, 4)
    assert config.device.profile == str(tmp_path / "device.json")
    assert RunConfig.from_dict(config.to_dict()) == config

    def refused(device: object, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            RunConfig.from_dict({**data, "device": device}, base=tmp_path)

    refused("nowhere.json", r"nowhere\.json is not a file · make it: autoprune profile")
    refused({"profile": "device.json", "threads": 1}, r"device\.threads is 1, but .* made with 2")
    (tmp_path / "device.json").write_text("{}")
    refused("device.json", "is damaged")


DEVICES = "devices: {phone: {runtime: torch}, server: {threads: 2, batch: 4}}\n"


def test_several_devices_have_names_and_a_latency_each(write) -> None:
    text = (
        "task: digits\nbudget: {latency_ms: {phone: 8 ms, server: 50%}, macs: 60%}\n"
        "search: {objectives: [accuracy, latency_ms@server]}\n" + DEVICES
    )
    config = RunConfig.load(write(text), ["devices.phone.threads=3"])
    assert config.budget.fields == ("latency_ms@phone", "latency_ms@server", "macs")
    assert list(config.targets) == ["phone", "server"]
    assert (config.targets["phone"].runtime, config.targets["phone"].threads) == ("torch", 3)
    assert config.targets["server"].batch == 4
    copy = write(config.to_yaml(), "elsewhere/config.yaml")
    assert RunConfig.load(copy) == config
    assert "device" not in yaml.safe_load(copy.read_text())


def test_a_rate_counts_the_batch_of_its_device_and_is_written_as_it_was() -> None:
    found = RunConfig.from_dict(
        {
            "task": "digits",
            "budget": {"latency_ms": {"phone": "30 fps", "server": "50%"}},
            "devices": {"phone": {"batch": 4}, "server": {}},
            "search": {"levels": ["60 fps"]},
        }
    )
    assert str(found.budget) == (
        "latency_ms@phone <= 133.3 (30 fps), latency_ms@server <= 0.5 x dense"
    )
    assert str(found.levels[0].limits[0]) == "latency_ms@phone <= 66.67 (60 fps)"
    assert found.to_dict()["budget"] == {"latency_ms@phone": "30 fps", "latency_ms@server": "50%"}
    again = RunConfig.from_dict(found.to_dict(), resolved=True)
    assert (again.budget, again.levels) == (found.budget, found.levels)


def test_one_device_may_have_a_name_that_need_not_be_repeated(write) -> None:
    text = MINIMAL + "devices: {phone: {}}\nsearch: {objectives: [accuracy, latency_ms]}"
    config = RunConfig.load(write(text))
    assert config.budget.fields == ("latency_ms@phone",)
    assert config.search.objectives == ["accuracy", "latency_ms@phone"]


def test_a_device_without_a_name_stands_alone(write) -> None:
    config = RunConfig.load(write(MINIMAL))
    assert config.targets == {"": config.device}
    assert "devices" not in config.to_dict()


def test_devices_may_be_profiles(tmp_path: Path) -> None:
    there = {"device": {"name": "a phone", "runtime": "torch", "threads": 2, "batch": 4}}
    (tmp_path / "phone.json").write_text(json.dumps(there))
    data = {
        "task": "digits",
        "budget": {"latency_ms@phone": 8},
        "devices": {"phone": "phone.json", "server": {}},
    }
    config = RunConfig.from_dict(data, base=tmp_path)
    phone = config.devices["phone"]
    assert (phone.runtime, phone.threads, phone.batch) == ("torch", 2, 4)
    assert phone.profile == str(tmp_path / "phone.json")
    assert RunConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            MINIMAL + DEVICES,
            "b.yaml: budget: latency_ms must say on which device, one of phone, server",
        ),
        (
            "task: digits\nbudget: {latency_ms: {phon: 8}}\n" + DEVICES,
            "b.yaml: budget: latency_ms@phon: no device is called 'phon' · nearest: phone",
        ),
        (
            "task: digits\nbudget: {latency_ms: {phone: 8}}",
            "b.yaml: budget: latency_ms@phone is a latency on a named device",
        ),
        (
            "task: digits\nbudget: {latency_ms: 8, latency_ms@a: 9}\ndevices: {a: {}}",
            "b.yaml: budget.latency_ms@a is a duplicate key",
        ),
        (
            "task: digits\nbudget: {macs: 50%}\ndevice: {}\n" + DEVICES,
            "b.yaml: device and devices exclude each other",
        ),
        (
            "task: digits\nbudget: {macs: 50%}\nsearch: {objectives: [accuracy, latency_ms]}\n"
            + DEVICES,
            "b.yaml: search.objectives: latency_ms must say on which device",
        ),
        (
            "task: digits\nbudget: {macs: 50%}\ndevices: {}",
            "b.yaml: devices must map a name to each device, got {}",
        ),
        (
            "task: digits\nbudget: {macs: 50%}\ndevices: {my phone: {}}",
            "b.yaml: a device's name may hold letters, digits, _ and -, got 'my phone'",
        ),
        (
            "task: digits\nbudget: {macs: 50%}\ndevices: {a: {thread: 1}}",
            "b.yaml: devices.a.thread is not a key · nearest: threads",
        ),
        (
            "task: digits\nbudget: {macs: 50%}\ndevices: {a: none.json}",
            "b.yaml: devices.a.profile ",
        ),
    ],
)
def test_devices_that_do_not_fit_are_refused_in_one_line(write, text: str, message: str) -> None:
    with pytest.raises((BudgetError, ConfigError)) as caught:
        RunConfig.load(write(text, "b.yaml"))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_smaller_models_are_tasks_from_the_folder_of_the_configuration(tmp_path: Path) -> None:
    smaller = {"net20": {"depth": 20}, "other": "nets/mine.py:Small"}
    data = {
        "task": "mine.py:Large",
        "task_args": {"depth": 56, "data": "x"},
        "budget": {"macs": "50%"},
        "search": {"baselines": {"smaller": smaller}},
    }
    config = RunConfig.from_dict(data, base=tmp_path)
    first, second = (config.smaller_model(name) for name in smaller)
    assert (first.task, first.task_args) == (config.task, {"depth": 20, "data": "x"})
    assert (second.task, second.task_args) == (
        f"{tmp_path}/nets/mine.py:Small",
        {"depth": 56, "data": "x"},
    )
    again = RunConfig.from_dict(config.to_dict(), base=Path("/"), resolved=True)
    assert again.search.baselines == config.search.baselines
