"""Recorded operations without parameters, and what every recorded operation can do.

A node keeps what its four sweeps need: the operation itself ran when it was made; ``backward``, ``r_forward`` and
``r_backward`` are called in this order, once each. See :mod:`pcl.gradients.sweep.recording`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Values = list[Tensor | None]
"""One tensor for every input or output of a node; None is zero."""


class Node(Protocol):
    """One recorded operation.

    Attributes:
        outputs: what it computed from the samples; emptied by the sweep, so that nothing is kept for nothing.
        parametric: has a shared parameter, so that R{output} is not zero even where R{input} is.
    """

    outputs: list[Tensor]
    parametric: bool

    def backward(self, deltas: Values, wanted: Sequence[bool]) -> Values:
        """delta of the inputs from delta of the outputs; None for those not wanted."""
        ...

    def r_forward(self, r: Values) -> Values:
        """R{outputs} from R{inputs}."""
        ...

    def r_backward(self, r_deltas: Values) -> Values:
        """R{delta} of the inputs from R{delta} of the outputs."""
        ...


class AnyOperation:
    """Any differentiable function without shared parameters, y = f(u), by a small graph of its own.

    With delta_u = J(u)^T delta_y recorded as a function of (u, delta_y), one backward pass through it in the direction
    R{u} gives both that is needed: J R{u} = R{y}, and the derivative of <J^T delta_y, R{u}> with respect to u, the part
    of R{delta_u} that comes from the curvature of f. The rest of it is J^T R{delta_y}.
    """

    parametric = False

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, inputs: Sequence[Tensor]) -> None:
        self._inputs = [u.detach().requires_grad_() for u in inputs]
        leaf = {id(u): v for u, v in zip(inputs, self._inputs, strict=True)}
        with torch.enable_grad():
            self.result = function(*replaced(args, leaf), **replaced(kwargs, leaf))
        self._made = [y for y in tensors(self.result) if y.requires_grad]
        self.outputs = [y.detach() for y in self._made]
        self.result = replaced(self.result, {id(y): z for y, z in zip(self._made, self.outputs, strict=True)})
        self._curvature: Values = [None] * len(inputs)

    def backward(self, deltas: Values, wanted: Sequence[bool]) -> Values:
        self._used = [i for i, delta in enumerate(deltas) if delta is not None]
        self._deltas = [delta.detach().requires_grad_() for delta in deltas if delta is not None]
        self._found = self._vjp(self._deltas, wanted, graph=True)
        return [None if g is None else g.detach() for g in self._found]

    def r_forward(self, r: Values) -> Values:
        out: Values = [None] * len(self._made)
        pairs = [(g, d) for g, d in zip(self._found, r, strict=True) if g is not None and d is not None]
        del self._found
        pairs = [(g, d) for g, d in pairs if g.requires_grad]
        if not pairs:
            return out
        at = [*self._deltas, *self._inputs]
        made = torch.autograd.grad(
            [g for g, _ in pairs], at, [d for _, d in pairs], retain_graph=True, allow_unused=True
        )
        for i, forward in zip(self._used, made, strict=False):
            out[i] = forward
        self._curvature = list(made[len(self._used) :])
        return out

    def r_backward(self, r_deltas: Values) -> Values:
        self._used = [i for i, delta in enumerate(r_deltas) if delta is not None]
        found = self._vjp([d for d in r_deltas if d is not None], [True] * len(self._inputs), graph=False)
        return [plus(g, c) for g, c in zip(found, self._curvature, strict=True)]

    def _vjp(self, deltas: list[Tensor], wanted: Sequence[bool], graph: bool) -> Values:
        if not deltas:
            return [None] * len(wanted)
        at = [u for u, want in zip(self._inputs, wanted, strict=True) if want]
        made = [self._made[i] for i in self._used]
        with torch.enable_grad():
            found = iter(
                torch.autograd.grad(made, at, deltas, create_graph=graph, retain_graph=True, allow_unused=True)
            )
        return [next(found) if want else None for want in wanted]


class Relu:
    """y = max(u, 0): every sweep masks."""

    parametric = False

    def __init__(self, u: Tensor) -> None:
        self._y = torch.relu(u)
        self.outputs = [self._y]

    def backward(self, deltas: Values, wanted: Sequence[bool]) -> Values:
        return [self._masked(deltas[0]) if wanted[0] else None]

    def r_forward(self, r: Values) -> Values:
        return [self._masked(r[0])]

    def r_backward(self, r_deltas: Values) -> Values:
        return [self._masked(r_deltas[0])]

    def _masked(self, t: Tensor | None) -> Tensor | None:
        return None if t is None else torch.ops.aten.threshold_backward(t, self._y, 0)


class Add:
    """y = u + v, of one shape."""

    parametric = False

    def __init__(self, u: Tensor, v: Tensor) -> None:
        self.outputs = [u + v]

    def backward(self, deltas: Values, wanted: Sequence[bool]) -> Values:
        return [deltas[0] if want else None for want in wanted]

    def r_forward(self, r: Values) -> Values:
        return [plus(r[0], r[1])]

    def r_backward(self, r_deltas: Values) -> Values:
        return [r_deltas[0], r_deltas[0]]


class CrossEntropy:
    """l_b = logsumexp(z_b) - z_b[target_b]: delta = (p - onehot) delta_l and, as delta_l is constant,

    R{delta} = (p * R{z} - p <p, R{z}>) delta_l + (p - onehot) R{delta_l}, where p = softmax(z).
    """

    parametric = False

    def __init__(self, z: Tensor, target: Tensor) -> None:
        log_p = torch.log_softmax(z, dim=1)
        self._slope = log_p.exp()
        self.outputs = [-log_p.gather(1, target[:, None])[:, 0]]
        self._p = self._slope.clone()
        self._slope[torch.arange(len(z), device=z.device), target] -= 1

    def backward(self, deltas: Values, wanted: Sequence[bool]) -> Values:
        assert deltas[0] is not None
        self._delta = deltas[0][:, None]
        return [self._slope * self._delta if wanted[0] else None]

    def r_forward(self, r: Values) -> Values:
        if r[0] is None:
            self._curvature = None
            return [None]
        weighted = self._p * r[0]
        self._curvature = (weighted - self._p * weighted.sum(dim=1, keepdim=True)) * self._delta
        return [(self._slope * r[0]).sum(dim=1)]

    def r_backward(self, r_deltas: Values) -> Values:
        return [plus(self._curvature, None if r_deltas[0] is None else self._slope * r_deltas[0][:, None])]


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, None being zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def tensors(value: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in tensors(v)]
    return [t for v in value.values() for t in tensors(v)] if isinstance(value, dict) else []


def replaced(value: Any, by: dict[int, Tensor]) -> Any:
    """The same nesting with tensors exchanged, by id."""
    if isinstance(value, Tensor):
        return by.get(id(value), value)
    if isinstance(value, dict):
        return {k: replaced(v, by) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [replaced(v, by) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value
