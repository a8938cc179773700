"""Calibration: means and second moments of the inputs of all layers, in one pass.

For a layer y = W x + b every question of closed-form pruning (how to repair W when inputs are
removed, which inputs matter least) is answered by the mean and the covariance of x. Here x is a
feature vector of a `Linear` layer (one row per token) or the patch under a convolution's kernel
(one row per output position, the columns in the order of `weight.reshape(out, -1)`; of a transposed
convolution what each tap of the kernel brings there, 0 for taps that bring nothing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from autoprune.errors import UsageError
from autoprune.graph.mode import again_uncompiled
from autoprune.graph.replica import check_module, same_embeddings
from autoprune.pruning.computed_weights import plain_weights
from autoprune.pruning.linear_ops import LinearOp, LinearOpMode, NormTracker

Forward = Callable[[nn.Module, Any], Any]

_MIN_ROWS = 65_536  # rows per layer that are aimed at, more for layers with very many inputs
_MAX_INPUTS = 8_192  # a wider layer (512 MiB of fp64) is skipped, with that reason
_CHUNK_VALUES = 2**20  # worked on at once: 4 MiB of fp32; more only scatters the heap
_CHUNK_ROWS = 1_024  # at least, as every block's product is added to d * d sums


@dataclass(frozen=True, eq=False)
class Moment:
    """Mean and covariance of what one weight is multiplied with.

    `covariance` (blocks, d, d) and `mean` (blocks, d) are float64 on the CPU; a grouped convolution
    has one block per group, everything else one. `rows` is how many patches or tokens were seen.
    `input_dim` is the dimension of the weight that is contracted (1, or 0 where the model computes
    `x @ weight`). `bias` is the `state_dict` key of the bias that is added to the product, `norm`
    the path of the batch normalization that alone takes the result: either of them can absorb a
    shift of the output.
    """

    covariance: Tensor
    mean: Tensor
    rows: int
    input_dim: int
    bias: str | None
    norm: str | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """Second moments of the layers' inputs, by the weight's `state_dict` key.

    A moment holds the `mean` (blocks, d) and the `covariance` (blocks, d, d) of a layer's d inputs,
    float64 on the CPU; a grouped convolution has a block for each of its groups, any other layer
    one. `norms` has (mean, variance), each (channels,), of each batch normalization's input, by
    module path. `skipped` says for the weights that have no moment why. `samples` is the number of
    calibration samples that were used.
    """

    moments: Mapping[str, Moment]
    norms: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    samples: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes held by all moments."""
        tensors = [t for m in self.moments.values() for t in (m.covariance, m.mean)]
        return sum(t.numel() * t.element_size() for t in tensors)


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    max_samples: int = 1024,
    seed: int = 0,
    forward: Forward | None = None,
) -> Calibration:
    """Collect means and second moments of the inputs of every convolution and `Linear` layer.

    A batch is a tensor, a mapping of keyword arguments, or a tuple or list whose first entry is the
    model's input (the rest, targets, is ignored); `forward(model, batch)` runs any other kind. The
    first `max_samples` samples are used; of their patches at least 65,536 per layer are drawn with
    `seed` (all of them where there are fewer). The model runs in eval mode on its own device and is
    unchanged afterwards. Sums are kept in float64. Weights that are used in another way as well
    (a tied embedding) or through a permuted or reshaped view, depthwise convolutions and transposed
    ones in groups are left out. Weights with a weight norm or a spectral norm are under the name of
    the parameter of their shape.

    Raises UsageError when there is no batch, GraphError where the model is no `nn.Module`.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> calibration = calibrate(model, [torch.randn(64, 4), torch.randn(64, 4)])
    >>> calibration.samples, calibration.moments["2.weight"].covariance.shape
    (128, torch.Size([1, 8, 8]))
    """
    check_module(model)
    if max_samples < 1:
        raise UsageError(f"max_samples must be at least 1, got {max_samples}")
    collect = partial(_collect, model, batches, max_samples, seed, forward)
    seen, recorder = collect() if isinstance(batches, Iterator) else again_uncompiled(collect)
    if seen == 0:
        raise UsageError("calibration needs at least one batch, got none · pass a loader with data")
    return recorder.result(seen)


def _collect(
    model: nn.Module,
    batches: Iterable[Any],
    max_samples: int,
    seed: int,
    forward: Forward | None,
) -> tuple[int, _Recorder]:
    """The samples seen, and the sums over them."""
    seen = 0
    with evaluating(model), plain_weights(model), torch.no_grad():
        recorder = _Recorder(model, max_samples, seed)
        for batch in batches:
            batch, size = take(batch, max_samples - seen)
            recorder.size = size
            with recorder:
                run(model, batch, forward)
            seen += size
            if seen >= max_samples:
                break
    return seen, recorder


def run(model: nn.Module, batch: Any, forward: Forward | None = None) -> Any:
    """Call `model` on a loader's batch, on the device of its parameters (see `calibrate`)."""
    if forward is not None:
        return forward(model, batch)
    inputs = batch[0] if isinstance(batch, tuple | list) else batch
    parameter = next(model.parameters(), None)
    if parameter is not None:
        inputs = tree_map(lambda x: x.to(parameter.device) if isinstance(x, Tensor) else x, inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without fused attention and LSTMs, which would hide their products.

    Modes, embeddings and the random state are put back on leaving.
    """
    modes = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices=[]), _plain_lstm(model), same_embeddings(model):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes:
            module.training = mode


@contextmanager
def _plain_lstm(model: nn.Module) -> Iterator[None]:
    """Without oneDNN while an `nn.LSTM` runs; convolutions still have it, and need its speed."""
    enabled = torch.backends.mkldnn.enabled

    def switch(to: Any) -> None:
        torch.backends.mkldnn.enabled = to

    handles = []
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            handles.append(module.register_forward_pre_hook(lambda *_: switch(to=False)))
            handles.append(module.register_forward_hook(lambda *_: switch(enabled)))
    try:
        yield
    finally:
        switch(enabled)
        for handle in handles:
            handle.remove()


def take(batch: Any, limit: int) -> tuple[Any, int]:
    """The first `limit` samples of a batch, and how many there are."""
    if isinstance(batch, Mapping):  # a pytree only where it is a plain dictionary
        batch = dict(batch)
    sizes = [x.shape[0] for x in tree_flatten(batch)[0] if isinstance(x, Tensor) and x.dim()]
    if not sizes:
        raise UsageError(f"a calibration batch must hold a tensor, got {type(batch).__name__}")
    size: int = sizes[0]
    if size <= limit:
        return batch, size

    def cut(x: Any) -> Any:
        whole = isinstance(x, Tensor) and x.dim() > 0 and x.shape[0] == size
        return x[:limit] if whole else x

    return tree_map(cut, batch), limit


class _Sums:
    """Running sums of rows and of their products around the first block's mean."""

    def __init__(self, product: LinearOp) -> None:
        blocks, inputs, device = product.blocks, product.inputs, product.x.device
        self.input_dim = product.input_dim
        self.rows = 0
        self.shift: Tensor | None = None
        self.first = torch.zeros(blocks, inputs, dtype=torch.float64, device=device)
        self.second = torch.zeros(blocks, inputs, inputs, dtype=torch.float64, device=device)
        self.biases: set[str | None] = set()

    def add(self, rows: Tensor) -> None:
        """Add `rows` (blocks, n, d): products in fp32 around a fixed shift, sums in fp64."""
        if self.shift is None:
            self.shift = rows.mean(1, keepdim=True)
        rows = rows - self.shift
        self.first += rows.sum(1, dtype=torch.float64)
        self.second += rows.transpose(1, 2) @ rows
        self.rows += rows.shape[1]

    def result(self, bias: str | None, norm: str | None) -> Moment:
        """The moment of all rows so far."""
        assert self.shift is not None
        if not bool(torch.isfinite(self.second).all()):
            raise UsageError("the model's activations on the calibration data hold NaN or infinity")
        offset = self.first / self.rows
        covariance = self.second / self.rows - offset[:, :, None] * offset[:, None, :]
        mean = offset + self.shift[:, 0].double()
        return Moment(covariance.cpu(), mean.cpu(), self.rows, self.input_dim, bias, norm)


class _Recorder(LinearOpMode):  # type: ignore[no-untyped-call]
    """Keeps the sums of every product's inputs and of every batch normalization's."""

    def __init__(self, model: nn.Module, max_samples: int, seed: int) -> None:
        super().__init__(model)
        self.max_samples = max_samples
        self.generator = torch.Generator().manual_seed(seed)
        self.sums: dict[str, _Sums] = {}
        self.norm_sums: dict[str, tuple[int, Tensor, Tensor]] = {}
        self.norm_tracker = NormTracker()

    def on_linear_op(self, func: Any, args: Any, product: LinearOp | None, x: Tensor) -> Any:
        """Add a sample of the product's inputs."""
        out = func(*args)
        self.norm_tracker.used_by(x)
        if product is not None and self._is_supported(product):
            wanted = math.ceil(max(_MIN_ROWS, 8 * product.inputs) / self.max_samples) * self.size
            places = product.draw(wanted, self.generator)
            if product.name not in self.sums:
                self.sums[product.name] = _Sums(product)
            sums = self.sums[product.name]
            sums.biases.add(product.bias)
            at_once = max(_CHUNK_ROWS, _CHUNK_VALUES // (product.inputs * product.blocks))
            for start in range(0, len(places), at_once):
                sums.add(product.rows(places[start : start + at_once]))
            self.norm_tracker.produced(out, product.name)
        return out

    def _is_supported(self, product: LinearOp) -> bool:
        known = self.sums.get(product.name)
        if product.blocks > 1 and product.blocks == product.x.shape[1]:
            self.skipped[product.name] = "a depthwise convolution has no inputs to select from"
        elif product.inputs > _MAX_INPUTS:
            self.skipped[product.name] = f"{product.inputs} inputs, more than {_MAX_INPUTS}"
        elif known is not None and known.input_dim != product.input_dim:
            self.skipped[product.name] = "the weight is used in both directions"
        return product.name not in self.skipped

    def on_norm(self, func: Any, args: Any, kwargs: Any, path: str | None) -> Any:
        """Add the sums of the normalization's input."""
        x: Tensor = args[0]
        self.norm_tracker.used_by(x, path)
        if path is not None:
            none = x.new_zeros(x.shape[1], dtype=torch.float64)
            rows, first, second = self.norm_sums.get(path, (0, none, none))
            for part in torch.split(x, max(1, _CHUNK_VALUES * len(x) // x.numel())):
                values = part.double().transpose(0, 1).flatten(1)
                first, second = first + values.sum(1), second + values.square().sum(1)
            self.norm_sums[path] = (rows + x.numel() // x.shape[1], first, second)
        return func(*args, **kwargs)

    def on_other(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Note other uses of the result."""
        self.norm_tracker.used_by((args, kwargs))
        return func(*args, **kwargs)

    on_view = on_other

    def result(self, samples: int) -> Calibration:
        """All sums as one value."""
        biases = [bias for sums in self.sums.values() for bias in sums.biases]
        moments = {}
        for name, sums in self.sums.items():
            bias = next(iter(sums.biases)) if len(sums.biases) == 1 else None
            if bias is not None and (biases.count(bias) > 1 or bias in self.skipped):
                bias = None
            if name not in self.skipped:
                moments[name] = sums.result(bias, self.norm_tracker.norm(name))
        norms = {}
        for path, (rows, first, second) in self.norm_sums.items():
            mean = first / rows
            norms[path] = (mean.cpu(), (second / rows - mean.square()).clamp_min(0.0).cpu())
        weights = {name for name, parameter in self.parameters.values() if parameter.dim() > 1}
        skipped = {name: why for name, why in self.skipped.items() if name in weights}
        return Calibration(moments, norms, skipped, samples)
