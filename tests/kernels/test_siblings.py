"""cagrad_dual, nash_mtl and imtl_g: their defining equations, their twins, their certificates, their refusals."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pcl_kernels import Status, cagrad_dual, imtl_g, nash_mtl
from pcl_kernels.cagrad_dual.reference import cagrad_dual as cagrad_reference
from pcl_kernels.imtl_g.reference import imtl_g as imtl_reference
from pcl_kernels.nash_mtl.reference import nash_mtl as nash_reference
from tests.kernels.hard_gramians import Problem, hard_set


def random_gram(k: int, m: int, seed: int, *batch: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    j = torch.randn(*batch, k, m, generator=g, dtype=torch.float64)
    return j @ j.mT


def norms_of(gram: Tensor) -> Tensor:
    return gram.diagonal(dim1=-2, dim2=-1).sqrt()


def times(gram: Tensor, x: Tensor) -> Tensor:
    return (gram @ x.unsqueeze(-1)).squeeze(-1)


# --- cagrad_dual ----------------------------------------------------------------------------------


def cagrad_value(gram: Tensor, w: Tensor, c: float) -> Tensor:
    b = gram.mean(-1)
    r = c * b.mean(-1).clamp_min(0).sqrt()
    return (w * b).sum(-1) + r * (w * times(gram, w)).sum(-1).clamp_min(0).sqrt()


@cache  # all supports, for all ways of solving
def cagrad_twin(k: int, m: int, c: float) -> Tensor:
    return cagrad_reference(random_gram(k, m, 10 * k + m, 20), c)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("c", [0.0, 0.1, 0.5, 0.9, 3.0])
def test_cagrad_matches_reference(k: int, c: float, solvers: SimpleNamespace) -> None:
    for m in (max(1, k - 1), k + 2):
        gram = random_gram(k, m, 10 * k + m, 20)
        w, info = solvers.cagrad_dual(gram, c, return_info=True)
        assert (w >= 0).all()
        torch.testing.assert_close(w.sum(-1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-14)
        excess = cagrad_value(gram, w, c) - cagrad_value(gram, cagrad_twin(k, m, c), c)
        scale = gram.diagonal(dim1=-2, dim2=-1).amax(-1)
        assert (excess <= (1e-13 if m > k else 1e-8) * scale).all()
        assert (excess <= info.gap + 1e-14 * scale).all()
        assert (info.gap <= (1e-13 if m > k else 1e-7) * scale).all()
        assert torch.equal(info.active, w > 0)
        assert torch.equal(w[3], solvers.cagrad_dual(gram[3], c))


@pytest.mark.parametrize("k", [2, 10, 40, 70])
def test_cagrad_optimality(k: int, solvers: SimpleNamespace) -> None:
    """b + r·Gw/√(wᵀGw) is least, and equal to the value, on the support."""
    gram, c = random_gram(k, 2 * k, k, 20), 0.5
    w, info = solvers.cagrad_dual(gram, c, return_info=True)
    gw = times(gram, w)
    b = gram.mean(-1)
    r = c * b.mean(-1, keepdim=True).sqrt()
    slope = b + r * gw / (w * gw).sum(-1, keepdim=True).sqrt()
    largest = gram.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True)
    off = (slope - cagrad_value(gram, w, c).unsqueeze(-1)) / largest
    assert off.amin() >= -1e-12
    assert off[w > 0].abs().max() <= 1e-12
    assert (info.status == Status.SOLVED).all()
    assert (info.gap <= 1e-12 * largest.squeeze(-1)).all()


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_cagrad_with_a_preference_matches_reference(k: int, solvers: SimpleNamespace) -> None:
    gram, c = random_gram(k, k + 2, k, 10), 0.5
    draws = torch.rand(10, k, generator=torch.Generator().manual_seed(k), dtype=torch.float64) + 0.1
    preference = draws / draws.sum(-1, keepdim=True)
    w, info = solvers.cagrad_dual(gram, c, preference, return_info=True)
    for g, p, found, gap in zip(gram, preference, w, info.gap, strict=True):
        b = g @ p
        r = c * (p @ b).sqrt()
        scale = float(g.diagonal().max())
        twin = cagrad_reference(g, c, p)
        above = (found @ b + r * (found @ g @ found).sqrt()) - (twin @ b + r * (twin @ g @ twin).sqrt())
        assert float(above) <= 1e-13 * scale
        assert float(gap) <= 1e-13 * scale
        assert torch.equal(solvers.cagrad_dual(g, c, p), found)
    alike = torch.full((k,), 1 / k, dtype=torch.float64)
    assert torch.equal(solvers.cagrad_dual(gram, c, alike), solvers.cagrad_dual(gram, c))


def cagrad_failure(problem: Problem, solvers: SimpleNamespace) -> str:
    """'' where w is as good as promised, and its gap says no more than is true."""
    gram, c = problem.gram(), 0.4
    w, info = solvers.cagrad_dual(gram, c, return_info=True)
    largest = float(gram.diagonal().max())
    apart = max(problem.exponents) - min(problem.exponents) > 40  # norms more than 1e12
    twin = torch.eye(len(gram), dtype=torch.float64) if apart else cagrad_reference(gram, c).unsqueeze(0)
    above = float((cagrad_value(gram, w, c) - cagrad_value(gram, twin, c)).max() / (largest or 1))
    feasible = bool((w >= 0).all()) and abs(float(w.sum()) - 1) <= 1e-14
    if feasible and above <= 1e-10 and above <= float(info.gap) / (largest or 1) + 1e-8:
        return ""
    return f"{problem.family} k={problem.k}: {above:.1e} too high, gap {float(info.gap):.1e}, {problem}"


def test_cagrad_on_the_hard_set(solvers: SimpleNamespace) -> None:
    failures = [line for p in hard_set(400, seed=21, k_max=6) if (line := cagrad_failure(p, solvers))]
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_cagrad_on_the_whole_hard_set(solvers: SimpleNamespace) -> None:
    failures = [line for p in hard_set(2400, k_max=7) if (line := cagrad_failure(p, solvers))]
    assert not failures, "\n".join(failures)


# --- nash_mtl -------------------------------------------------------------------------------------


@cache  # seconds, for all ways of solving
def nash_twin(k: int) -> Tensor:
    return nash_reference(random_gram(k, k + 10, k, 20))


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("k", [1, 2, 5, 20, 64, 70])
def test_nash_solves_its_equation(k: int, solvers: SimpleNamespace) -> None:
    gram = random_gram(k, k + 10, k, 20)
    alpha, info = solvers.nash_mtl(gram, return_info=True)
    assert (info.status == Status.SOLVED).all()
    residual = (alpha * times(gram, alpha) - 1).abs().amax(-1)
    assert (residual <= 1e-12 * k).all()
    assert ((info.residual - residual).abs() <= 1e-13 * k).all()
    if k <= 5:
        torch.testing.assert_close(alpha, nash_twin(k), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(solvers.nash_mtl(gram * 1e30) * 1e15, alpha, rtol=1e-12, atol=0)
    assert torch.equal(solvers.nash_mtl(gram[0]), alpha[0])


def test_nash_says_that_there_is_no_solution(solvers: SimpleNamespace) -> None:
    row = torch.randn(1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for j in (
        torch.cat([row, -2 * row]),
        torch.cat([row, 0 * row]),
        torch.cat([row, row.flip(1), -row - row.flip(1)]),
    ):
        gram = torch.stack([j @ j.T, torch.eye(len(j), dtype=torch.float64)])
        alpha, info = solvers.nash_mtl(gram, return_info=True)
        assert info.status.tolist() == [Status.NO_SOLUTION, Status.SOLVED]
        assert alpha[0].isnan().all()
        assert info.residual[0].isnan()
        torch.testing.assert_close(alpha[1], torch.ones(len(j), dtype=torch.float64))


def nash_failure(problem: Problem, solvers: SimpleNamespace) -> str:
    """'' where α solves its equation, or the gradients cancel to within rounding and it says so."""
    gram = problem.gram()
    alpha, info = solvers.nash_mtl(gram, return_info=True)
    if info.status == Status.SOLVED:
        unit = norms_of(gram)
        terms = (gram.abs() * alpha).sum(-1) * alpha
        residual = float((alpha * times(gram, alpha) - 1).abs().max() / terms.max())
        good = residual <= 1e-13 * problem.k and bool((alpha > 0).all()) and bool((alpha * unit).isfinite().all())
    else:
        # the shortest combination of unit gradients is zero up to the root of the rounding
        unit = norms_of(gram)
        safe = torch.where(unit > 0, unit, 1.0)
        cosines = gram / safe / safe.unsqueeze(-1)
        lam = solvers.simplex_qp(cosines)
        residual = float(lam @ cosines @ lam)
        good = info.status == Status.NO_SOLUTION and residual <= 1e-12
    return "" if good else f"{problem.family} k={problem.k}: {residual:.1e}, {info}"


@pytest.mark.no_cover  # takes long, and goes no way that others do not
def test_nash_on_the_hard_set(solvers: SimpleNamespace) -> None:
    failures = [line for p in hard_set(2400, seed=4) if (line := nash_failure(p, solvers))]
    assert not failures, "\n".join(failures)


def test_nash_gradient() -> None:
    for gram in (random_gram(4, 8, 1, 3), random_gram(3, 5, 2)):
        torch.autograd.gradcheck(lambda g: nash_mtl((g + g.mT) / 2), (gram.requires_grad_(),))


# --- imtl_g ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 5, 20, 64, 70])
def test_imtl_projects_equally(k: int, solvers: SimpleNamespace) -> None:
    gram = random_gram(k, 2 * k + 3, k, 10)
    alpha, info = solvers.imtl_g(gram, return_info=True)
    torch.testing.assert_close(alpha.sum(-1), torch.ones(10, dtype=torch.float64))
    norms = norms_of(gram)
    projections = times(gram, alpha) / norms
    assert ((projections - projections[:, :1]).abs() <= 1e-11 * norms.amax(-1, keepdim=True)).all()
    assert (info.status == Status.SOLVED).all()
    assert (info.residual <= 1e-14 * k).all()
    torch.testing.assert_close(alpha, imtl_reference(gram), rtol=1e-8, atol=1e-10)
    assert torch.equal(solvers.imtl_g(gram[0]), alpha[0])
    factors = torch.tensor([1e-20] + [1.0] * (k - 1), dtype=torch.float64)
    wild = gram * factors * factors.unsqueeze(-1)
    assert solvers.imtl_g(wild).isfinite().all()
    assert torch.equal(solvers.imtl_g(gram * 4.0**300), alpha)


@pytest.mark.parametrize("k", [3, 6, 12, 40])
def test_imtl_dependent_gradients_match_reference(k: int, solvers: SimpleNamespace) -> None:
    """Rank k - 1 and k / 2, where equal projections do not exist, and duplicates, where they do."""
    for m in (k - 1, max(2, k // 2)):
        gram = random_gram(k, m, k + m, 10)
        alpha, info = solvers.imtl_g(gram, return_info=True)
        torch.testing.assert_close(alpha, imtl_reference(gram), rtol=1e-6, atol=1e-8)
        assert (info.status == Status.INEXACT).all()
    twice = random_gram(k, k + 2, k, 10)[:, [0, *range(k)]][:, :, [0, *range(k)]]
    alpha, info = solvers.imtl_g(twice, return_info=True)
    assert (info.status == Status.SOLVED).all()
    assert ((alpha[:, 0] - alpha[:, 1]).abs() <= 1e-12 * alpha.abs().amax(-1)).all()
    torch.testing.assert_close(alpha, imtl_reference(twice), rtol=1e-7, atol=1e-9)


def test_imtl_zero_and_opposite_gradients(solvers: SimpleNamespace) -> None:
    ones = torch.ones(3, 3, dtype=torch.float64)
    torch.testing.assert_close(solvers.imtl_g(ones), torch.full((3,), 1 / 3, dtype=torch.float64))
    gram = torch.diag(torch.tensor([4.0, 0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(solvers.imtl_g(gram), torch.tensor([1 / 3, 0, 2 / 3], dtype=torch.float64))
    alpha, info = solvers.imtl_g(torch.zeros(4, 4), return_info=True)
    assert alpha.tolist() == [0.25] * 4
    assert info.status == Status.SOLVED
    row = torch.randn(1, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    j = torch.cat([row, -3 * row])
    alpha, info = solvers.imtl_g(j @ j.T, return_info=True)
    assert alpha.isnan().all()
    assert info.status == Status.NO_SOLUTION


def imtl_failure(problem: Problem, solvers: SimpleNamespace) -> str:
    """'' where α projects equally, as the residual says, or the gradients are dependent and it says so."""
    gram = problem.gram()
    alpha, info = solvers.imtl_g(gram, return_info=True)
    norms = norms_of(gram)
    unit = torch.where(norms > 0, norms, 1.0)
    cosines = gram / unit / unit.unsqueeze(-1)
    rank = int(torch.linalg.matrix_rank(cosines, rtol=1e-9, hermitian=True))
    if info.status == Status.SOLVED:
        some = norms > 0
        share = alpha * unit / (alpha * unit).abs().max()
        projections = times(cosines, share)[some] if bool(some.any()) else torch.zeros(1)
        spread = float((projections - projections.mean()).abs().max())
        return "" if spread <= 1e-11 else f"{problem.family} k={problem.k}: unequal by {spread:.1e}"
    dependent = rank < int((norms > 0).sum())
    known = info.status in (Status.INEXACT, Status.NO_SOLUTION)
    return "" if dependent and known else f"{problem.family} k={problem.k}: {info}, rank {rank}"


@pytest.mark.no_cover  # takes long, and goes no way that others do not
def test_imtl_on_the_hard_set(solvers: SimpleNamespace) -> None:
    failures = [line for p in hard_set(2400, seed=6) if (line := imtl_failure(p, solvers))]
    assert not failures, "\n".join(failures)


def test_imtl_gradient() -> None:
    for gram in (random_gram(3, 6, 5, 2), random_gram(4, 9, 6), random_gram(1, 2, 7)):
        torch.autograd.gradcheck(lambda g: imtl_g((g + g.mT) / 2), (gram.requires_grad_(),))
    # of rank 2 whatever j is: the derivative along the matrices of that rank
    j = torch.randn(4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.autograd.gradcheck(lambda j: imtl_g(j @ j.mT), (j.requires_grad_(),))
    with_zero = torch.cat([j.detach()[:2], torch.zeros(1, 2)]).requires_grad_()
    torch.autograd.gradcheck(
        lambda j: imtl_g(torch.cat([j[:2], 0 * j[2:]]) @ torch.cat([j[:2], 0 * j[2:]]).mT), (with_zero,)
    )


# --- all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [cagrad_dual, nash_mtl, imtl_g])
def test_refusals(op: Callable[[Tensor], object]) -> None:
    eye = torch.eye(3)
    with pytest.raises(ValueError, match="gram: expected shape"):
        op(eye[:2])
    with pytest.raises(TypeError, match="gram: expected float32 or float64"):
        op(eye.half())
    with pytest.raises(TypeError, match="gram: expected a Tensor"):
        op([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gram: expected finite numbers"):
        op(eye / 0)
    with pytest.raises(ValueError, match=r"gram\[1\]: expected a Gramian"):
        op(torch.stack([eye, -eye]))
    assert op(eye[None][:0]).shape == (0, 3)  # type: ignore[attr-defined]


def test_cagrad_refuses_a_negative_radius() -> None:
    with pytest.raises(ValueError, match="c: expected a finite number >= 0, got -1"):
        cagrad_dual(torch.eye(2), -1)


def test_cagrad_refuses_a_preference_that_is_not_positive() -> None:
    with pytest.raises(ValueError, match="preference: expected positive finite"):
        cagrad_dual(torch.eye(2), 0.5, torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="preference: expected shape"):
        cagrad_dual(torch.eye(2), 0.5, torch.ones(3))


def test_torch() -> None:
    gram = random_gram(4, 7, 3, 3)
    torch.library.opcheck(torch.ops.pcl.cagrad_dual.default, (gram, 0.5, torch.ones(4, dtype=torch.float64)))
    torch.library.opcheck(torch.ops.pcl.nash_mtl.default, (gram, None, 1.0))
    torch.library.opcheck(torch.ops.pcl.imtl_g.default, (gram,))
    for op in (lambda g: cagrad_dual(g, 0.5), nash_mtl, imtl_g):
        compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(gram), op(gram))
