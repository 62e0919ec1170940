"""Runs a model so that one backward pass gives every layer's a and delta instead of its summed gradients.

While a :class:`Tape` records, the layers that own wanted parameters run through an autograd function whose backward
hands (a, delta) on and returns d loss / d a alone. Autograd never sees the parameters, so that it forms no summed
gradient of theirs, and what becomes of (a, delta) is the collector's choice.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pcl.gradients.rows import Rows
from pcl.gradients.rules import rule_of
from pcl.gradients.rules.rule import Rule


class Uncovered(Exception):
    """The model does what one pass over all tasks cannot split by task; the message says what."""


class Use(NamedTuple):
    """One run of a layer with a large weight, differentiated."""

    layer: nn.Module
    rule: Rule
    a: Tensor
    delta: Tensor
    rows: Rows


class Collector(Protocol):
    """Takes gradients as they become known, the last layer's first.

    Attributes:
        idle: tasks whose loss does not depend on the model's output, set before the model's layers begin.
    """

    idle: frozenset[int]

    def small(self, parameter: Tensor, rows: Rows, gradients: Sequence[Tensor]) -> None:
        """The gradient of a bias, scale or shift, from one run of its layer, for every block of rows."""

    def weight(self, parameter: Tensor, uses: Sequence[Use]) -> None:
        """All runs in which a large weight was used."""


class Tape:
    """Records one forward pass over the batches of all tasks.

    Args:
        root: the module that contains all layers.
        wanted: the parameters whose gradients are to be split by task.
        summed: those whose gradients autograd is to sum over tasks.

    Raises:
        Uncovered: if a wanted parameter belongs to no layer with a rule.
    """

    def __init__(self, root: nn.Module, wanted: Sequence[Tensor], summed: Sequence[Tensor]) -> None:
        self._wanted = {id(p) for p in wanted}
        self._layers = list(_layers(root, self._wanted, {id(p) for p in summed}))
        self._rows = Rows((), ())
        self._anchor = torch.zeros((), requires_grad=True)  # makes autograd call layers whose input needs no gradient
        self.runs: Counter[int] = Counter()  # of every weight, by id
        self._uses: dict[int, list[Use]] = {}
        self.collector: Collector | None = None

    @property
    def anchor(self) -> Tensor:
        """What to differentiate with respect to, to run backward through every layer."""
        return self._anchor

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within, the layers run through the tape."""
        for layer, rule in self._layers:
            layer.forward = partial(self._run, layer, rule)
        try:
            yield
        finally:
            for layer, _ in self._layers:
                del layer.forward

    def begin(self, rows: Rows) -> None:
        """From now on inputs consist of these rows."""
        self._rows = rows

    def finish(self) -> None:
        """Hand on the weights of which some run had no gradient; call it after the backward pass."""
        for uses in list(self._uses.values()):
            self._hand_on(uses)
        self._uses.clear()
        self.collector = None

    def _run(self, layer: nn.Module, rule: Rule, x: Tensor) -> Tensor:
        x = rule.prepare(layer, x)
        count = self._rows.count
        if not isinstance(x, Tensor) or x.dim() == 0 or len(x) == 0 or len(x) % count:
            seen = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise Uncovered(
                f"{layer} sees an input of shape {seen}, which is not made of the {count} rows of the batch"
            )
        rows = self._rows.times(len(x) // count)
        if rule.weight is not None:
            self.runs[id(layer.weight)] += 1
        z: Tensor = _Layer.apply(x, self._anchor, layer, rule, rows, self)
        return z

    def received(self, layer: nn.Module, rule: Rule, rows: Rows, a: Tensor, delta: Tensor, small: Any) -> None:
        """Backward went through a run of ``layer``."""
        assert self.collector is not None
        for name, gradients in small.items():
            parameter = getattr(layer, name)
            if id(parameter) in self._wanted:
                self.collector.small(parameter, rows, gradients)
        weight = layer.weight
        if rule.weight is not None and id(weight) in self._wanted:
            uses = self._uses.setdefault(id(weight), [])
            uses.append(Use(layer, rule, a.detach(), delta, rows))  # a's history would keep the whole graph
            if len(uses) == self.runs[id(weight)]:
                self._hand_on(self._uses.pop(id(weight)))

    def _hand_on(self, uses: list[Use]) -> None:
        assert self.collector is not None
        weight = uses[0].layer.weight
        assert isinstance(weight, Tensor)
        self.collector.weight(weight, uses)


class _Layer(torch.autograd.Function):
    """z = layer(x); backward hands (a, delta) to the tape and gives d loss / d x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: nn.Module, rule: Rule, rows: Rows, tape: Tape) -> Tensor:
        z, saved = rule.forward(layer, x, rows)
        ctx.save_for_backward(*saved)
        ctx.facts = layer, rule, rows, tape
        return z

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        layer, rule, rows, tape = ctx.facts
        saved = ctx.saved_tensors
        dx, small = rule.backward(layer, saved, delta, rows, ctx.needs_input_grad[0])
        tape.received(layer, rule, rows, saved[0], delta, small)
        return dx, None, None, None, None, None


def _layers(root: nn.Module, wanted: set[int], summed: set[int]) -> Iterator[tuple[nn.Module, Rule]]:
    """Layers to run through the tape: owners of wanted parameters, and those that use statistics of the batch."""
    found: set[int] = set()
    for layer in root.modules():
        owned = {name: id(p) for name, p in layer.named_parameters(recurse=False)}
        mine = {name for name, p in owned.items() if p in wanted}
        by_batch = isinstance(layer, _BatchNorm)
        if not mine and not by_batch:
            continue
        rule = rule_of(layer)
        if rule is None or not mine <= {"weight", "bias"}:
            raise Uncovered(f"{type(layer).__name__} is a layer of unknown type")
        if by_batch and summed.intersection(owned.values()):
            raise Uncovered(f"{layer} normalises task by task, but its gradients are to be summed over tasks")
        why = rule.uncovered(layer)
        if why:
            raise Uncovered(why)
        found.update(owned.values())
        yield layer, rule
    if not wanted <= found:
        raise Uncovered("a parameter belongs to no layer of the model")
