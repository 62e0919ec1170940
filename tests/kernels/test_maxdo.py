"""maxdo against weak duality, its twin, closed forms and its laws."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pcl_kernels import Status, maxdo
from pcl_kernels.maxdo.reference import maxdo as reference
from tests.kernels.hard_gramians import Problem, hard_set


def gradients(k: int, m: int, seed: int, *batch: int, decades: float = 2.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    j = torch.randn(*batch, k, m, generator=g, dtype=torch.float64)
    return j * 10 ** (decades * torch.rand(*batch, k, 1, generator=g, dtype=torch.float64))


def value(j: Tensor, w: Tensor) -> Tensor:
    """max_i ‖d - g_i‖²/‖g_i‖² from the gradients themselves."""
    d = w.unsqueeze(-2) @ j
    return ((d - j).square().sum(-1) / j.square().sum(-1)).amax(-1)


def bound(gram: Tensor, v: Tensor) -> Tensor:
    """No direction has a lower value: 1 - vᵀGv/((Σv)(δᵀv)), of any v >= 0."""
    square = (v * (gram @ v.unsqueeze(-1)).squeeze(-1)).sum(-1)
    return 1 - square / (v.sum(-1) * (v * gram.diagonal(dim1=-2, dim2=-1)).sum(-1))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 20, 40, 64, 70])
def test_value_reaches_its_bound(k: int, solvers: SimpleNamespace) -> None:
    for m in (2 * k, k + 1, max(1, k // 2)):
        j = gradients(k, m, k + m, 10)
        gram = j @ j.mT
        w, info = solvers.maxdo(gram, return_info=True)
        assert (w >= 0).all()
        torch.testing.assert_close(w.sum(-1), torch.ones(10, dtype=torch.float64), rtol=0, atol=1e-14)
        gap = value(j, w) - bound(gram, w)
        assert (gap <= 1e-9).all()
        assert ((info.gap - gap).abs() <= 1e-9).all()
        assert (info.status == Status.SOLVED).all()
        assert torch.equal(info.active, w > 0)
        assert torch.equal(solvers.maxdo(gram[0]), w[0])


@cache  # seconds, for all ways of solving
def twin_of(k: int, m: int, seed: int) -> Tensor:
    j = gradients(k, m, seed)
    return reference(j @ j.T)


@pytest.mark.parametrize(("k", "m"), [(1, 3), (2, 3), (3, 5), (5, 8), (5, 3), (6, 2)])
def test_the_twin_finds_nothing_lower(k: int, m: int, solvers: SimpleNamespace) -> None:
    for seed in range(3):
        j = gradients(k, m, seed)
        w, twin = solvers.maxdo(j @ j.T), twin_of(k, m, seed)
        assert float((value(j, w) - value(j, twin)).abs()) <= 1e-10
        if m >= k:
            torch.testing.assert_close(w @ j, twin @ j, rtol=0, atol=1e-4 * float(j.norm(dim=1).min()))


def test_two_gradients_share_by_their_lengths(solvers: SimpleNamespace) -> None:
    """d on the line between them, at distances in the ratio of their lengths."""
    for seed in range(20):
        j = gradients(2, 3, seed)
        w = solvers.maxdo(j @ j.T)
        a, b = j.norm(dim=1).tolist()
        torch.testing.assert_close(w, torch.tensor([b, a], dtype=torch.float64) / (a + b), rtol=1e-9, atol=0)


def test_equal_gradients_are_the_direction(solvers: SimpleNamespace) -> None:
    j = gradients(1, 4, 0).expand(5, 4)
    w, info = solvers.maxdo(j @ j.T, return_info=True)
    torch.testing.assert_close(w @ j, j[0])
    assert info.gap <= 1e-13


def test_orthogonal_gradients_of_one_length(solvers: SimpleNamespace) -> None:
    """Their mean, at 1 - 1/k of the length."""
    for k in (2, 5, 20):
        w, info = solvers.maxdo(9 * torch.eye(k, dtype=torch.float64), return_info=True)
        torch.testing.assert_close(w, torch.full((k,), 1 / k, dtype=torch.float64), rtol=1e-14, atol=0)
        assert float(value(3 * torch.eye(k, dtype=torch.float64), w)) == pytest.approx(1 - 1 / k)
        assert info.gap <= 1e-13


def test_laws(solvers: SimpleNamespace) -> None:
    """A common factor changes nothing; gradients in another order, weights in that order."""
    j = gradients(6, 9, 2)
    gram = j @ j.T
    w = solvers.maxdo(gram)
    for exponent in (-200, 200):
        torch.testing.assert_close(solvers.maxdo(gram * 10.0**exponent), w, rtol=1e-9, atol=1e-12)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(solvers.maxdo(gram[order][:, order]), w[order], rtol=1e-9, atol=1e-12)


def test_zero_gradients_share_the_weight(solvers: SimpleNamespace) -> None:
    gram = torch.diag(torch.tensor([4.0, 0.0, 1.0, 0.0], dtype=torch.float64))
    w, info = solvers.maxdo(gram, return_info=True)
    assert w.tolist() == [0, 0.5, 0, 0.5]
    assert info.gap == 0
    assert solvers.maxdo(torch.zeros(4, 4)).tolist() == [0.25] * 4


def exact_gap(problem: Problem, w: Tensor) -> float:
    """P(w) - 1 + wᵀGw/δᵀw without rounding."""
    inner, e, k = problem.inner(), problem.exponents, problem.k
    weights = [Fraction(v) for v in w.tolist()]
    scaled = [v * Fraction(2) ** ei for v, ei in zip(weights, e, strict=True)]
    gw = [sum(inner[i][j] * scaled[j] for j in range(k)) * Fraction(2) ** e[i] for i in range(k)]
    delta = [inner[i][i] * Fraction(2) ** (2 * e[i]) for i in range(k)]
    square = sum((v * g for v, g in zip(weights, gw, strict=True)), Fraction(0))
    worst = max((square - 2 * g) / d for g, d in zip(gw, delta, strict=True))
    return float(worst + square / sum((v * d for v, d in zip(weights, delta, strict=True)), Fraction(0)))


def failure(problem: Problem, solvers: SimpleNamespace) -> str:
    """'' where the gap is closed, or short gradients lie beside longer ones that cancel and it says so."""
    gram = problem.gram()
    w, info = solvers.maxdo(gram, return_info=True)
    good = bool((w >= 0).all()) and abs(float(w.sum()) - 1) <= 1e-14
    if bool((gram.diagonal() == 0).any()):
        good = good and bool((w[gram.diagonal() > 0] == 0).all())
    elif info.status == Status.INEXACT:
        good = good and max(problem.exponents) - min(problem.exponents) > 6
    else:
        gap = exact_gap(problem, w)
        good = good and gap <= 1e-9 and gap <= float(info.gap) + 1e-12
    return "" if good else f"{problem.family} k={problem.k}: {info}"


def test_hard_set(solvers: SimpleNamespace) -> None:
    failures = [line for p in hard_set(400, seed=3, k_max=24) if (line := failure(p, solvers))]
    assert not failures, "\n".join(failures)


def test_float32_gramian(solvers: SimpleNamespace) -> None:
    j = gradients(8, 12, 1, 20, decades=0.5)
    gram = (j @ j.mT).float()
    w = solvers.maxdo(gram)
    assert w.dtype == torch.float64
    assert (value(j, w) - value(j, solvers.maxdo(j @ j.mT)) <= 1e-4).all()


def test_torch() -> None:
    j = gradients(4, 7, 3, 3)
    torch.library.opcheck(torch.ops.pcl.maxdo.default, (j @ j.mT,))
    compiled = torch.compile(maxdo, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(j @ j.mT), maxdo(j @ j.mT))
