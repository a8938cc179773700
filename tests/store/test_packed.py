"""Packed files: the same bits back, damage in one line, and the size that was predicted."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stripes import dense
from torch import Tensor

from autoprune.architecture import FLOAT32, INT8, Architecture
from autoprune.budget import Cost
from autoprune.candidate import Candidate
from autoprune.cost.file_size import FileSize
from autoprune.cost.model import CostModel
from autoprune.errors import StoreError
from autoprune.pruning import importance
from autoprune.pruning.build import build
from autoprune.store import (
    PrecisionReport,
    QuantizationReport,
    QuantizationSettings,
    Recipe,
    RunFolder,
    is_packed,
    pack,
    read_model,
    read_packed,
    recipe_of,
    with_file_bytes,
    write_packed,
    write_quantization,
)
from autoprune.store.packed import MAGIC, packed_parts, unpack

RECIPE = Recipe("t", {"a": 1}, Candidate(Architecture({"a": 3})), {"a": (0, 5, 9)})


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 6, 3, 3, generator=generator)
    weight[weight.abs() < 1] = 0.0
    return {
        "weight": weight,
        "tied": weight,
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3),
        "bfloat16": torch.randn(7, generator=generator).bfloat16(),
        "half": torch.randn(4, 4, generator=generator).half(),
        "double": torch.randn(3, 3, generator=generator).double(),
        "complex": torch.randn(3, dtype=torch.complex128, generator=generator),
        "flags": torch.tensor([True, False]),
        "zeros": torch.zeros(5, 5),
        "negative zeros": -torch.zeros(9, 2),
        "special": torch.tensor([float("nan"), float("inf"), -0.0, 0.0]),
        "sequence": torch.zeros(40, 3, 5).index_fill(1, torch.tensor([1]), 2.0),
    }


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_every_tensor_comes_back_bit_for_bit(tmp_path: Path) -> None:
    size = write_packed(tmp_path / "model.packed", RECIPE, state())
    assert size == (tmp_path / "model.packed").stat().st_size
    recipe, found = read_packed(tmp_path / "model.packed")
    assert (recipe.task, recipe.task_args) == ("t", {"a": 1})
    assert recipe.candidate == RECIPE.candidate
    assert recipe.kept_indices == {"a": (0, 5, 9)}
    assert found.keys() == state().keys()
    assert found["tied"] is found["weight"]
    for name, tensor in state().items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        if tensor.numel():
            one, other = (
                t.contiguous().reshape(-1).view(torch.uint8) for t in (tensor, found[name])
            )
            assert torch.equal(one, other), name


def test_it_is_the_same_for_other_memory_layouts() -> None:
    weight = state()["weight"]
    rows = weight.contiguous(memory_format=torch.channels_last)
    assert pack(RECIPE, {"weight": weight}) == pack(RECIPE, {"weight": rows})


@pytest.mark.parametrize("length", [0, 5, 10, 40, -1])
def test_a_cut_file_is_one_clear_line(tmp_path: Path, length: int) -> None:
    file = tmp_path / "model.packed"
    file.write_bytes(pack(RECIPE, state())[:length])
    with pytest.raises(StoreError, match=rf"^{file} is (damaged: .*|no packed model .*)$"):
        read_packed(file)


def test_any_wrong_byte_is_noticed() -> None:
    content = pack(RECIPE, state())
    for place in range(len(content)):
        wrong = bytearray(content)
        wrong[place] ^= 0x55
        with pytest.raises(StoreError) as caught:
            unpack(bytes(wrong), "model.packed")
        assert "\n" not in str(caught.value)


def test_what_is_missing_or_another_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        read_packed(tmp_path / "none")
    other = tmp_path / "model.onnx"
    other.write_bytes(b"ONNX" * 10)
    assert not is_packed(other)
    with pytest.raises(StoreError, match="no packed model · export writes one"):
        read_packed(other)


@pytest.mark.parametrize("pattern", [None, "0.5", "0.9", "2:4", "1:4"])
@pytest.mark.parametrize("kept", [16, 9])
def test_the_size_is_as_predicted(pattern: str | None, kept: int) -> None:
    model, graph = dense()
    patterns = {"3.weight": pattern} if pattern else {}
    there = Architecture({"0": kept, "3": kept}, patterns=patterns)
    built = build(model, graph, there, scores=importance.scores(model, graph, "l2"))
    costs = CostModel(graph, file=FileSize.of(model.state_dict(), graph))
    whole = {name: range(size) for name, size in graph.sizes().items()}
    recipe = recipe_of(Candidate(there), {**whole, **built.kept_indices}, task="")
    true = len(pack(recipe, built.model.state_dict()))
    assert costs.cost(there).file_bytes == pytest.approx(true, rel=0.02, abs=150)
    assert costs.cost(there, ["file_bytes"]).file_bytes == costs.cost(there).file_bytes
    if pattern:
        plain = there.without_patterns()
        wide = build(model, graph, plain, scores=importance.scores(model, graph, "l2")).model
        assert true < 0.8 * len(pack(recipe, wide.state_dict()))


def test_the_file_of_an_int8_model_is_the_one_beside_it(tmp_path: Path) -> None:
    model, graph = dense()
    sizes = graph.sizes()
    kept = {name: range(size) for name, size in sizes.items()}
    store = RunFolder(tmp_path)
    for precision in (FLOAT32, INT8):
        candidate = Candidate(Architecture.dense(sizes)).in_precision(precision)
        recipe = recipe_of(candidate, kept, task="")
        folder = tmp_path / store.save_model(precision, model, recipe)
        if precision == FLOAT32:
            found = with_file_bytes(Cost(macs=5), folder)
            assert found == Cost(macs=5, file_bytes=len(pack(*read_model(folder))))
    with pytest.raises(StoreError, match="has no int8 file"):
        with_file_bytes(Cost(), folder)
    told = PrecisionReport({"accuracy": 0.9}, 1234)
    report = QuantizationReport(
        *("model.int8.onnx", "", "accuracy", "maximize"), QuantizationSettings(), told, told
    )
    write_quantization(folder, replace(report, float32=PrecisionReport({"accuracy": 0.9}, 9999)))
    assert with_file_bytes(Cost(), folder) == Cost(file_bytes=1234)


def test_without_a_packed_dense_model_the_size_is_not_known() -> None:
    _, graph = dense()
    assert CostModel(graph).cost(Architecture()).file_bytes is None


def header_and_values(content: bytes) -> tuple[bytes, bytes]:
    head = packed_parts(content)[0]
    return content[len(MAGIC) + 4 : head], content[head:]


@pytest.mark.parametrize("part", ["header", "values"])
def test_a_small_file_that_unpacks_to_very_much_is_refused(part: str) -> None:
    header, values = header_and_values(pack(RECIPE, state()))
    bomb = zlib.compress(bytes(200 << 20), 9)
    header, values = (bomb, values) if part == "header" else (header, bomb)
    content = MAGIC + struct.pack("<I", len(header)) + header + values
    with pytest.raises(StoreError, match="it holds more than"):
        unpack(content, "bomb.packed")


def test_a_tensor_that_is_larger_than_the_file_is_refused_before_it_is_made() -> None:
    header, values = header_and_values(pack(RECIPE, {"zeros": torch.zeros(5, 5)}))
    said = json.loads(zlib.decompress(header))
    said["tensors"] = [["zeros", "float32", [1 << 40], 1 << 40]]
    header = zlib.compress(json.dumps(said).encode())
    content = MAGIC + struct.pack("<I", len(header)) + header + values
    with pytest.raises(StoreError, match="zeros is larger than the file"):
        unpack(content, "bomb.packed")
