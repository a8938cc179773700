"""Weights in the layout of Keras come out as the examples read them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.tasks import load_dense, load_task
from examples.cifar10 import ResNet8
from examples.voice_commands import KeywordNet
from scripts.mlperf_tiny_weights import converted, layers_of, main

ORDERS = {  # of Keras: a shortcut's convolution is as deep as the normalization beside it
    ResNet8: [
        *("conv1", "bn1"),
        *("layer1.conv1", "layer1.bn1", "layer1.conv2", "layer1.bn2"),
        *("layer2.conv1", "layer2.bn1", "layer2.conv2", "layer2.shortcut", "layer2.bn2"),
        *("layer3.conv1", "layer3.bn1", "layer3.conv2", "layer3.bn2", "layer3.shortcut"),
        "linear",
    ],
    KeywordNet: [
        *("conv1", "bn1"),
        *(f"block{n}.{part}" for n in (1, 2, 3, 4) for part in ("dw", "bn1", "pw", "bn2")),
        "linear",
    ],
}
FILES = {
    ResNet8: ("cifar10.py:Cifar10ResNet8", "resnet8_mlperf_tiny_cifar10.safetensors"),
    KeywordNet: ("voice_commands.py:VoiceCommands", "dscnn_mlperf_tiny_kws.safetensors"),
}


def drawn(kind: type[nn.Module]) -> nn.Module:
    """A network of which no two values are alike."""
    torch.manual_seed(0)
    model = kind()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                value.copy_(torch.rand(value.shape) + 0.1)
    return model.eval()


def keras_layer(module: nn.Module) -> list[np.ndarray]:
    """The arrays of a layer, element by element as Keras has them."""
    if isinstance(module, nn.BatchNorm2d):
        parts = (module.weight, module.bias, module.running_mean, module.running_var)
        return [part.detach().numpy() for part in parts]
    weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
    if isinstance(module, nn.Linear):
        return [weight.T.copy(), bias]
    out, inputs, height, width = weight.shape
    depthwise = module.groups > 1
    kernel = np.empty((height, width, out, 1) if depthwise else (height, width, inputs, out), "f4")
    for o, i, h, w in np.ndindex(weight.shape):
        kernel[(h, w, o, 0) if depthwise else (h, w, i, o)] = weight[o, i, h, w]
    return [kernel, bias]


def keras_layers(model: nn.Module) -> list[list[np.ndarray]]:
    return [keras_layer(model.get_submodule(name)) for name in ORDERS[type(model)]]


@pytest.mark.parametrize("kind", ORDERS)
def test_a_written_file_is_the_network_that_the_task_reads(
    kind: type[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = drawn(kind)
    named = {
        f"{2 * place}.{part}": array  # layers without arrays have numbers, too
        for place, arrays in enumerate(keras_layers(model))
        for part, array in enumerate(arrays)
    }
    task, file = FILES[kind]
    source, target = tmp_path / "dump.npz", tmp_path / "checkpoints" / file
    np.savez(source, **named)
    monkeypatch.setattr(sys, "argv", ["mlperf_tiny_weights", str(source), str(target)])
    main()
    place = Path(__file__).parents[2] / "examples" / task
    found = load_dense(load_task(str(place), data=tmp_path)).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(found[name], value), name


def test_layers_are_in_the_order_of_their_numbers() -> None:
    arrays = {"10.0": np.ones(1), "2.1": np.full(1, 2.0), "2.0": np.full(1, 3.0)}
    assert [[float(a[0]) for a in layer] for layer in layers_of(arrays)] == [[3.0, 2.0], [1.0]]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda layers: layers[1:], "the first layer must be a convolution of 3 x 3 or 10 x 4"),
        (lambda layers: layers[:-1], "the layers are not those of ResNet8"),
        (lambda layers: [*layers, layers[1]], "the layers are not those of ResNet8"),
    ],
)
def test_other_layers_are_refused(change, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        converted(change(keras_layers(drawn(ResNet8))))
