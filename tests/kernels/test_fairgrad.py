"""nash_mtl with any alpha and a preference (FairGrad): the equation, the twin, the laws of scale."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pcl_kernels import Status, nash_mtl
from pcl_kernels.nash_mtl.reference import nash_mtl as reference
from tests.kernels.hard_gramians import Problem, hard_set

ALPHAS = [0.1, 0.5, 1.0, 2.0, 10.0]


def random_problem(k: int, seed: int, *batch: int, decades: float = 2.0) -> tuple[Tensor, Tensor]:
    """Gramians of gradients whose norms span some decades, and preferences."""
    g = torch.Generator().manual_seed(seed)
    j = torch.randn(*batch, k, k + 10, generator=g, dtype=torch.float64)
    j = j * 10 ** (decades * torch.rand(*batch, k, 1, generator=g, dtype=torch.float64))
    return j @ j.mT, torch.rand(*batch, k, generator=g, dtype=torch.float64) + 0.1


def times(gram: Tensor, x: Tensor) -> Tensor:
    return (gram @ x.unsqueeze(-1)).squeeze(-1)


def unequal(gram: Tensor, p: Tensor, alpha: float, w: Tensor) -> Tensor:
    """|Gw - (p/w)^(1/α)| in units of what is summed up in Gw, the largest of a problem."""
    return ((times(gram, w) - (p / w) ** (1 / alpha)).abs() / times(gram.abs(), w)).amax(-1)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("k", [1, 2, 5, 20, 40, 64, 70])
def test_the_equation_is_solved(k: int, alpha: float, solvers: SimpleNamespace) -> None:
    gram, p = random_problem(k, k, 10)
    w, info = solvers.nash_mtl(gram, p, alpha=alpha, return_info=True)
    assert (info.status == Status.SOLVED).all()
    assert (w > 0).all()
    assert (unequal(gram, p, alpha, w) <= 1e-13 * k).all()
    if alpha >= 0.5:  # below, gains are so small that their relative error is rounding
        assert (info.residual <= 1e-10).all()
        found = (times(gram, w) / (p / w) ** (1 / alpha) - 1).abs().amax(-1)
        assert ((info.residual - found).abs() <= 1e-11).all()
    assert torch.equal(solvers.nash_mtl(gram[0], p[0], alpha=alpha), w[0])
    alone = solvers.nash_mtl(gram, p[0], alpha=alpha)
    assert torch.equal(alone[0], w[0])
    if alpha == 1:
        assert torch.equal(solvers.nash_mtl(gram), solvers.nash_mtl(gram, torch.ones_like(p)))


@cache  # a second each, for all ways of solving
def twin(k: int, alpha: float) -> Tensor:
    gram, p = random_problem(k, k, 4, decades=0.5)
    return reference(gram, p, alpha=alpha)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_twin_agrees(k: int, alpha: float, solvers: SimpleNamespace) -> None:
    gram, p = random_problem(k, k, 4, decades=0.5)
    torch.testing.assert_close(solvers.nash_mtl(gram, p, alpha=alpha), twin(k, alpha), rtol=1e-7, atol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_laws_of_scale(alpha: float, solvers: SimpleNamespace) -> None:
    """w is proportional to G^(-α/(1+α)) and p^(1/(1+α)), whatever the scale."""
    gram, p = random_problem(7, 3)
    w = solvers.nash_mtl(gram, p, alpha=alpha)
    for exponent in (-200, -20, 20, 200):
        scaled, info = solvers.nash_mtl(gram * 10.0**exponent, p, alpha=alpha, return_info=True)
        expected = w * 10 ** (-exponent * alpha / (1 + alpha))
        torch.testing.assert_close(scaled, expected, rtol=1e-11, atol=0)
        assert info.status == Status.SOLVED
    doubled = solvers.nash_mtl(gram, 2 * p, alpha=alpha)
    torch.testing.assert_close(doubled, w * 2 ** (1 / (1 + alpha)), rtol=1e-12, atol=0)


def test_orthogonal_gradients_in_closed_form(solvers: SimpleNamespace) -> None:
    p = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    lengths = torch.tensor([1e-8, 1.0, 1e8], dtype=torch.float64)
    for alpha in ALPHAS:
        s = 1 / alpha
        expected = (p**s / lengths**2) ** (1 / (1 + s))
        torch.testing.assert_close(
            solvers.nash_mtl(torch.diag(lengths**2), p, alpha=alpha), expected, rtol=1e-13, atol=0
        )


def test_limits_are_the_sum_and_equal_gains() -> None:
    gram, _ = random_problem(4, 9, decades=0.0)
    torch.testing.assert_close(nash_mtl(gram, alpha=1e-4), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-2)
    gains = gram @ nash_mtl(gram, alpha=1000.0)
    torch.testing.assert_close(gains, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-2)


def failure(problem: Problem, alpha: float, solvers: SimpleNamespace) -> str:
    """'' where w solves its equation to the rounding of G, or the gradients cancel and it says so."""
    gram = problem.gram()
    apart = max(problem.exponents) - min(problem.exponents)
    w, info = solvers.nash_mtl(gram, alpha=alpha, return_info=True)
    if info.status == Status.NO_SOLUTION:
        # whether there is a solution does not depend on α
        good = bool(w.isnan().all()) and solvers.nash_mtl(gram, return_info=True)[1].status == Status.NO_SOLUTION
    elif info.status == Status.INEXACT:
        good = apart > (40 if 0.5 <= alpha <= 2 else 6) and bool((w > 0).all())
    else:
        # gains 1e30 apart to the power of α leave the range of float64: their weights are zero there
        normal = w >= torch.finfo(torch.float64).tiny
        sizes = times(gram.abs(), w)
        off = w * (gram @ w - w ** (-1 / alpha)).abs() / (w * sizes).max()
        good = bool((w >= 0).all()) and (bool(normal.all()) or apart > 100)
        good = good and float(off[normal].max()) <= 1e-13 * problem.k
    return "" if good else f"{problem.family} k={problem.k} α={alpha} apart={apart}: {info}"


@pytest.mark.parametrize("alpha", [0.1, 0.5, 2.0, 10.0])
def test_hard_set(alpha: float, solvers: SimpleNamespace) -> None:
    failures = [line for p in hard_set(600, seed=4) if (line := failure(p, alpha, solvers))]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 3.0])
def test_gradient(alpha: float) -> None:
    for shape, vector in (((3,), (3,)), ((), ()), ((3,), ())):
        gram, _ = random_problem(4, 1, *shape, decades=0.3)
        p = random_problem(4, 2, *vector)[1]

        def solve(g: Tensor, p: Tensor) -> Tensor:
            return nash_mtl((g + g.mT) / 2, p, alpha=alpha)

        torch.autograd.gradcheck(solve, (gram.requires_grad_(), p.requires_grad_()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: nash_mtl(g, alpha=0), "alpha: expected a finite number > 0"),
        (lambda g: nash_mtl(g, alpha=float("inf")), "alpha: expected a finite number > 0"),
        (lambda g: nash_mtl(g, torch.ones(2)), "preference: expected shape"),
        (lambda g: nash_mtl(g, torch.tensor([1.0, 0.0, 1.0])), "preference: expected positive finite"),
        (lambda g: nash_mtl(g, torch.tensor([1.0, torch.nan, 1.0]).double()), "preference: expected positive finite"),
    ],
)
def test_refusals(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.eye(3, dtype=torch.float64))


def test_torch() -> None:
    gram, p = random_problem(4, 3, 3)
    torch.library.opcheck(torch.ops.pcl.nash_mtl.default, (gram, p, 2.0))
    compiled = torch.compile(lambda g, q: nash_mtl(g, q, alpha=0.5), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(gram, p), nash_mtl(gram, p, alpha=0.5))
