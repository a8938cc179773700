"""What predicts peak memory and files in each precision, and how far it is to be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import stripes
from stripes import Stripes

from autoprune._search.measuring.byte_models import ByteModels, file_sizes, peak_memories
from autoprune._search.measuring.target_devices import ProfiledModel
from autoprune.architecture import FLOAT32, INT8, Architecture
from autoprune.cost.activations import PeakMemory
from autoprune.cost.file_size import MARGIN, FileSize
from autoprune.cost.int8_file import Int8File
from autoprune.cost_fields import FILE, MEMORY


def profiled() -> ProfiledModel:
    model, graph = stripes.dense()
    return ProfiledModel(model, graph, Stripes().example_input())


@dataclass
class Target:
    """A device that notes in which precision it was asked."""

    fitted: PeakMemory
    asked: list[str] = field(default_factory=list)

    def peak_memory(self, model: Any, precision: str) -> PeakMemory:
        self.asked.append(precision)
        return self.fitted


def int8_file(margin: float) -> Int8File:
    return Int8File(100.0, 1.0, 8.0, 50.0, margin)


def test_the_margin_is_that_of_the_least_certain_precision() -> None:
    assert ByteModels().margins == {}
    sure, unsure = PeakMemory(), PeakMemory(upper_factor=1.3)
    assert ByteModels(memory={FLOAT32: (sure,)}).margins == {}
    memory = {FLOAT32: (sure, PeakMemory(upper_factor=1.1)), INT8: (sure, unsure)}
    assert ByteModels(memory=memory).margins == {MEMORY: pytest.approx(0.3)}
    packed = FileSize(100.0, 0.9)
    assert ByteModels(files={FLOAT32: packed}).margins == {FILE: MARGIN}
    assert ByteModels(files={FLOAT32: packed, INT8: int8_file(0.01)}).margins == {FILE: MARGIN}
    assert ByteModels(files={FLOAT32: packed, INT8: int8_file(0.2)}).margins == {FILE: 0.2}


def test_each_precision_has_its_own_models() -> None:
    _, graph = stripes.dense()
    models = ByteModels({INT8: (PeakMemory(plain=3.0),)}, {INT8: int8_file(0.0)})
    whole = Architecture()
    floats, int8 = (models.costs(graph, {}, each).cost(whole) for each in (FLOAT32, INT8))
    counted = ByteModels().costs(graph, {}, INT8).cost(whole)
    assert floats.file_bytes is None
    assert int8.file_bytes is not None
    assert int8.weight_bytes == counted.weight_bytes
    assert int8.peak_memory_bytes > counted.peak_memory_bytes


def test_memory_is_measured_in_each_precision_where_it_counts() -> None:
    one, two = Target(PeakMemory(plain=1.0)), Target(PeakMemory(plain=2.0))
    said: list[str] = []
    found = peak_memories([MEMORY], profiled(), [one, two], [FLOAT32, INT8], said.append)  # type: ignore[list-item]
    assert found == {FLOAT32: (one.fitted, two.fitted), INT8: (one.fitted, two.fitted)}
    assert (one.asked, two.asked) == ([FLOAT32, INT8], [FLOAT32, INT8])
    assert said == ["peak memory of random prunings", "peak memory of random prunings in int8"]
    assert peak_memories(["macs"], profiled(), [one], [FLOAT32], said.append) == {}  # type: ignore[list-item]
    assert peak_memories([MEMORY], profiled(), [], [FLOAT32], said.append) == {}


def test_files_are_written_where_their_size_counts() -> None:
    said: list[str] = []
    assert file_sizes(["macs"], profiled(), Stripes(), "", [FLOAT32, INT8], said.append) == {}
    found = file_sizes([FILE], profiled(), Stripes(), "", [FLOAT32], said.append)
    assert (list(found), said) == ([FLOAT32], [])
    found = file_sizes([FILE], profiled(), Stripes(), "", [INT8], said.append)
    assert {name: type(each) for name, each in found.items()} == {FLOAT32: FileSize, INT8: Int8File}
    assert said == ["int8 files of random prunings"]
