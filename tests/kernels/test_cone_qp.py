"""cone_qp against its optimality conditions in exact arithmetic, its twin and brute force."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pcl_kernels import Status, cone_qp
from pcl_kernels.cone_qp.reference import cone_qp as reference
from tests.kernels.hard_gramians import Problem, hard_set


def random_problem(k: int, m: int, seed: int, *batch: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    j = torch.randn(*batch, k, m, generator=g, dtype=torch.float64)
    h = torch.randn(*batch, m, generator=g, dtype=torch.float64)
    return j @ j.mT, (j @ h.unsqueeze(-1)).squeeze(-1)


def cone_residual(problem: Problem, b: list[float], v: Tensor) -> float:
    """Violation of Gv + b >= 0, v >= 0, vᵀ(Gv + b) = 0, evaluated exactly for gradients of unit norm.

    Relative to the largest |b_i|/‖g_i‖, and to the size of the terms of (Gv)_i where that is larger.
    """
    assert (v >= 0).all()
    inner, e = problem.inner(), problem.exponents
    k = problem.k
    x = [Fraction(a) * Fraction(2) ** n for a, n in zip(v.tolist(), e, strict=True)]
    right = [Fraction(a) / Fraction(2) ** n for a, n in zip(b, e, strict=True)]
    norms = [inner[i][i] ** 0.5 for i in range(k)]
    scale = max((abs(float(r)) / n for r, n in zip(right, norms, strict=True) if n), default=0.0) or 1.0
    worst = 0.0
    for i in range(k):
        if not norms[i]:
            continue
        w = float(sum((inner[i][j] * x[j] for j in range(k)), right[i])) / norms[i] / scale
        size = sum(abs(inner[i][j]) * float(x[j]) for j in range(k)) / norms[i] / scale
        w /= max(1.0, size)
        worst = max(worst, abs(w) if x[i] > 0 else -w)
    return worst


def hard_failures(solvers: SimpleNamespace, count: int, seed: int) -> list[str]:
    """b = Jh for h the opposite of the sum, or the first gradient, in which case every b_i is exact as well."""
    failures = []
    for problem in hard_set(count, seed):
        if max(problem.exponents) - min(problem.exponents) > 8:
            continue  # b would not be exact, and an inexact b makes singular problems unbounded
        gram = problem.gram()
        for b in (-gram.sum(1), gram[:, 0]):
            v, info = solvers.cone_qp(gram, b, return_info=True)
            residual = cone_residual(problem, b.tolist(), v)
            if not (residual <= 1e-12 and info.status == Status.SOLVED):
                failures.append(f"{problem.family} k={problem.k}: residual {residual:.1e}, {info}")
    return failures


@pytest.mark.no_cover  # takes long, and goes no way that others do not
def test_hard_set(solvers: SimpleNamespace) -> None:
    failures = hard_failures(solvers, 2000 if solvers.name == "cpu-avx512" else 400, seed=11)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("decades", [0.0, 2.0])
@pytest.mark.parametrize(("k", "rank"), [(5, 2), (10, 2), (20, 3), (20, 11), (40, 21)])
def test_gradients_that_depend_on_each_other_up_to_rounding(
    k: int, rank: int, decades: float, solvers: SimpleNamespace
) -> None:
    """G and b as they come from real gradients, indefinite by rounding: no task may lose by the projection."""
    for seed in range(6):
        draws = torch.Generator().manual_seed(1000 * k + seed)
        lengths = 10 ** (decades * torch.rand(k, 1, dtype=torch.float64, generator=draws))
        g = lengths * torch.randn(k, rank, dtype=torch.float64, generator=draws)
        gram = g @ g.T
        v = solvers.cone_qp(gram.expand(k, k, k).contiguous(), gram)
        assert (v >= 0).all()
        projected, norms = g + v @ g, g.norm(dim=1)
        cosines = g @ projected.T / (norms[:, None] * norms)
        assert cosines.min() > -1e-7
        gained = (projected * g).sum(dim=1) / norms**2  # the projection of h is no longer than h
        assert ((gained > -1e-7) & (gained < 1 + 1e-7)).all()


@pytest.mark.slow
def test_hard_set_from_other_seeds(solvers: SimpleNamespace) -> None:
    failures = hard_failures(solvers, 5000, seed=0)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("k", [1, 2, 3, 6, 8])
def test_matches_reference(k: int, solvers: SimpleNamespace) -> None:
    gram, b = random_problem(k, k + 2, k, 10)
    cone_qp = solvers.cone_qp
    torch.testing.assert_close(cone_qp(gram, b), reference(gram, b), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(cone_qp(gram[0], b[0]), reference(gram[0], b[0]), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(cone_qp(gram, b[0] * 0 - 1), reference(gram, b[0] * 0 - 1), rtol=1e-9, atol=1e-9)
    single = cone_qp(gram.float(), b)
    torch.testing.assert_close(single, cone_qp(gram, b), rtol=1e-3, atol=1e-3 * float(cone_qp(gram, b).max()))


@pytest.mark.parametrize("k", [2, 5, 20, 64, 80])
@pytest.mark.parametrize("rank", ["full", "half"])
def test_projection_on_the_dual_cone(k: int, rank: str, solvers: SimpleNamespace) -> None:
    """h + Jᵀv conflicts with no gradient, is orthogonal to what was added, and is its own projection."""
    g = torch.Generator().manual_seed(k)
    j = torch.randn(k, k + 3 if rank == "full" else k // 2 + 1, generator=g, dtype=torch.float64)
    h = torch.randn(j.shape[1], generator=g, dtype=torch.float64)
    v, info = solvers.cone_qp(j @ j.T, j @ h, return_info=True)
    projected = h + j.T @ v
    assert (j @ projected >= -1e-10 * h.norm() * j.norm(dim=1)).all()
    assert abs((j.T @ v) @ projected) <= 1e-10 * h.square().sum()
    assert solvers.cone_qp(j @ j.T, j @ projected + 1e-9).abs().max() <= 1e-6
    assert info.status == Status.SOLVED
    assert torch.equal(info.active, v > 0)
    assert 0 <= info.gap <= 1e-10 * h.square().sum()


@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_certificate(k: int, solvers: SimpleNamespace) -> None:
    """The gap is its formula, tiny at the minimum, and bounds the distance to it for a worse Gramian's answer."""
    gram, b = random_problem(k, k + 2, 40 + k, 10)
    v, info = solvers.cone_qp(gram, b, return_info=True)
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    w = (gram @ v.unsqueeze(-1)).squeeze(-1) + b
    longest = torch.maximum(norms * v, b.abs() / norms).amax(-1)
    expected = (v * w.clamp_min(0)).sum(-1) + 2 * longest * ((-w).clamp_min(0) / norms).sum(-1)
    rounding = 1e-14 * longest * longest * k
    assert ((info.gap - expected).abs() <= rounding).all()
    assert (info.gap <= 10 * rounding).all()
    best = reference(gram, b)
    above = cone_value(gram, b, v) - cone_value(gram, b, best)
    assert (above <= info.gap + rounding).all()


def cone_value(gram: Tensor, b: Tensor, v: Tensor) -> Tensor:
    return (v * (0.5 * (gram @ v.unsqueeze(-1)).squeeze(-1) + b)).sum(-1)


def test_shapes_and_layouts() -> None:
    gram, b = random_problem(4, 6, 0, 5)
    v = cone_qp(gram, b)
    assert torch.equal(v[2], cone_qp(gram[2], b[2]))
    assert torch.equal(cone_qp(gram.mT, b), v)
    assert cone_qp(gram[:0], b[:0]).shape == (0, 4)
    assert torch.equal(cone_qp(gram[0], torch.zeros(4)), torch.zeros(4, dtype=torch.float64))
    zero = torch.zeros(2, 2)
    assert cone_qp(zero, torch.tensor([0.0, 1.0])).tolist() == [0, 0]
    one = torch.diag(torch.tensor([0.0, 2.0], dtype=torch.float64))
    assert cone_qp(one, torch.tensor([1.0, -1.0])).tolist() == [0, 0.5]


def test_torch() -> None:
    gram, b = random_problem(4, 7, 3, 3)
    torch.library.opcheck(torch.ops.pcl.cone_qp.default, (gram, b))
    torch.library.opcheck(torch.ops.pcl.cone_qp.default, (gram[0].float(), b[0]))
    compiled = torch.compile(lambda g, c: cone_qp(g, c) * 2, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(gram, b), cone_qp(gram, b) * 2)
    for g, c in ((gram, b), (gram[0], b[0]), (gram, b[0])):
        inputs = g.clone().requires_grad_(), c.clone().requires_grad_()
        torch.autograd.gradcheck(lambda g, c: cone_qp((g + g.mT) / 2, c), inputs, eps=1e-7, atol=1e-5)


EYE = torch.eye(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("gram", "b", "error", "words"),
    [
        (EYE, torch.ones(2), ValueError, r"b: expected shape \(3,\).*got \(2,\)"),
        (EYE, torch.ones(3, dtype=torch.int32), TypeError, "b: expected a floating dtype"),
        (EYE, [1.0], TypeError, "b: expected a Tensor, got list"),
        (EYE[:2], torch.ones(3), ValueError, r"gram: expected shape \(k, k\)"),
        (EYE.half(), torch.ones(3), TypeError, "gram: expected float32 or float64"),
        (EYE * torch.nan, torch.ones(3), ValueError, "expected finite numbers"),
        (EYE, torch.full((3,), torch.inf), ValueError, "expected finite numbers"),
        (-EYE, torch.ones(3), ValueError, "negative number"),
        (EYE * 0, -torch.ones(3), ValueError, "b: expected a bounded problem"),
        (
            torch.ones(2, 2) * torch.tensor([[1.0, -1], [-1, 1]]),
            -torch.ones(2),
            ValueError,
            "falls without end",
        ),
    ],
)
def test_refusals(gram: Tensor, b: Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        cone_qp(gram, b)
