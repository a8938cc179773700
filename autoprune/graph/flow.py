"""One run of the model with ids flowing beside its tensors.

Under the mode `Flow` every ATen call of the model runs as always; then the rule of that operator
(`rules.RULES`) says which ids the results carry. Parameters and buffers carry fresh ids on every
dimension, so that a bias, a scale, or the two factors of a normalised weight need no rule of their
own: whatever meets is united.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.graph.blocks import structure_of
from autoprune.graph.calls import Activation, Call, Note, Record, Site, State, Storages, owner
from autoprune.graph.ids import Ids, Labels
from autoprune.graph.outputs import tensors_in
from autoprune.graph.types import Indices, Structure

Rule = Callable[["Flow", "Call"], None]


def table(rule: Rule, names: str) -> dict[str, Rule]:
    """One rule for several operators, named in one string."""
    return dict.fromkeys(names.split(), rule)


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Ids, activations and calls of the runs of one model."""

    def __init__(
        self,
        model: nn.Module,
        heads: Mapping[str, int],
        choices: Mapping[int, int],
        ignored: Container[str] = (),
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
        self.structures: dict[str, Structure | None] = {}
        self.recording = True
        self.heads = heads
        self.choices = choices
        self.ignored = ignored
        self.modules = dict(model.named_modules())
        self._rules, self._rule_for = RULES, rule_for
        self._paths = {id(module): path for path, module in reversed(self.modules.items())}
        self._stack: list[str] = [""]
        self._held = _names(model)
        self._states: Any = WeakTensorKeyDictionary()
        self._storages = Storages()
        self._calls = 0
        self._next_site = 0
        self.caller = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """The default wraps the mode so that its first use imports the compiler (seconds)."""
        return False

    @property
    def freed(self) -> dict[int, int]:
        """The call after which each storage was gone; one that is not named lived to the end."""
        return self._storages.freed

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
            self.sites.append(Site(key, label, choice, parts[place]))
        return place

    def refuse_parts(self, labels: Indices | None) -> None:
        """These ids cannot leave here: a split that made them may try another part next time."""
        if labels is None or not self.sites or not (held := labels[labels >= 0]).size:
            return
        roots = set(self.ids.find(held).tolist())
        found = [site for site in self.sites if self._meets(site.ids, roots)]
        exact = [site for site in found if site.carried == len(labels)]
        self.flips.update(site.key for site in exact or found[-1:])

    def _meets(self, ids: Indices, roots: set[int]) -> bool:
        return not roots.isdisjoint(self.ids.find(ids[ids >= 0]).tolist())

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
        """Plain integers of the running module that equal a labelled size may hold it.

        They are guesses: the verification drops those that the smaller model can do without.
        """
        module = self.modules.get(self.layer)
        if self.caller in _SIZES_OF_ITS_OWN:
            return
        for label, size in zip(labels, shape, strict=True):
            if label is None or module is None:
                continue
            for name, value in vars(module).items():
                if type(value) is int and value == size and (size >= 8 or _COUNT.search(name)):
                    self.notes.append(Note(self.layer, name, (label,), True, guessed=True))

    # --- the run ----------------------------------------------------------------------------

    @contextmanager
    def following(self) -> Iterator[None]:
        """The mode on, with the path of the running module known."""

        def enter(module: nn.Module, args: Any) -> None:
            self._stack.append(self._paths.get(id(module), self._stack[-1]))

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            path = self._stack.pop()
            self.structures.setdefault(path, structure_of(result))
            if path in self.ignored:
                made = [self.state(tensor) for tensor in tensors_in(result)]
                for state in made:
                    for label in () if state.weight else state.labels:
                        self.ids.block(label, "ignored_layers")

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
        if self.recording:
            self._storages.note_freed(len(self.records))
        call = Call.of(func, args, kwargs)
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
            names = call.viewed(out, before)
            state = State(labels, -1, names, call.weight, call.zero, call.spread)
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
        shape = tuple(tensor.shape)
        number = self._storages.number(tensor)
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


def _names(model: nn.Module) -> dict[int, str]:
    held: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        held.setdefault(id(parameter), name)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        held.setdefault(id(buffer), name)
    return held
