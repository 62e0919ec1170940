"""cagrad_dual, nash_mtl and imtl_g: their defining equations, their twins, their refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pcl_kernels import cagrad_dual, imtl_g, nash_mtl
from pcl_kernels.cagrad_dual.reference import cagrad_dual as cagrad_reference
from pcl_kernels.imtl_g.reference import imtl_g as imtl_reference
from pcl_kernels.nash_mtl.reference import nash_mtl as nash_reference
from tests.kernels.hard_gramians import hard_set


def random_gram(k: int, m: int, seed: int, *batch: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    j = torch.randn(*batch, k, m, generator=g, dtype=torch.float64)
    return j @ j.mT


def cagrad_value(gram: Tensor, w: Tensor, c: float) -> Tensor:
    b = gram.mean(-1)
    r = c * b.mean(-1).clamp_min(0).sqrt()
    return (w * b).sum(-1) + r * (w * (gram @ w.unsqueeze(-1)).squeeze(-1)).sum(-1).clamp_min(0).sqrt()


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("c", [0.0, 0.1, 0.5, 0.9, 3.0])
def test_cagrad_matches_reference(k: int, c: float) -> None:
    for m in (max(1, k - 1), k + 2):
        gram = random_gram(k, m, 10 * k + m, 20)
        w = cagrad_dual(gram, c)
        assert (w >= 0).all()
        torch.testing.assert_close(w.sum(-1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-14)
        excess = cagrad_value(gram, w, c) - cagrad_value(gram, cagrad_reference(gram, c), c)
        scale = gram.diagonal(dim1=-2, dim2=-1).amax(-1)
        assert (excess <= (1e-13 if m > k else 1e-8) * scale).all()
        assert torch.equal(w[3], cagrad_dual(gram[3], c))


@pytest.mark.parametrize("k", [2, 10, 40, 70])
def test_cagrad_optimality(k: int) -> None:
    """b + r·Gw/√(wᵀGw) is least, and equal to the value, on the support."""
    gram, c = random_gram(k, 2 * k, k, 20), 0.5
    w = cagrad_dual(gram, c)
    gw = (gram @ w.unsqueeze(-1)).squeeze(-1)
    b = gram.mean(-1)
    r = c * b.mean(-1, keepdim=True).sqrt()
    slope = b + r * gw / (w * gw).sum(-1, keepdim=True).sqrt()
    off = (slope - cagrad_value(gram, w, c).unsqueeze(-1)) / gram.diagonal(dim1=-2, dim2=-1).amax(
        -1, keepdim=True
    )
    assert off.amin() >= -1e-12
    assert off[w > 0].abs().max() <= 1e-12


def test_cagrad_on_the_hard_set() -> None:
    for problem in hard_set(400, seed=21, k_max=6):
        gram = problem.gram()
        w = cagrad_dual(gram, 0.4)
        assert (w >= 0).all()
        assert abs(w.sum() - 1) <= 1e-14
        if max(problem.exponents) - min(problem.exponents) > 40:  # norms more than 1e12 apart
            least = cagrad_value(gram, torch.eye(len(gram), dtype=torch.float64), 0.4).min()
        else:
            least = cagrad_value(gram, cagrad_reference(gram, 0.4), 0.4)
        assert cagrad_value(gram, w, 0.4) <= least + 1e-10 * gram.diagonal().max(), problem


@pytest.mark.parametrize("k", [1, 2, 5, 20, 64, 70])
def test_nash_solves_its_equation(k: int) -> None:
    gram = random_gram(k, k + 10, k, 20)
    alpha, exists = nash_mtl(gram)
    assert exists.all()
    assert ((alpha * (gram @ alpha.unsqueeze(-1)).squeeze(-1) - 1).abs() <= 1e-12 * k).all()
    if k <= 5:
        torch.testing.assert_close(alpha, nash_reference(gram)[0], rtol=1e-7, atol=1e-9)
    scaled, _ = nash_mtl(gram * 1e30)
    torch.testing.assert_close(scaled * 1e15, alpha, rtol=1e-12, atol=0)


def test_nash_says_that_there_is_no_solution() -> None:
    row = torch.randn(1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for j in (
        torch.cat([row, -2 * row]),
        torch.cat([row, 0 * row]),
        torch.cat([row, row.flip(1), -row - row.flip(1)]),
    ):
        alpha, exists = nash_mtl(torch.stack([j @ j.T, torch.eye(len(j), dtype=torch.float64)]))
        assert exists.tolist() == [False, True]
        assert alpha[0].isnan().all()
        torch.testing.assert_close(alpha[1], torch.ones(len(j), dtype=torch.float64))


def test_nash_gradient() -> None:
    for gram in (random_gram(4, 8, 1, 3), random_gram(3, 5, 2)):
        torch.autograd.gradcheck(lambda g: nash_mtl((g + g.mT) / 2)[0], (gram.requires_grad_(),))


@pytest.mark.parametrize("k", [1, 2, 5, 20, 64])
def test_imtl_projects_equally(k: int) -> None:
    gram = random_gram(k, 2 * k + 3, k, 10)
    alpha = imtl_g(gram)
    torch.testing.assert_close(alpha.sum(-1), torch.ones(10, dtype=torch.float64))
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    projections = (gram @ alpha.unsqueeze(-1)).squeeze(-1) / norms
    assert ((projections - projections[:, :1]).abs() <= 1e-11 * norms.amax(-1, keepdim=True)).all()
    torch.testing.assert_close(alpha[0], imtl_reference(gram[0]), rtol=1e-8, atol=1e-10)
    wild = gram * 1e-40 if k == 1 else gram * torch.tensor([1e-20] + [1.0] * (k - 1), dtype=torch.float64)
    assert imtl_g((wild.mT * wild[0, 0, 0].new_tensor([1e-20] + [1.0] * (k - 1))).mT).isfinite().all()


def test_imtl_dependent_and_zero_gradients() -> None:
    ones = torch.ones(3, 3, dtype=torch.float64)
    torch.testing.assert_close(imtl_g(ones), torch.full((3,), 1 / 3, dtype=torch.float64))
    gram = torch.diag(torch.tensor([4.0, 0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(imtl_g(gram), torch.tensor([1 / 3, 0, 2 / 3], dtype=torch.float64))
    gram = random_gram(3, 6, 5, 2).requires_grad_()
    torch.autograd.gradcheck(lambda g: imtl_g((g + g.mT) / 2), (gram,))


@pytest.mark.parametrize("op", [cagrad_dual, nash_mtl, imtl_g])
def test_refusals(op: Callable[[Tensor], object]) -> None:
    eye = torch.eye(3)
    with pytest.raises(ValueError, match="gram: expected shape"):
        op(eye[:2])
    with pytest.raises(TypeError, match="gram: expected float32 or float64"):
        op(eye.half())
    with pytest.raises(TypeError, match="gram: expected a Tensor"):
        op([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected finite numbers"):
        op(eye / 0)
    if op is not imtl_g:
        with pytest.raises(ValueError, match=r"gram\[1\]: expected a Gramian"):
            op(torch.stack([eye, -eye]))
        assert op(eye[None][:0]) is not None


def test_cagrad_refuses_a_negative_radius() -> None:
    with pytest.raises(ValueError, match="c: expected a finite number >= 0, got -1"):
        cagrad_dual(torch.eye(2), -1)


def test_torch() -> None:
    gram = random_gram(4, 7, 3, 3)
    torch.library.opcheck(torch.ops.pcl.cagrad_dual.default, (gram, 0.5))
    torch.library.opcheck(torch.ops.pcl.nash_mtl.default, (gram,))
    for op in (lambda g: cagrad_dual(g, 0.5), lambda g: nash_mtl(g)[0], imtl_g):
        compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(gram), op(gram))
