"""What the inputs of a trained model's layers look like: means and second moments, in one pass.

For a layer y = W x + b every question of closed-form pruning (how to mend W when inputs leave,
which inputs matter least) is answered by the mean and the covariance of x. Here x is a feature
vector of a `Linear` layer (one row per token) or the patch under a convolution's kernel (one row
per output position, the columns in the order of `weight.reshape(out, -1)`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.errors import UsageError

Forward = Callable[[nn.Module, Any], Any]

_MIN_ROWS = 65_536  # rows per layer that are aimed at, more for layers with very many inputs
_MAX_INPUTS = 8_192  # a wider layer (512 MiB of fp64) is skipped, with that reason
_CHUNK_VALUES = 2**22  # fp32 values of one block of patches: 16 MiB


@dataclass(frozen=True, eq=False)
class Moment:
    """Mean and covariance of what one weight is multiplied with.

    `covariance` (blocks, d, d) and `mean` (blocks, d) are float64 on the CPU; a grouped convolution
    has one block per group, everything else one. `rows` is how many patches or tokens were seen.
    `input_dim` is the dimension of the weight that is contracted (1, or 0 where the model computes
    `x @ weight`). `bias` is the `state_dict` key of the bias that is added to the product, `norm`
    the path of the batch normalisation that alone takes the result: either of them can absorb a
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

    `norms` has (mean, variance) of each batch normalisation's input on the calibration data, by
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
    (a tied embedding), depthwise and transposed convolutions are left out.

    Raises UsageError when there is no batch.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> calibration = calibrate(model, [torch.randn(64, 4), torch.randn(64, 4)])
    >>> calibration.samples, calibration.moments["2.weight"].covariance.shape
    (128, torch.Size([1, 8, 8]))
    """
    if max_samples < 1:
        raise UsageError(f"max_samples must be at least 1, got {max_samples}")
    recorder = _Recorder(model, max_samples, seed)
    seen = 0
    with evaluating(model), torch.no_grad():
        for batch in batches:
            batch, size = _take(batch, max_samples - seen)
            recorder.begin(size)
            with recorder:
                run(model, batch, forward)
            seen += size
            if seen >= max_samples:
                break
    if seen == 0:
        raise UsageError("calibration needs at least one batch, got none · pass a loader with data")
    return recorder.result(seen)


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
    """Eval mode without fused attention; modes and the random state are put back on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes:
            module.training = mode


def _take(batch: Any, limit: int) -> tuple[Any, int]:
    """The first `limit` samples of a batch, and how many there are."""
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

    def __init__(self, blocks: int, inputs: int, input_dim: int, device: torch.device) -> None:
        self.input_dim = input_dim
        self.rows = 0
        self.shift: Tensor | None = None
        self.first = torch.zeros(blocks, inputs, dtype=torch.float64, device=device)
        self.second = torch.zeros(blocks, inputs, inputs, dtype=torch.float64, device=device)
        self.biases: set[str | None] = set()
        self.norms: set[str | None] = set()

    def add(self, rows: Tensor) -> None:
        """Add `rows` (blocks, n, d): products in fp32 around a fixed shift, sums in fp64."""
        rows = rows.float()
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


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation of the forward pass and keeps the sums of those with a weight."""

    def __init__(self, model: nn.Module, max_samples: int, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parameters = {
            p.untyped_storage().data_ptr(): (name, p) for name, p in model.named_parameters()
        }
        self.running = {
            b.untyped_storage().data_ptr(): name.rpartition(".")[0]
            for name, b in model.named_buffers()
            if name.endswith("running_mean")
        }
        self.max_samples = max_samples
        self.generator = torch.Generator().manual_seed(seed)
        self.sums: dict[str, _Sums] = {}
        self.norm_sums: dict[str, tuple[int, Tensor, Tensor]] = {}
        self.skipped: dict[str, str] = {}
        self.outputs: Any = WeakTensorKeyDictionary()  # result of a product -> name of its weight
        self.feeders: dict[str, set[str | None]] = {}  # batch normalisation -> weights before it
        self.size = 1

    def begin(self, size: int) -> None:
        """A batch of `size` samples follows."""
        self.size = size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name == "aten::convolution":
            self._convolution(out, *args[:9])
        elif name in ("aten::mm", "aten::bmm"):
            self._product(out, args[0], args[1], None)
        elif name == "aten::addmm":
            self._product(out, args[1], args[2], args[0])
        elif "batch_norm" in name:
            self._norm(args)
        elif not any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns):
            self._other(args, kwargs, name)
        else:
            self._feed(args[0])
        return out

    def _weight(self, tensor: Any) -> tuple[str, Tensor] | None:
        """The parameter that `tensor` is a whole view of."""
        if not isinstance(tensor, Tensor):
            return None
        return self.parameters.get(tensor.untyped_storage().data_ptr())

    def _convolution(self, out: Tensor, x: Tensor, weight: Tensor, bias: Any, *rest: Any) -> None:
        stride, padding, dilation, transposed, _, groups = rest
        self._feed(x)
        found = self._weight(weight)
        if found is None:
            return
        name, parameter = found
        inputs = math.prod(weight.shape[1:])
        if transposed:
            self.skipped[name] = "a transposed convolution"
        elif weight.shape[1] == 1 and groups > 1:
            self.skipped[name] = "a depthwise convolution has no inputs to weigh"
        elif weight.numel() != parameter.numel():
            self.skipped[name] = "only a part of the weight is used at once"
        else:
            sums = self._begin(name, groups, inputs, 1, x)
            if sums is None:
                return
            for rows in self._patches(x, weight.shape[2:], stride, padding, dilation):
                sums.add(rows.reshape(rows.shape[0], groups, inputs).transpose(0, 1))
            self._end(name, sums, out, bias)

    def _product(self, out: Tensor, x: Tensor, weight: Tensor, bias: Any) -> None:
        self._feed(x)
        found = self._weight(weight)
        if self._weight(x) is not None:
            self._other((x,), None, "a matrix product")
        if found is None:
            return
        name, parameter = found
        if weight.dim() == 3 and weight.stride(0) == 0:
            weight = weight[0]
        if weight.dim() != 2 or weight.numel() != parameter.numel():
            self.skipped[name] = "only a part of the weight is used at once"
            return
        input_dim = (
            0 if weight.shape == parameter.shape and (weight.stride() == parameter.stride()) else 1
        )
        sums = self._begin(name, 1, weight.shape[0], input_dim, x)
        if sums is None:
            return
        rows = x.reshape(-1, x.shape[-1])
        wanted = self._wanted(rows.shape[1])
        if wanted < rows.shape[0]:
            chosen = torch.randperm(rows.shape[0], generator=self.generator)[:wanted]
            rows = rows[chosen.to(rows.device)]
        for part in torch.split(rows, max(256, _CHUNK_VALUES // rows.shape[1])):
            sums.add(part[None])
        self._end(name, sums, out, bias)

    def _begin(
        self, name: str, blocks: int, inputs: int, input_dim: int, x: Tensor
    ) -> _Sums | None:
        if inputs > _MAX_INPUTS:
            self.skipped[name] = f"{inputs} inputs, more than {_MAX_INPUTS}"
            return None
        if name not in self.sums:
            self.sums[name] = _Sums(blocks, inputs, input_dim, x.device)
        sums = self.sums[name]
        if sums.input_dim != input_dim:
            self.skipped[name] = "the weight is used in both directions"
        return sums

    def _end(self, name: str, sums: _Sums, out: Tensor, bias: Any) -> None:
        found = self._weight(bias)
        sums.biases.add(found[0] if found else None)
        self.outputs[out] = name

    def _wanted(self, inputs: int) -> int:
        """Rows to draw from this batch."""
        return math.ceil(max(_MIN_ROWS, 8 * inputs) / self.max_samples) * self.size

    def _patches(
        self, x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any
    ) -> Iterator[Tensor]:
        """Blocks (n, channels, *kernel) of patches at random output positions of each sample."""
        x = F.pad(x, [p for pad in reversed(padding) for p in (pad, pad)])
        spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        places = [
            (n - span) // s + 1 for n, span, s in zip(x.shape[2:], spans, stride, strict=True)
        ]
        steps = x.stride()
        shape = (x.shape[0], *places, x.shape[1], *kernel)
        jumps = [s * n for s, n in zip(stride, steps[2:], strict=True)]
        taps = [d * n for d, n in zip(dilation, steps[2:], strict=True)]
        view = x.as_strided(shape, (steps[0], *jumps, steps[1], *taps))
        positions = math.prod(places)
        inputs = x.shape[1] * math.prod(kernel)
        wanted = min(positions, math.ceil(self._wanted(inputs) / x.shape[0]))
        at_once = max(1, _CHUNK_VALUES // (wanted * inputs))
        for begin in range(0, x.shape[0], at_once):
            part = view[begin : begin + at_once]
            yield self._draw(part, places, wanted).reshape(-1, x.shape[1], *kernel)

    def _draw(self, patches: Tensor, places: list[int], wanted: int) -> Tensor:
        if wanted == math.prod(places):
            return patches
        order = torch.rand(patches.shape[0], math.prod(places), generator=self.generator)
        chosen = order.topk(wanted, dim=1).indices.to(patches.device)
        samples = torch.arange(patches.shape[0], device=patches.device)[:, None]
        return patches[(samples, *torch.unravel_index(chosen, tuple(places)))]

    def _norm(self, args: tuple[Any, ...]) -> None:
        x, running = args[0], args[3]
        path = (
            self.running.get(running.untyped_storage().data_ptr())
            if (isinstance(running, Tensor))
            else None
        )
        self._feed(x, path)
        if path is None:
            return
        values = x.double().transpose(0, 1).reshape(x.shape[1], -1)
        rows, first, second = self.norm_sums.get(path, (0, 0.0, 0.0))
        self.norm_sums[path] = (
            rows + values.shape[1],
            first + values.sum(1),
            second + values.square().sum(1),
        )

    def _other(self, args: Any, kwargs: Any, name: str) -> None:
        for tensor in tree_flatten((args, kwargs or {}))[0]:
            if not isinstance(tensor, Tensor):
                continue
            self._feed(tensor)
            found = self._weight(tensor)
            if found is not None:
                self.skipped[found[0]] = f"used by {name} as well"

    def _feed(self, x: Any, norm: str | None = None) -> None:
        """`x` goes into the batch normalisation `norm`, or into anything else."""
        producer = self.outputs.get(x) if isinstance(x, Tensor) else None
        if producer is not None:
            self.sums[producer].norms.add(norm)
        if norm is not None:
            self.feeders.setdefault(norm, set()).add(producer)

    def result(self, samples: int) -> Calibration:
        biases = [b for sums in self.sums.values() for b in sums.biases]
        moments = {}
        for name, sums in self.sums.items():
            bias = next(iter(sums.biases)) if len(sums.biases) == 1 else None
            if bias is not None and (biases.count(bias) > 1 or bias in self.skipped):
                bias = None
            norm = next(iter(sums.norms)) if len(sums.norms) == 1 else None
            if norm is not None and len(self.feeders[norm]) > 1:
                norm = None
            if name not in self.skipped:
                moments[name] = sums.result(bias, norm)
        weights = {name for name, parameter in self.parameters.values() if parameter.dim() > 1}
        norms = {}
        for path, (rows, first, second) in self.norm_sums.items():
            mean = first / rows
            norms[path] = (mean.cpu(), (second / rows - mean.square()).clamp_min(0.0).cpu())
        skipped = {name: why for name, why in self.skipped.items() if name in weights}
        return Calibration(moments, norms, skipped, samples)
