"""grad_x |g(x_b) - d|^2 for every sample of a batch: four ways that give the same numbers, and which one to take.

=========  ============================================================================  =====================
way        how                                                                           for
=========  ============================================================================  =====================
``sweep``  the R-operator, layer by layer (:mod:`pcl.gradients.sweep.recording`)         layers with a rule, any
                                                                                         parameter-free function
``ghost``  one double backward over |g(x_b)|^2 from layer inputs and their deltas        Linear, Conv2d, BatchNorm,
           (:mod:`pcl.gradients.sample_norms`)                                           also used several times
``vmap``   a double backward over the samples' own gradients, for some at a time         what torch.func.vmap takes
``loop``   a double backward for every sample                                            everything
=========  ============================================================================  =====================

They are in the order of their speed, vmap being no faster than the loop for large networks on a CPU. All need a model
whose samples do not see each other, as in evaluation mode.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pcl.gradients.sample_norms import SampleNorms
from pcl.gradients.sweep.recording import Sweep, UncoveredError
from pcl.notices import say_once
from pcl.parts import buffers, parameters

Rows = slice | Tensor
"""Rows of the edited batch; anything that indexes a tensor's first dimension."""

Losses = Callable[[Tensor, Rows], Tensor]
"""From samples ``(B, ...)``, and the rows of the edited batch that they are, to their losses ``(B,)``."""

Way = Literal["sweep", "ghost", "vmap", "loop"]


@dataclass(frozen=True)
class Problem:
    """What to differentiate.

    Attributes:
        model: the module that ``losses`` runs and that owns ``shared``.
        losses: ``losses(x[rows], rows)`` are the losses of the samples in those rows.
        x: ``(B, ...)``, a floating dtype.
        shared: the parameters that g and d are about.
        direction: d, one tensor per parameter; None is zero.
        rows: which samples of ``x``.
    """

    model: nn.Module
    losses: Losses
    x: Tensor
    shared: Sequence[nn.Parameter]
    direction: Sequence[Tensor | None]
    rows: slice = field(default_factory=lambda: slice(None))

    def start(self) -> Tensor:
        """The samples as the leaf of a graph."""
        x: Tensor = self.x[self.rows].detach().requires_grad_()
        return x


def by_sweep(problem: Problem) -> Tensor:
    """The R-operator, layer by layer."""
    x = problem.x[problem.rows].detach()
    with torch.no_grad():
        with Sweep(x, problem.shared, problem.direction) as sweep:
            losses = problem.losses(x, problem.rows)
        found: Tensor = sweep.gradient(losses)
    return found


def by_ghost_norms(problem: Problem) -> Tensor:
    """One double backward over the sum of |g(x_b)|^2 - 2 <g(x_b), d>."""
    reason = SampleNorms.uncovered(problem.model, problem.shared)
    if reason:
        raise UncoveredError(reason)
    x = problem.start()
    with SampleNorms(problem.model, problem.shared) as norms:
        total = problem.losses(x, problem.rows).sum()
    squared, gradients = norms.squared(total)
    return torch.autograd.grad(squared.sum() - 2 * inner(gradients, problem.direction, x), x)[0]


def by_vmap(problem: Problem) -> Tensor:
    """The gradients of as many samples at once as memory allows, then back through them."""
    owner = _WithLosses(problem.model, problem.losses)
    names = {id(p): name for name, p in owner.named_parameters()}
    shared = {names[id(p)]: p.detach() for p in problem.shared}
    d = {names[id(p)]: t for p, t in zip(problem.shared, problem.direction, strict=True)}

    def distance(x: Tensor, row: Tensor) -> Tensor:
        def loss(parameters: dict[str, Tensor]) -> Tensor:
            found: Tensor = torch.func.functional_call(owner, parameters, (x[None], row[None]))
            return found.sum()

        g = torch.func.grad(loss)(shared)
        terms = [(g[n] if d[n] is None else g[n] - d[n]).square().sum() for n in g]
        return torch.stack(terms).sum()

    x = problem.x[problem.rows].detach()
    row = torch.arange(len(problem.x), device=x.device)[problem.rows]
    with torch.no_grad():
        problem.losses(x[:1], row[:1])  # what a model keeps from its first call must not be kept from inside vmap
    size = _parameters(problem)
    chunk = max(1, VMAP_NUMBERS // max(1, size))
    found: Tensor = torch.func.vmap(torch.func.grad(distance), chunk_size=chunk)(x, row)
    return found.detach()  # parameters that are not asked about, such as heads, have their gradients recorded too


def _parameters(problem: Problem) -> int:
    return sum(p.numel() for p in problem.shared)


VMAP_NUMBERS = 1 << 22
"""How many numbers of samples' own gradients `by_vmap` keeps at a time; more is no faster, and needs the memory."""


def by_loop(problem: Problem) -> Tensor:
    """A double backward for every sample."""
    rows = range(*problem.rows.indices(len(problem.x)))
    found = [_one(replace(problem, rows=slice(i, i + 1))) for i in rows]
    return torch.cat(found) if found else torch.zeros_like(problem.x[problem.rows])


def _one(problem: Problem) -> Tensor:
    x = problem.start()
    losses = problem.losses(x, problem.rows)
    gradients = torch.autograd.grad(losses.sum(), list(problem.shared), create_graph=True, allow_unused=True)
    squared = sum((g.square().sum() for g in gradients if g is not None), start=x.new_zeros(()))
    return torch.autograd.grad(squared - 2 * inner(gradients, problem.direction, x), x)[0]


def inner(gradients: Sequence[Tensor | None], direction: Sequence[Tensor | None], x: Tensor) -> Tensor:
    """<g, d>, connected to x even where no gradient is."""
    products = [(g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None and d is not None]
    return sum(products, start=0 * x.sum())


class _WithLosses(nn.Module):
    """Lets torch.func exchange the parameters of a model whose losses are a function beside it."""

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.model = model
        self._losses = losses

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        return self._losses(x, rows)


WAYS: dict[Way, Callable[[Problem], Tensor]] = {
    "sweep": by_sweep,
    "ghost": by_ghost_norms,
    "vmap": by_vmap,
    "loop": by_loop,
}
"""From the fastest to the one that is right for any model."""


def _refuse_slow_vmap(problem: Problem) -> None:
    """On a CPU vmap beats the loop by taking many samples at once; measured, with 16 and more at a time."""
    if problem.x.is_cpu and 16 * _parameters(problem) > VMAP_NUMBERS:
        raise UncoveredError(f"no faster than the loop for {_parameters(problem)} parameters on a CPU")


class DistanceGradient:
    """Takes the fastest way that is right for a model.

    Whether a way is right shows at a model's first batch, where two samples are computed by the loop too, in float64 if
    they differ: layer types do not tell all, for samples may be folded into rows of their own, or a weight used outside
    its layer. That the fastest way is not the one is said once, with the reason.

    Args:
        method: one of the ways, or ``"auto"``.

    Raises:
        ValueError: for an unknown name.
    """

    def __init__(self, method: Way | Literal["auto"] = "auto") -> None:
        if method != "auto" and method not in WAYS:
            raise ValueError(f"edit: expected method 'auto', {', '.join(map(repr, WAYS))}, got {method!r}")
        self._forced = method != "auto"
        self._names: list[Way] = list(WAYS) if method == "auto" else [method]
        self._verified: WeakKeyDictionary[nn.Module, set[Way]] = WeakKeyDictionary()
        self._ruled_out: WeakKeyDictionary[nn.Module, dict[Way, str]] = WeakKeyDictionary()

    def __call__(self, problem: Problem) -> Tensor:
        """The gradient ``(B, ...)`` like x.

        Raises:
            ValueError: if the one method allowed is not right for this model.
        """
        if len(problem.x) == 0:
            return torch.zeros_like(problem.x)
        ruled_out = self._ruled_out.setdefault(problem.model, {})
        for name in self._names:
            if name in ruled_out:
                continue
            try:
                if name == "vmap" and not self._forced:
                    _refuse_slow_vmap(problem)
                self._verify(name, problem)
                found = WAYS[name](problem)
            except (UncoveredError, RuntimeError, IndexError, ValueError, TypeError) as error:
                if name == "loop" or isinstance(error, torch.cuda.OutOfMemoryError):
                    raise  # lack of memory may pass, and must not decide how a run goes on
                ruled_out[name] = str(error).strip().partition("\n")[0]
                continue
            if ruled_out:
                why = "; ".join(f"{way}: {reason}" for way, reason in ruled_out.items())
                say_once(f"edit: {name} is the fastest method that is right for this model, exact but slower. {why}")
            return found
        (name,) = self._names
        raise ValueError(f"edit: method {name!r} is not right for this model: {ruled_out[name]}. Use method='auto'")

    def _verify(self, name: Way, problem: Problem) -> None:
        verified = self._verified.setdefault(problem.model, {"loop"})
        if name in verified:
            return
        two = replace(problem, rows=slice(0, min(2, len(problem.x))))
        expected, found = by_loop(two), WAYS[name](two)
        if not torch.isfinite(expected).all() or not expected.any():
            return  # says nothing about the way; the next batch may
        if not (_same(found, expected) or (_near(found, expected) and _same_in_double(name, two))):
            raise UncoveredError("other numbers than the loop's (samples share rows, or a weight is used twice)")
        verified.add(name)


def _same(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= torch.finfo(found.dtype).eps ** 0.5 * expected.norm())


def _near(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= 0.1 * expected.norm())


def _same_in_double(name: Way, problem: Problem) -> bool:
    """Where rounding decides whether a ReLU lets a neuron through, both sides of the kink are right, and far apart."""
    direction = [None if d is None else d.double() for d in problem.direction]
    with _in_double(problem.model):
        exact = replace(problem, x=problem.x[problem.rows].double(), direction=direction)
        try:
            return _same(WAYS[name](exact), by_loop(exact))
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError):  # a model that knows no float64
            return False


@contextmanager
def _in_double(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers in float64 for a while; then they are what they were, to the bit."""
    held = [(t, t.data) for t in (*parameters(model), *buffers(model)) if t.is_floating_point()]
    try:
        for tensor, before in held:
            tensor.data = before.double()
        yield
    finally:
        for tensor, before in held:
            tensor.data = before
