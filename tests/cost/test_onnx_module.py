"""A written model answers calls as the module did that it was written from."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch import nn

from autoprune.cost.latency import measure_together
from autoprune.cost.onnx_export import to_onnx
from autoprune.cost.onnx_module import OnnxModule
from autoprune.errors import ExportError

Pair = namedtuple("Pair", ["logits", "hidden"])


class Net(nn.Module):
    """Answers in the form that it is told, with a part that is no tensor."""

    def __init__(self, form) -> None:
        super().__init__()
        self.form = form
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, tokens, scale):
        hidden = self.embed(tokens) * scale
        return self.form(self.head(hidden), hidden)


FORMS = {
    "tensor": lambda logits, hidden: logits,
    "tuple": lambda logits, hidden: (logits, [hidden, 3]),
    "mapping": lambda logits, hidden: {"logits": logits, "hidden": hidden, "nothing": None},
    "named tuple": Pair,
}


def inputs(batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    tokens = torch.randint(0, 7, (batch, 5), generator=generator)
    return {"tokens": tokens, "scale": torch.rand(batch, 1, 1, generator=generator)}


def opened(model: nn.Module, example, dynamic: bool = False) -> OnnxModule:
    return OnnxModule(to_onnx(model, example, dynamic_batch=dynamic), model, example)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_is_answered_in_the_form_of_the_module(form: str, batch: int) -> None:
    model = Net(FORMS[form]).eval()
    given = inputs(batch)
    with torch.no_grad():
        expected = model(**given)
    for dynamic in (False, True):
        found = opened(model, inputs(2), dynamic)(**dict(reversed(given.items())))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_output_class_of_transformers_comes_back() -> None:
    modeling_outputs = pytest.importorskip("transformers.modeling_outputs")
    answer = modeling_outputs.SequenceClassifierOutput
    model = Net(lambda logits, hidden: answer(logits=logits)).eval()
    found = opened(model, inputs(2))(**inputs(3))
    assert isinstance(found, answer)
    assert found.logits.shape == (3, 5, 3)


def test_call_that_does_not_fit_is_one_line() -> None:
    module = opened(Net(FORMS["tensor"]).eval(), inputs(2))
    with pytest.raises(ExportError, match=r"takes the inputs tokens, scale, got 1 tensors"):
        module(tokens=inputs(2)["tokens"])
    with pytest.raises(ExportError, match=r"got 2 tensors and mask"):
        module(**inputs(2), mask=torch.ones(2))
    with pytest.raises(ExportError, match="the file does not run"):
        module(tokens=torch.zeros(2, 9, dtype=torch.int64), scale=torch.ones(2, 1, 1))


def test_other_sizes_ask_for_another_file_first() -> None:
    model = Net(FORMS["tensor"]).eval()
    module, asked = opened(model, inputs(2)), []
    longer = {"tokens": torch.ones(3, 9, dtype=torch.int64), "scale": torch.ones(3, 1, 1)}

    def rewrite(call) -> None:
        asked.append([array.shape for array in call])
        module.reopen(to_onnx(model, longer))

    module.rewrite = rewrite
    module(**inputs(3))
    assert asked == []
    for _ in range(2):
        assert torch.allclose(module(**longer), model(**longer), atol=1e-5)
    assert asked == [[(3, 9), (3, 1, 1)]]


def test_output_without_a_batch_needs_a_free_one() -> None:
    class Total(nn.Module):
        def forward(self, x):
            return x.sum()

    with pytest.raises(ExportError, match="fixed batch of 2 and outputs without it, got 3 samples"):
        opened(Total(), torch.ones(2, 4))(torch.ones(3, 4))
    assert opened(Total(), torch.ones(2, 4), dynamic=True)(torch.ones(3, 4)) == 12.0


def test_latency_is_that_of_the_file_as_it_was_written() -> None:
    example = torch.rand(1, 512)
    large = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512))
    small = nn.Linear(512, 8)
    stands_for_small = OnnxModule(to_onnx(small, example), large, example)
    found = measure_together(
        [large, stands_for_small], example, "onnxruntime", repeats=30, warmup_s=0.02
    )
    assert found[1].median_ms < found[0].median_ms / 4
    assert found[1].device.dtype == "float32"
