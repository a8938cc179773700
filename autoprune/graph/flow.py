"""One run of the model with ids flowing beside its tensors.

Under the mode `Flow` every ATen call of the model runs as always; then the rule of that operator
(`rules.RULES`) says which ids the results carry. Parameters and buffers carry fresh ids on every
dimension, so that a bias, a scale, or the two factors of a normalised weight need no rule of their
own: whatever meets is united.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.graph.ids import Ids, Labels
from autoprune.graph.types import Indices

Rule = Callable[["Flow", "Call"], None]


@dataclass(eq=False, slots=True)
class State:
    """What is known of one tensor.

    `names` are the parameters or buffers that it is a view of, `weight` says that it was computed
    from those alone, `zero` that positions which leave hold zero in the masked model. `index` is
    its place in `Flow.tensors` (-1: a view of a parameter, which costs nothing).
    """

    labels: Labels
    index: int = -1
    names: tuple[str, ...] = ()
    weight: bool = False
    zero: bool = False


@dataclass(eq=False, slots=True)
class Activation:
    """A tensor of the run: its shape, its labels and its memory."""

    shape: tuple[int, ...]
    labels: Labels
    itemsize: int
    storage: int


@dataclass(eq=False, slots=True)
class Record:
    """One call of the run, before groups are known."""

    name: str
    layer: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    parameters: tuple[str, ...]
    macs: tuple[int | Indices, ...]


@dataclass(eq=False, slots=True)
class Note:
    """A module's attribute and the size, or sizes, that it holds."""

    module: str
    name: str
    sizes: tuple[int | Indices, ...]
    scalar: bool


@dataclass(eq=False, slots=True)
class Site:
    """A view that splits a dimension: the ids, the parts, and which part carries them now."""

    key: int
    ids: Indices
    parts: tuple[int, ...]
    choice: int


@dataclass(eq=False)
class Call:
    """One ATen call as its rule sees it."""

    name: str
    args: Mapping[str, Any]
    outs: list[Tensor]
    labels: list[Labels] = field(default_factory=list)
    zero: bool = False
    weight: bool = False
    macs: tuple[int | Indices, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.args.get(name)

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, in order."""
        return [a for a in pytree.tree_leaves(list(self.args.values())) if isinstance(a, Tensor)]


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Ids, activations and calls of the runs of one model."""

    def __init__(
        self, model: nn.Module, heads: Mapping[str, int], choices: Mapping[int, int]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        from autoprune.graph.rules import RULES, rule_for

        self.ids = Ids()
        self.tensors: list[Activation] = []
        self.records: list[Record] = []
        self.notes: list[Note] = []
        self.sites: list[Site] = []
        self.flips: set[int] = set()
        self.heads_seen: list[Indices] = []
        self.owned: dict[tuple[str, int], Indices] = {}
        self.recording = True
        self.heads = heads
        self.choices = choices
        self.modules = dict(model.named_modules())
        self._rules, self._rule_for = RULES, rule_for
        self._paths = {id(module): path for path, module in reversed(self.modules.items())}
        self._stack: list[str] = [""]
        self._held = _names(model)
        self._states: Any = WeakTensorKeyDictionary()
        self._storages: dict[int, tuple[Any, int]] = {}
        self._storage_count = 0
        self._calls = 0
        self._next_site = 0
        self.caller = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """The default wraps the mode so that its first use imports the compiler (seconds)."""
        return False

    @property
    def layer(self) -> str:
        """The path of the module that runs."""
        return self._stack[-1]

    # --- what rules ask and say -------------------------------------------------------------

    def state(self, tensor: Tensor) -> State:
        """What is known of a tensor; one that was never seen is a constant."""
        state: State | None = self._states.get(tensor)
        if state is None:
            name = self._held.get(id(tensor))
            state = State((None,) * tensor.dim())
            if name is not None:
                state = State(self._own(name, tensor), names=(name,), weight=True, zero=True)
            else:
                state.index = self._activation(tensor, state.labels)
            self._states[tensor] = state
        return state

    def labels(self, tensor: Tensor) -> Labels:
        """The labels of a tensor."""
        return self.state(tensor).labels

    def block(self, labels: Indices | None, reason: str) -> None:
        """Ids that stay, with the place appended to the reason."""
        self.ids.block(labels, self.place(reason))

    def join(self, left: Indices | None, right: Indices | None, reason: str = "") -> Indices | None:
        """Unite two dimensions of one size."""
        return self.ids.join(left, right, self.place(reason or "meets a dimension of fixed size"))

    def place(self, reason: str) -> str:
        """A reason with the layer in which it arose."""
        return f"{reason} in {self.layer}" if self.layer else reason

    def choose(self, label: Indices, parts: Sequence[int]) -> int:
        """Which part of a split dimension carries the ids (the last, unless it is refused)."""
        key, self._next_site = self._next_site, self._next_site + 1
        order = [place for place in reversed(range(len(parts))) if parts[place] > 1]
        choice = min(self.choices.get(key, 0), len(order) - 1)
        heads = self._heads_of(label)
        wanted = [place for place in order if parts[place] == heads]
        place = wanted[-1] if wanted else order[choice]
        if not wanted and choice + 1 < len(order):
            self.sites.append(Site(key, label, tuple(parts), choice))
        return place

    def refuse_parts(self, labels: Indices | None) -> None:
        """These ids cannot leave here: a split that made them may try another part next time."""
        if labels is None or not self.sites or not (held := labels[labels >= 0]).size:
            return
        roots = set(self.ids.find(held).tolist())
        for site in self.sites:
            ids = site.ids[site.ids >= 0]
            if roots.intersection(self.ids.find(ids).tolist()):
                self.flips.add(site.key)

    def note(self, names: Sequence[str], attribute: str, size: Any, old: Any) -> None:
        """`attribute` of the running module, or of the owner of a parameter, holds this size."""
        paths = {self.layer, *(owner(name) for name in names)}
        for path in sorted(paths):
            module = self.modules.get(path)
            held = getattr(module, attribute, None)
            scalar = isinstance(held, int) and not isinstance(held, bool)
            sizes = (size,) if not isinstance(size, tuple) else size
            same = held == old if scalar else isinstance(held, tuple) and held == tuple(old or ())
            if module is not None and held is not None and same:
                self.notes.append(Note(path, attribute, sizes, scalar))

    def note_sizes(self, labels: Labels, shape: Sequence[int]) -> None:
        """Plain integers of the running module that equal a labelled size are taken to hold it.

        They are mended after surgery, and the verification of the smaller model has the last word.
        """
        module = self.modules.get(self.layer)
        if self.caller in _SIZES_OF_ITS_OWN:
            return
        for label, size in zip(labels, shape, strict=True):
            if label is None or module is None:
                continue
            for name, value in vars(module).items():
                if type(value) is int and value == size and (size >= 8 or _COUNT.search(name)):
                    self.notes.append(Note(self.layer, name, (label,), True))

    # --- the run ----------------------------------------------------------------------------

    @contextmanager
    def following(self) -> Iterator[None]:
        """The mode on, with the path of the running module known."""

        def enter(module: nn.Module, args: Any) -> None:
            self._stack.append(self._paths.get(id(module), self._stack[-1]))

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            self._stack.pop()

        before = nn.modules.module.register_module_forward_pre_hook(enter)
        after = nn.modules.module.register_module_forward_hook(leave, always_call=True)
        depth = len(self._stack)
        try:
            with self, _Caller(self):
                yield
        finally:
            before.remove()
            after.remove()
            del self._stack[depth:]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the call, then let its rule say what the results carry."""
        kwargs = dict(kwargs or {})
        self._calls += 1
        self._next_site = self._calls << 8
        rule = self._rule_for(func)
        if rule is None:
            with self:  # a composite operator is understood by its parts
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        call = Call(_short(func), _bound(func, args, kwargs), [])
        before = [self.state(tensor) for tensor in call.tensors]
        result = func(*args, **kwargs)
        call.outs = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        call.weight = bool(before) and all(state.weight for state in before)
        (rule or self._rules["?"])(self, call)
        self._finish(call, before)
        return result

    def _finish(self, call: Call, before: Sequence[State]) -> None:
        outputs = []
        for place, out in enumerate(call.outs):
            labels = call.labels[place] if place < len(call.labels) else (None,) * out.dim()
            known: State | None = self._states.get(out)
            held = self._held.get(id(out))
            if known is not None and (len(known.labels) == out.dim() or held is not None):
                known.zero = (known.zero and call.zero) or (held is not None)
                if held is None:
                    known.labels = labels
                    known.weight = call.weight
                outputs.append(known.index)
                continue
            names = _view_names(out, call, before)
            state = State(labels, -1, names, call.weight, call.zero)
            if not names:
                state.index = self._activation(out, labels)
            self._states[out] = state
            outputs.append(state.index)
        if self.recording:
            names = tuple(dict.fromkeys(name for state in before for name in state.names))
            inputs = tuple(state.index for state in before if state.index >= 0)
            made = tuple(index for index in outputs if index >= 0)
            self.records.append(Record(call.name, self.layer, inputs, made, names, call.macs))

    def _own(self, name: str, tensor: Tensor) -> Labels:
        if not tensor.is_floating_point():
            return (None,) * tensor.dim()
        labels: list[Indices | None] = []
        for dim, size in enumerate(tensor.shape):
            if size <= 1:
                labels.append(None)
                continue
            if (name, dim) not in self.owned:
                self.owned[name, dim] = self.ids.fresh(size)
            labels.append(self.owned[name, dim])
        return tuple(labels)

    def _activation(self, tensor: Tensor, labels: Labels) -> int:
        if not self.recording:
            return -1
        storage = _storage(tensor)
        alive, number = self._storages.get(storage, (None, -1))
        if alive is None or alive.expired():
            number, self._storage_count = self._storage_count, self._storage_count + 1
            self._storages[storage] = (_Alive(tensor), number)
        shape = tuple(tensor.shape)
        self.tensors.append(Activation(shape, labels, tensor.element_size(), number))
        return len(self.tensors) - 1

    def _heads_of(self, label: Indices) -> int:
        if not self.heads:
            return 0
        members = set(self.ids.find(label[label >= 0]).tolist())
        for path, count in self.heads.items():
            for (name, _), ids in self.owned.items():
                if owner(name) == path and members.intersection(self.ids.find(ids).tolist()):
                    return count
        return next((n for path, n in self.heads.items() if path and path == self.layer), 0)


_COUNT = re.compile("head|group")
"""Names under which a small integer may hold a size; other small integers are too likely not to."""


_SIZES_OF_ITS_OWN = frozenset(
    """matmul __matmul__ __rmatmul__ linear einsum tensordot bilinear instance_norm batch_norm
    layer_norm group_norm bmm mm""".split()  # noqa: SIM905
)
"""Functions that reshape for themselves: the sizes in them are nobody's attributes."""


class _Caller(TorchFunctionMode):
    """Tells the flow which function the model's own code called."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self._flow = flow

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run the function with its name known."""
        kwargs = kwargs or {}
        name = str(getattr(func, "__name__", ""))
        if name == "rms_norm" and kwargs.get("weight", args[2] if len(args) > 2 else None) is None:
            name = "rms_norm without a weight"
        before, self._flow.caller = self._flow.caller, name
        try:
            return func(*args, **kwargs)
        finally:
            self._flow.caller = before


class _Alive:
    """Whether the storage of a tensor still exists; an address is not given again before."""

    def __init__(self, tensor: Tensor) -> None:
        from torch.multiprocessing.reductions import StorageWeakRef

        self._reference: Any = None
        if tensor.layout is torch.strided:
            self._reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]

    def expired(self) -> bool:
        return self._reference is None or bool(self._reference.expired())


def owner(name: str) -> str:
    """The path of the module that a parameter or buffer belongs to.

    >>> owner("a.conv.parametrizations.weight.original0")
    'a.conv'
    """
    path = name.rpartition(".")[0]
    return path.partition(".parametrizations.")[0] if ".parametrizations." in path else path


def _names(model: nn.Module) -> dict[int, str]:
    held: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        held.setdefault(id(parameter), name)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        held.setdefault(id(buffer), name)
    return held


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else -id(tensor)


def _view_names(out: Tensor, call: Call, before: Sequence[State]) -> tuple[str, ...]:
    for tensor, state in zip(call.tensors, before, strict=True):
        if state.names and _storage(tensor) == _storage(out):
            return state.names
    return ()


def _short(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")


def _bound(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    names = [argument.name for argument in func._schema.arguments]
    bound = {argument.name: argument.default_value for argument in func._schema.arguments}
    bound.update(zip(names, args, strict=False))
    bound.update(kwargs)
    return bound
