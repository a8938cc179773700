"""One run of the model with channel ids beside its tensors.

Under the mode `Flow` every ATen call of the model runs as always; then the rule of that operator
(it is handed a table of them, `rules.RULES`) says which ids the results carry, and what else it
finds (`findings`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoprune.graph.blocks import structure_of
from autoprune.graph.calls import Call, Record, State
from autoprune.graph.findings import Findings
from autoprune.graph.mode import Mode, is_program
from autoprune.graph.outputs import tensors_in

Rule = Callable[["Flow", "Call"], None]


class RuleTable(Protocol):
    """Which rule an operator has."""

    @property
    def unknown(self) -> Rule:
        """The rule of unknown operators."""

    def rule_for(self, func: Any) -> Rule | None:
        """The rule of an operator, None for an unknown one."""

    def finish(self, flow: Flow, path: str, module: nn.Module) -> None:
        """Apply what is known of a layer type after it has run."""


def table(rule: Rule, names: str) -> dict[str, Rule]:
    """One rule for several operators, named in one string."""
    return dict.fromkeys(names.split(), rule)


class Flow(Mode, Findings):  # type: ignore[no-untyped-call]
    """The mode under which a model runs."""

    def __init__(
        self,
        model: nn.Module,
        rules: RuleTable,
        *,
        heads: Mapping[str, int] | None = None,
        choices: Mapping[int, int] | None = None,
        ignored: Container[str] = (),
    ) -> None:
        Mode.__init__(self)
        Findings.__init__(self, model, heads=heads, choices=choices, ignored=ignored)
        self._rules = rules

    @contextmanager
    def following(self) -> Iterator[None]:
        """The mode on, with the path of the running module known."""

        def enter(module: nn.Module, args: Any) -> None:
            self._stack.append(self._paths.get(id(module), self._stack[-1]))

        def leave(module: nn.Module, args: Any, result: Any) -> None:
            self._rules.finish(self, self.layer, module)
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
            with self:
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
        """Run the call, then label its results by the operator's rule."""
        kwargs = dict(kwargs or {})
        self._calls += 1
        self._next_site = self._calls << 8
        rule = self._rules.unknown if is_program(func) else self._rules.rule_for(func)
        if rule is None:
            with self:  # a composite operator is understood by its parts
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if self.recording:
            self._storages.note_freed(len(self.records))
        call = Call.of(func, args, kwargs)
        _refuse_nested(call.tensors)
        before = [self.state(tensor) for tensor in call.tensors]
        result = self.compute(func, args, kwargs, call)
        call.outs = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        _refuse_nested(call.outs)
        call.weight = bool(before) and all(state.weight for state in before)
        self._apply(rule or self._rules.unknown, call)
        self._finish(call, before)
        return result

    def compute(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], call: Call) -> Any:
        """The result of the call itself."""
        return func(*args, **kwargs)

    def _apply(self, rule: Rule, call: Call) -> None:
        """Apply a rule; where it fails, its inputs are not prunable, for that failure."""
        try:
            rule(self, call)
        except Exception as error:  # noqa: BLE001  whatever it is, it must not end the trace
            text = str(error).strip().split("\n")[0]
            for tensor in call.tensors:
                for label in self.labels(tensor):
                    self.block(label, f"{call.name} is not understood ({text})")
            call.labels, call.zero = [(None,) * out.dim() for out in call.outs], False

    def _finish(self, call: Call, before: Sequence[State]) -> None:
        outputs = []
        alone = call.weight or all(state.layers for state in before)
        layers = frozenset[str]().union(*(state.layers for state in before if alone))
        for place, out in enumerate(call.outs):
            labels = call.labels[place] if place < len(call.labels) else (None,) * out.dim()
            known: State | None = self._states.get(out)
            held = self._held.get(id(out))
            if known is not None and (len(known.labels) == out.dim() or held is not None):
                known.zero = (known.zero and call.zero) or (held is not None)
                if held is None:
                    known.labels = labels
                    known.weight = call.weight
                    known.statistic = call.statistic
                    known.layers = layers
                    self._written(out, labels)
                outputs.append(known.index)
                continue
            names = call.viewed(out, before)
            state = State(labels, -1, names, call.weight, call.zero, call.statistic)
            state.layers = layers
            if not names:
                state.index = self._activation(out, labels)
            self._states[out] = state
            outputs.append(state.index)
        if self.recording:
            names = tuple(dict.fromkeys(name for state in before for name in state.names))
            inputs = tuple(state.index for state in before if state.index >= 0)
            made = tuple(index for index in outputs if index >= 0)
            self.records.append(Record(call.name, self.layer, inputs, made, names, call.macs))


def _refuse_nested(tensors: Sequence[Tensor]) -> None:
    if any(tensor.is_nested for tensor in tensors):
        raise NotImplementedError("nested tensors have no sizes to follow (give padded ones)")
