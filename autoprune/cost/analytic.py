"""Counting what one forward pass costs, by watching it run.

The model runs once on its example inputs under a `TorchDispatchMode`. Each operator that
contracts (convolutions, matrix products, attention, recurrent layers) has a formula in `MACS`; an
operator that is neither there nor known to be free of contractions is *uncounted*, and its name is
part of the result.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from autoprune.architecture import FLOAT32, INT8
from autoprune.budget import Cost
from autoprune.cost.activations import FLOAT_BYTES
from autoprune.cost.inputs import Inputs, as_call, bytes_of, evaluating, parts, tensors
from autoprune.graph.calls import elements
from autoprune.graph.mode import Mode, again_uncompiled, is_program, name_of
from autoprune.graph.replica import check_module

_log = logging.getLogger(__name__)

Formula = Callable[[Sequence[Any], Sequence[Tensor]], int]


def _convolution(args: Sequence[Any], outputs: Sequence[Tensor]) -> int:
    """Each output element of a convolution (input element, if transposed) meets one filter."""
    source, weight, transposed = args[0], args[1], bool(args[6])
    positions = source.numel() if transposed else outputs[0].numel()
    return int(positions * (weight.numel() // max(1, weight.shape[0])))


def _product(left: int, right: int) -> Formula:
    """(..., n, k) @ (..., k, m): elements of the left operand (if sparse, the stored) times m."""

    def macs(args: Sequence[Any], outputs: Sequence[Tensor]) -> int:
        a, b = args[left], args[right]
        return int(elements(a) * (b.shape[-1] if b.dim() > 1 else 1))

    return macs


def _linear(args: Sequence[Any], outputs: Sequence[Tensor]) -> int:
    return int(args[0].numel() * (args[1].shape[0] if args[1].dim() > 1 else 1))


def _attention(args: Sequence[Any], outputs: Sequence[Tensor]) -> int:
    """Query (..., L, E), key (..., S, E), value (..., S, V): L S E for the scores, L S V after."""
    query, key, value = args[:3]
    scores = math.prod(query.shape[:-1]) * key.shape[-2]
    return int(scores * (query.shape[-1] + value.shape[-1]))


def _recurrent_layer(args: Sequence[Any], outputs: Sequence[Tensor]) -> int:
    """Every step of every sequence meets the input and the hidden weights once."""
    steps = math.prod(args[0].shape[:-1])
    return int(steps * (args[1].numel() + args[2].numel()))


MACS: Mapping[str, Formula] = {
    "aten::convolution": _convolution,
    "aten::_convolution": _convolution,
    "aten::convolution_overrideable": _convolution,
    "aten::mm": _product(0, 1),
    "aten::bmm": _product(0, 1),
    "aten::mv": _product(0, 1),
    "aten::dot": _product(0, 1),
    "aten::addmm": _product(1, 2),
    "aten::_sparse_addmm": _product(1, 2),
    "aten::baddbmm": _product(1, 2),
    "aten::addbmm": _product(1, 2),
    "aten::addmv": _product(1, 2),
    "aten::linear": _linear,
    "aten::mkldnn_linear": _linear,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention": _attention,
    "aten::_scaled_dot_product_efficient_attention": _attention,
    "aten::_scaled_dot_product_cudnn_attention": _attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": _attention,
    "aten::mkldnn_rnn_layer": _recurrent_layer,
}
"""Operator → multiply-accumulates of one call, from its arguments and its outputs."""

FREE: frozenset[str] = frozenset(
    "aten::" + name
    for name in """
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    _batch_norm_no_update _batch_norm_with_update cudnn_batch_norm native_layer_norm
    native_group_norm _fused_rms_norm linalg_vector_norm _weight_norm_interface
    max_pool2d_with_indices max_pool3d_with_indices max_pool1d avg_pool1d avg_pool2d avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d max_unpool2d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d
    upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    _softmax _log_softmax _safe_softmax cumsum cumprod sort topk argmax argmin max min median
    logsumexp std_mean var_mean mean sum prod amax amin var std norm any all
    cat stack split_with_sizes_copy constant_pad_nd reflection_pad1d reflection_pad2d
    reflection_pad3d replication_pad1d replication_pad2d replication_pad3d roll flip repeat
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col col2im
    embedding _embedding_bag _embedding_bag_forward_only index index_select gather scatter
    scatter_add index_put index_put_ index_add masked_fill masked_select one_hot
    slice_scatter select_scatter as_strided_scatter nonzero
    hardswish hardsigmoid hardtanh leaky_relu elu mish softplus softshrink hardshrink threshold
    log_sigmoid_forward rrelu_with_noise glu _prelu_kernel grid_sampler_2d grid_sampler_3d
    clone copy copy_ _to_copy _reshape_copy contiguous lift_fresh lift_fresh_copy _unsafe_view
    unsafe_split unsafe_split_with_sizes unsafe_chunk view_as_complex view_as_real
    empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like new_zeros ones
    ones_like new_ones full full_like new_full arange linspace eye scalar_tensor tril triu
    tril_indices triu_indices fill_ zero_ normal_ uniform_ bernoulli bernoulli_ rand randn
    rand_like randn_like randperm native_dropout _local_scalar_dense item is_nonzero equal
    _assert_async _assert_tensor_metadata sym_size sym_numel resize_ set_ detach alias
    """.split()  # noqa: SIM905
)
"""Operators without multiply-accumulates, beside views and those tagged pointwise or reduction."""


@dataclass(frozen=True, slots=True)
class Count:
    """The counts of one forward pass.

    `macs` is by operator; `uncounted` says how often an operator ran for which there is no
    formula, so that `cost.macs` is a lower bound where it is not empty.
    """

    cost: Cost
    macs: Mapping[str, int]
    uncounted: Mapping[str, int]


def count_cost(model: nn.Module, example_inputs: Inputs) -> Cost:
    """The counted cost of a model: parameters, multiply-accumulates, bytes of weights, peak memory.

    One forward pass in eval mode at the batch of `example_inputs`; the model, its mode and its
    buffers are not changed. Shared parameters count once. `weight_bytes` is all parameters and
    buffers. `peak_memory_bytes` adds the largest set of activations that is live at one operator,
    where an activation lives as long as the model's own code holds it; the inputs are the caller's
    and live throughout, and the outputs live to the end. Workspaces of kernels are not included
    (see `measure_peak_memory`). Operators without a formula are logged as a warning (`count`
    returns them). Raises GraphError where the model is no `nn.Module`.

    >>> cost = count_cost(nn.Linear(4, 3), torch.zeros(2, 4))
    >>> cost.params, cost.macs, cost.weight_bytes, cost.peak_memory_bytes
    (15, 24, 60, 116)
    """
    check_module(model)
    counted = count(model, example_inputs)
    if counted.uncounted:
        names = ", ".join(f"{name} x{times}" for name, times in counted.uncounted.items())
        _log.warning("macs are a lower bound: no formula for %s", names)
    return counted.cost


def count(model: nn.Module, example_inputs: Inputs, precision: str = FLOAT32) -> Count:
    """`count_cost` with the operators: what each contributed, and what could not be counted.

    In int8, activations other than inputs and outputs take one byte an element; weights are counted
    as they are.
    """
    watch = again_uncompiled(lambda: _watched(model, example_inputs, precision))
    weights = bytes_of([*model.parameters(), *model.buffers()])
    cost = Cost(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(watch.macs.values()),
        weight_bytes=weights,
        peak_memory_bytes=weights + watch.lives.peak(),
    )
    return Count(cost, dict(watch.macs), dict(watch.uncounted))


def _watched(model: nn.Module, example_inputs: Inputs, precision: str) -> _Watch:
    args, kwargs = as_call(example_inputs)
    held = [*model.parameters(), *model.buffers()]
    watch = _Watch(held, tensors((args, kwargs)), precision)
    with evaluating(model), torch.no_grad(), _slow_attention(), watch:
        outputs = model(*args, **kwargs)
    watch.lives.keep_whole(tensors(outputs))
    return watch


class _slow_attention:  # noqa: N801
    """Disables fused encoder layers, which have no formula, unlike their parts."""

    def __enter__(self) -> None:
        self._before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)

    def __exit__(self, *error: object) -> None:
        torch.backends.mha.set_fastpath_enabled(self._before)


class _Lives:
    """The first and last operator at which each storage is live."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._alive: list[StorageWeakRef] = []  # an address is not given again while one is held
        self._bytes: list[int] = []
        self._first: list[int] = []
        self._last: dict[int, float] = {}

    def add(self, tensor: Tensor, now: int, size: int) -> None:
        """A storage of `size` bytes that is met at operator `now`."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._numbers:
            self._alive.append(StorageWeakRef(storage))  # type: ignore[no-untyped-call]
            self._numbers[storage._cdata] = len(self._bytes)
            self._bytes.append(size)
            self._first.append(now)

    def keep_whole(self, outputs: Sequence[Tensor]) -> None:
        """Count outputs in the precision that they have."""
        for tensor in parts(outputs):
            number = self._numbers.get(tensor.untyped_storage()._cdata)
            if number is not None:
                self._bytes[number] = max(self._bytes[number], tensor.untyped_storage().nbytes())

    def note_freed(self, now: int) -> None:
        """Before operator `now`: freed storages were live until the operator before."""
        for number, storage in enumerate(self._alive):
            if number not in self._last and storage.expired():  # type: ignore[no-untyped-call]
                self._last[number] = now - 1

    def peak(self) -> int:
        """The most bytes that are live at one operator."""
        change: Counter[float] = Counter()
        for number, (size, first) in enumerate(zip(self._bytes, self._first, strict=True)):
            change[first] += size
            change[self._last.get(number, math.inf) + 1] -= size
        live = most = 0
        for moment in sorted(change):
            live += change[moment]
            most = max(most, live)
        return most


class _Watch(Mode):  # type: ignore[no-untyped-call]
    def __init__(self, held: Sequence[Tensor], inputs: Sequence[Tensor], precision: str) -> None:
        super().__init__()
        self.macs: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self.lives = _Lives()
        self._now, self._is_int8 = 0, precision == INT8
        self._held = {tensor.untyped_storage()._cdata for tensor in parts(held)}
        for tensor in parts(inputs):
            self.lives.add(tensor, 0, tensor.nbytes)

    def _size(self, tensor: Tensor) -> int:
        whole, itemsize = tensor.untyped_storage().nbytes(), tensor.element_size()
        return whole // itemsize if self._is_int8 and itemsize in FLOAT_BYTES else whole

    def _is_held(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._held

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        if name not in MACS and not _free(func, name):
            if not is_program(func):
                with self:  # a composite operator is counted by its parts
                    result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            self.uncounted[name] += 1
        self.lives.note_freed(self._now)
        result = func(*args, **kwargs)
        outputs = tensors(result)
        if name in MACS:
            self.macs[name] += MACS[name](args, outputs)
        for tensor in parts((*tensors((args, kwargs)), *outputs)):
            if tensor.layout is torch.strided and not self._is_held(tensor):
                self.lives.add(tensor, self._now, self._size(tensor))
        self._now += 1
        return result


def _free(func: Any, name: str) -> bool:
    if is_program(func):
        return False
    tags = func.tags
    return (
        func.is_view
        or torch.Tag.pointwise in tags
        or torch.Tag.reduction in tags
        or torch.Tag.inplace_view in tags
        or name in FREE
        or name.removesuffix("_") in FREE
    )
