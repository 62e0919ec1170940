"""grad_x |g(x_b) - d|^2 of every sample of a batch by the R-operator, without a second-order autograd graph.

g(x_b) is the gradient of sample b's loss with respect to the shared parameters. With v_b = g(x_b) - d held fixed,

    grad_x |g(x_b) - d|^2 = 2 grad_x <g(x_b), v_b> = 2 R{grad_x l(x_b)},

where R{.} is the derivative along v_b in the space of parameters: a Hessian-vector product with a vector of every
sample's own. The R-operator (Pearlmutter, Neural Computation 6, 1994) gives it by one more sweep forward and one more
backward:

1. forward: every operation, as ever;
2. backward: delta = d loss / d output of every operation, as ever; from delta, v_b of every layer is known;
3. forward: R{output} from R{input} and v_b;
4. backward: R{delta}; at the input it is half of what is wanted.

The operations are recorded while the losses are computed, at the level of torch functions, so that it does not matter
how a model is written. Functions with a rule of their own are in :mod:`pcl.gradients.sweep.rules`; any other function
without shared parameters runs as :class:`pcl.gradients.sweep.nodes.AnyOperation`.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pcl.gradients.sweep.nodes import AnyOperation, Node, Values, plus, tensors
from pcl.gradients.sweep.rules import RULES


class UncoveredError(Exception):
    """A model does something that the sweep has no rule for; the message names it."""


@dataclass(frozen=True)
class SharedParameter:
    """A parameter that g and d are about, with its part of d; None is zero."""

    direction: Tensor | None


@dataclass
class _Step:
    node: Node
    inputs: list[int]  # slots
    outputs: list[int]
    live: bool = False  # depends on a shared parameter, and the losses depend on it


class Sweep(TorchFunctionMode):
    """Records the losses of a batch; then gives the gradient of every sample's distance.

    Use it around the computation of the losses, in a model in evaluation mode::

        with torch.no_grad():
            with Sweep(x, shared, direction) as sweep:
                losses = model_losses(x)
            gradient = sweep.gradient(losses)  # (B, ...) like x

    A layer's samples are the first dimension of its input; where another use of that dimension has the same size, the
    numbers are wrong without a word. Callers verify a model once.

    Args:
        x: ``(B, ...)``, the samples.
        shared: the parameters that g and d are about.
        direction: d, one tensor per parameter; None is zero.

    Raises, in the block:
        UncoveredError: for what no rule covers.
    """

    def __init__(self, x: Tensor, shared: Sequence[nn.Parameter], direction: Sequence[Tensor | None]) -> None:
        super().__init__()
        self.batch = len(x)
        self._shared = {id(p): SharedParameter(d) for p, d in zip(shared, direction, strict=True)}
        self._used: set[int] = set()
        self._steps: list[_Step] = []
        self._active: list[bool] = []  # of every slot: depends on a shared parameter, so that delta and R are wanted
        self._slots: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._x = x
        self._new_slot(x, active=False)

    # ---- recording

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = tensors(args) + tensors(kwargs)
        inputs = [t for t in given if self.tracks(t)]
        owned = [id(t) for t in given if id(t) in self._shared]
        name = getattr(func, "__name__", str(func))
        if not inputs:
            result = func(*args, **kwargs)
            if owned and any(t.is_floating_point() for t in tensors(result)):
                raise UncoveredError(f"{name}, which uses a parameter outside a layer")
            return result
        if func in RULES:
            result = RULES[func](self, *args, **kwargs)
            if result is not NotImplemented:
                return result
        if name.endswith("_") and not name.endswith("__"):
            raise UncoveredError(f"{name}, which works in place")
        if owned:
            raise UncoveredError(f"{name}, which uses a parameter in a way without a rule")
        return self.any_operation(func, args, kwargs)

    def tracks(self, value: object) -> bool:
        """Whether this is a tensor that depends on the samples."""
        entry = self._slots.get(id(value))
        return entry is not None and entry[0]() is value

    def are_samples(self, value: Tensor) -> bool:
        """Whether this tensor depends on the samples and its first dimension can be theirs."""
        return self.tracks(value) and value.ndim > 0 and len(value) == self.batch

    def shared(self, parameter: Tensor | None) -> SharedParameter | None:
        """What a rule needs to know of a parameter it uses; None where it is not shared.

        Raises:
            UncoveredError: if it was used before.
        """
        if parameter is None or id(parameter) not in self._shared:
            return None
        if id(parameter) in self._used:
            raise UncoveredError("a parameter that is used twice")
        self._used.add(id(parameter))
        return self._shared[id(parameter)]

    def record(self, node: Node, *inputs: Tensor) -> Tensor:
        """Append a node with one output; the output."""
        (output,) = self._append(node, inputs)
        return output

    def any_operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        """Run a function without shared parameters, recorded; its result."""
        kwargs = kwargs or {}
        inputs = list({id(t): t for t in tensors(args) + tensors(kwargs) if self.tracks(t)}.values())
        node = AnyOperation(func, args, kwargs, inputs)
        self._append(node, inputs)
        result, node.result = node.result, None
        return result

    def _append(self, node: Node, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        slots = [self._slots[id(t)][1] for t in inputs]
        active = node.parametric or any(self._active[s] for s in slots)
        outputs, node.outputs = node.outputs, []
        if outputs:  # a shape or a comparison has none
            self._steps.append(_Step(node, slots, [self._new_slot(y, active) for y in outputs]))
        return outputs

    def _new_slot(self, value: Tensor, active: bool) -> int:
        slot = len(self._active)
        self._slots[id(value)] = (weakref.ref(value), slot)
        self._active.append(active)
        return slot

    # ---- sweeping

    def gradient(self, losses: Tensor) -> Tensor:
        """grad_x |g(x_b) - d|^2 for every sample, ``(B, ...)`` like x.

        Args:
            losses: ``(B,)``, as computed in the block.
        """
        if not self.tracks(losses):
            return torch.zeros_like(self._x)
        self._backward(losses)
        self._r_forward()
        found = self._r_backward()
        return torch.zeros_like(self._x) if found is None else 2 * found

    def _backward(self, losses: Tensor) -> None:
        deltas: Values = [None] * len(self._active)
        deltas[self._slots[id(losses)][1]] = torch.ones_like(losses)
        for step in reversed(self._steps):
            found = _taken(deltas, step.outputs)
            step.live = self._active[step.outputs[0]] and any(delta is not None for delta in found)
            if step.live:
                wanted = [self._active[s] for s in step.inputs]
                _add(deltas, step.inputs, step.node.backward(found, wanted))

    def _r_forward(self) -> None:
        live = [step for step in self._steps if step.live]
        last_use = {s: step for step in live for s in step.inputs}
        r: Values = [None] * len(self._active)
        for step in live:
            outputs = step.node.r_forward([r[s] for s in step.inputs])
            for s in step.inputs:
                if last_use[s] is step:
                    r[s] = None
            for s, value in zip(step.outputs, outputs, strict=True):
                r[s] = value if s in last_use else None

    def _r_backward(self) -> Tensor | None:
        r_deltas: Values = [None] * len(self._active)
        while self._steps:  # what a node keeps is freed as soon as it is done
            step = self._steps.pop()
            found = _taken(r_deltas, step.outputs)
            if step.live or any(t is not None for t in found):
                _add(r_deltas, step.inputs, step.node.r_backward(found))
        return r_deltas[0]


def _taken(values: Values, slots: Sequence[int]) -> Values:
    taken = [values[s] for s in slots]
    for s in slots:
        values[s] = None
    return taken


def _add(values: Values, slots: Sequence[int], terms: Values) -> None:
    for s, term in zip(slots, terms, strict=True):
        values[s] = plus(values[s], term)
