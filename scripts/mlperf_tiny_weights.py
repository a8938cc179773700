"""Weights of MLPerf Tiny's reference networks as the examples read them, from the arrays in Keras.

    python -m scripts.mlperf_tiny_weights resnet8.npz CHECKPOINTS/resnet8_mlperf_tiny_cifar10.safetensors

The .npz has the arrays of each layer of Keras, called `LAYER.PLACE` (examples/README.md says how it
is written). Layers without arrays are left out of it.
"""  # noqa: E501

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.cifar10 import ResNet8
from examples.voice_commands import KeywordNet

NETWORKS = {(3, 3): ResNet8, (10, 4): KeywordNet}  # by the kernel of the first convolution
Arrays = list[np.ndarray]
_NORM, _LINEAR = "normalization", "linear"
_OF_NORM = ("weight", "bias", "running_mean", "running_var")


def main() -> None:
    """Read the arrays, convert them, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arrays", type=Path, help="the .npz")
    parser.add_argument("weights", type=Path, help="the .safetensors to write")
    given = parser.parse_args()
    with np.load(given.arrays, allow_pickle=False) as held:
        layers = layers_of(dict(held))
    try:
        weights = converted(layers)
    except ValueError as error:
        sys.exit(f"{given.arrays}: {error}")
    given.weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, given.weights)
    print(f"wrote {given.weights}")


def layers_of(arrays: Mapping[str, np.ndarray]) -> list[Arrays]:
    """The arrays of each layer, in the order of their names."""
    names = sorted(arrays, key=lambda name: tuple(map(int, name.split("."))))
    return [
        [arrays[name] for name in found]
        for _, found in groupby(names, lambda name: name.split(".")[0])
    ]


def converted(layers: Iterable[Arrays]) -> dict[str, Tensor]:
    """The weights by the names of the network that has such layers.

    Layers of one kind (convolutions: of one kernel) stand in the network's order. Raises ValueError
    where they are none of `NETWORKS`.
    """
    queues: dict[object, list[Arrays]] = defaultdict(list)
    for arrays in layers:
        queues[_kind(arrays)].append(arrays)
    network = NETWORKS.get(next(iter(queues), None))
    if network is None:
        raise ValueError("the first layer must be a convolution of 3 x 3 or 10 x 4")
    found: dict[str, Tensor] = {}
    model = network()
    for path, module in model.named_modules():
        kind = _kind_of(module)
        if kind is not None and queues[kind]:
            found |= {f"{path}.{name}": t for name, t in _weights(module, queues[kind].pop(0))}
    wanted = {n: tuple(t.shape) for n, t in model.state_dict().items() if n[-8:] != "_tracked"}
    if {n: tuple(t.shape) for n, t in found.items()} != wanted or any(queues.values()):
        raise ValueError(f"the layers are not those of {network.__name__}")
    return found


def _kind(arrays: Arrays) -> object:
    if len(arrays) == len(_OF_NORM):
        return _NORM
    return _LINEAR if arrays[0].ndim == 2 else arrays[0].shape[:2]


def _kind_of(module: nn.Module) -> object:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size
    return {nn.BatchNorm2d: _NORM, nn.Linear: _LINEAR}.get(type(module))


def _weights(module: nn.Module, arrays: Arrays) -> Iterable[tuple[str, Tensor]]:
    """The arrays as PyTorch orders them: Keras has (height, width, inputs, outputs)."""
    if isinstance(module, nn.Conv2d):
        # of a depthwise convolution (height, width, channels, 1)
        order = (3, 2, 0, 1) if module.groups == 1 else (2, 3, 0, 1)
        arrays = [arrays[0].transpose(order), *arrays[1:]]
    elif isinstance(module, nn.Linear):
        arrays = [arrays[0].T, *arrays[1:]]
    for name, array in zip(_OF_NORM, arrays, strict=False):
        yield name, torch.from_numpy(np.ascontiguousarray(array, np.float32))


if __name__ == "__main__":
    main()
