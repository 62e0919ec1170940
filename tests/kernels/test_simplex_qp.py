"""simplex_qp against exact arithmetic, closed forms, Lemma 1 and its plain twin."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pcl_kernels import Status, simplex_qp
from pcl_kernels.simplex_qp.reference import simplex_qp as reference
from tests.kernels.hard_gramians import (
    Problem,
    best_single,
    cancellation,
    exact_minimum,
    exact_objective,
    excess,
    hard_set,
    kkt_residual,
    rounding_excess,
)


def random_problem(k: int, m: int, seed: int, *batch: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    j = torch.randn(*batch, k, m, generator=g, dtype=torch.float64)
    return j @ j.mT, torch.rand(*batch, k, generator=g, dtype=torch.float64) + 0.01


def objective(gram: Tensor, lam: Tensor) -> Tensor:
    return (lam * (gram @ lam.unsqueeze(-1)).squeeze(-1)).sum(-1)


def gap_rounding(gram: Tensor, sigma: Tensor, lam: Tensor) -> Tensor:
    """The rounding of (Gλ)_i/σ_i, from the size of its terms: no gap can be seen to be smaller."""
    return 1e-14 * ((gram.abs() @ lam.unsqueeze(-1)).squeeze(-1) / sigma).amax(-1)


def check_exact(problem: Problem) -> str:
    """'' where λ is the exact minimiser to 1e-15 in objective and 1e-12 in the optimality conditions."""
    lam, info = simplex_qp(problem.gram(), problem.sigma_tensor(), return_info=True)
    assert (lam >= 0).all()
    above = excess(problem, lam)
    residual = kkt_residual(problem, lam)
    if above <= 1e-15 and residual <= 1e-12 and info.status == Status.SOLVED:
        return ""
    if above <= 2 * rounding_excess(problem):  # nor can any float64 λ do better than that
        return ""
    return f"{problem.family} k={problem.k}: {above:.1e} too high, residual {residual:.1e}, {info.status}"


@pytest.mark.no_cover  # takes long, and goes no way that others do not
def test_hard_set_is_solved_exactly() -> None:
    failures = [line for line in map(check_exact, hard_set(2400)) if line]
    assert not failures, "\n".join(failures)


def test_hard_set_on_every_instruction_set(isa: str) -> None:
    failures = [line for line in map(check_exact, hard_set(380, seed=5, k_max=16)) if line]
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_hard_set_from_other_seeds() -> None:
    failures = [line for seed in range(10, 20) for line in map(check_exact, hard_set(2400, seed)) if line]
    assert not failures, "\n".join(failures)


@pytest.mark.no_cover  # takes long, and goes no way that others do not
def test_float32_gramians() -> None:
    """1e-6 in objective, 1e-3 in the optimality conditions; more where cancellation amplifies lost digits."""
    for problem in hard_set(1200, seed=2, k_max=40):
        if max(map(abs, problem.exponents)) > 20:
            continue  # beyond the range of float32
        lam = simplex_qp(problem.gram().float(), problem.sigma_tensor())
        assert lam.dtype == torch.float64
        least = exact_minimum(problem)
        rounding = cancellation(problem, least.lam)
        assert excess(problem, lam, least) <= 1e-6 * rounding**2, problem
        assert kkt_residual(problem, lam) <= 1e-3 * rounding, problem


@pytest.mark.slow
def test_a_million_random_problems() -> None:
    for seed in range(1000):
        k = 2 + seed % 12
        gram, sigma = random_problem(k, max(1, (seed * 7) % (2 * k)), seed, 1000)
        lam, info = simplex_qp(gram, sigma, return_info=True)
        assert (info.status == Status.SOLVED).all()
        assert (lam >= 0).all()
        assert ((lam * sigma).sum(-1) - 1).abs().max() <= 1e-15
        length = (lam * gram.diagonal(dim1=-2, dim2=-1).sqrt()).sum(-1)
        vanishes = objective(gram, lam) <= 1e-14 * length**2  # as far as the rounding of the Gramian can tell
        assert ((info.gap <= gap_rounding(gram, sigma, lam)) | vanishes).all()


# --- the source's own formulas --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(50))
def test_two_tasks_closed_form(seed: int) -> None:
    """EMGD, Eq. 20-23, the three cases written out from the multipliers."""
    gram, sigma = random_problem(2, 2, seed)
    (g11, g12), (_, g22) = gram.tolist()
    s1, s2 = sigma.tolist()
    if g12 * s1 >= g11 * s2:
        expected = [1 / s1, 0.0]
    elif g12 * s2 >= g22 * s1:
        expected = [0.0, 1 / s2]
    else:
        a, b = s1 * g22 - s2 * g12, s2 * g11 - s1 * g12
        expected = [a / (a * s1 + b * s2), b / (a * s1 + b * s2)]
    torch.testing.assert_close(
        simplex_qp(gram, sigma), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("k", [2, 3, 5, 8, 20, 40, 64, 80])
def test_lemma_1(k: int) -> None:
    """g_iᵀd >= σ_i‖d‖² for every task, d = Σ λ_i g_i."""
    for m in (1, max(1, k // 2), k, 3 * k):
        gram, sigma = random_problem(k, m, k * m, 30)
        lam = simplex_qp(gram, sigma)
        inner = (gram @ lam.unsqueeze(-1)).squeeze(-1)
        scale = (gram.diagonal(dim1=-2, dim2=-1) / sigma).amax(-1, keepdim=True)
        assert (inner - sigma * objective(gram, lam).unsqueeze(-1) >= -1e-9 * scale).all()


@pytest.mark.parametrize("k", [1, 2, 3, 7, 16])
def test_matches_reference(k: int, isa: str) -> None:
    for m in (max(1, k - 1), k + 2):
        gram, sigma = random_problem(k, m, 100 + k, 20)
        lam, twin = simplex_qp(gram, sigma), reference(gram, sigma)
        best = (gram.diagonal(dim1=-2, dim2=-1) / sigma**2).amin(-1)
        assert ((objective(gram, lam) - objective(gram, twin)).abs() <= 1e-10 * best).all()
        if m > k:
            torch.testing.assert_close(lam, twin, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("k", [2, 3, 7, 16])
def test_lower_bounds_match_reference(k: int) -> None:
    gram, sigma = random_problem(k, k + 2, 200 + k, 20)
    lower = torch.rand(20, k, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    lower = 0.5 * lower / (lower * sigma).sum(-1, keepdim=True)
    lam, info = simplex_qp(gram, sigma, lower=lower, return_info=True)
    assert (lam >= lower).all()
    assert (info.gap <= 1e-12 * objective(gram, lam)).all()
    torch.testing.assert_close(lam, reference(gram, sigma, lower=lower), rtol=1e-6, atol=1e-8)
    shared = simplex_qp(gram, sigma[0], lower=lower[0] / 4)
    torch.testing.assert_close(shared, reference(gram, sigma[0], lower=lower[0] / 4), rtol=1e-6, atol=1e-8)


# --- properties -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(k=st.integers(1, 12), m=st.integers(1, 14), seed=st.integers(0, 10**6), power=st.integers(-60, 60))
def test_scaling_all_gradients_changes_nothing(k: int, m: int, seed: int, power: int) -> None:
    gram, sigma = random_problem(k, m, seed)
    assert torch.equal(simplex_qp(gram, sigma), simplex_qp(gram * 4.0**power, sigma))


@settings(max_examples=60, deadline=None)
@given(k=st.integers(2, 12), seed=st.integers(0, 10**6))
def test_permutation_of_tasks(k: int, seed: int) -> None:
    gram, sigma = random_problem(k, k + 1, seed)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    permuted = simplex_qp(gram[order][:, order], sigma[order])
    torch.testing.assert_close(permuted, simplex_qp(gram, sigma)[order], rtol=1e-9, atol=1e-11)


@settings(max_examples=60, deadline=None)
@given(k=st.integers(1, 20), m=st.integers(1, 24), seed=st.integers(0, 10**6))
def test_certificate(k: int, m: int, seed: int) -> None:
    gram, sigma = random_problem(k, m, seed)
    lam, info = simplex_qp(gram, sigma, return_info=True)
    assert torch.equal(lam, simplex_qp(gram, sigma))
    assert (lam >= 0).all()
    assert torch.equal(info.active, lam > 0)
    assert info.status == Status.SOLVED
    inner = gram @ lam
    expected = 2 * (objective(gram, lam) - (inner / sigma).min())
    assert abs(info.gap - expected.clamp_min(0)) <= gap_rounding(gram, sigma, lam)
    assert info.gap <= gap_rounding(gram, sigma, lam)


def test_gap_bounds_the_distance_to_the_optimum() -> None:
    for problem in hard_set(300, seed=7, k_max=8):
        lam, info = simplex_qp(problem.gram(), problem.sigma_tensor(), return_info=True)
        above = float(exact_objective(problem, lam) - exact_minimum(problem).value)
        assert above <= float(info.gap) + 1e-15 * float(best_single(problem))


def test_equal_and_zero_gradients_are_decided_the_same_way_every_time() -> None:
    ones = torch.ones(4, 4, dtype=torch.float64)
    assert simplex_qp(ones).tolist() == [1, 0, 0, 0]
    gram = torch.diag(torch.tensor([1.0, 0, 3, 0], dtype=torch.float64))
    sigma = torch.tensor([0.5, 0.25, 1, 2], dtype=torch.float64)
    lam, info = simplex_qp(gram, sigma, return_info=True)
    assert lam.tolist() == [0, 2, 0, 0.25]
    assert info.gap == 0
    assert simplex_qp(torch.zeros(2, 2)).tolist() == [0.5, 0.5]


def test_batch_equals_single_problems_bit_for_bit() -> None:
    gram, sigma = random_problem(9, 7, 3, 500)
    together = simplex_qp(gram, sigma)
    assert torch.equal(together, torch.stack([simplex_qp(g, s) for g, s in zip(gram, sigma, strict=True)]))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(together, simplex_qp(gram, sigma))
    finally:
        torch.set_num_threads(before)


def test_shapes_and_layouts() -> None:
    gram, sigma = random_problem(5, 8, 4, 6)
    lam = simplex_qp(gram, sigma)
    assert simplex_qp(gram[:0]).shape == (0, 5)
    assert simplex_qp(gram[:0], sigma[:0], return_info=True)[1].gap.shape == (0,)
    assert simplex_qp(gram[:1, :1, :1], sigma[:1, :1]).tolist() == [[1 / sigma[0, 0].item()]]
    wide = torch.zeros(6, 10, 10, dtype=torch.float64)
    wide[:, ::2, ::2] = gram
    assert torch.equal(simplex_qp(wide[:, ::2, ::2], sigma), lam)
    assert torch.equal(simplex_qp(gram.mT, sigma), lam)
    assert torch.equal(simplex_qp(gram, sigma.float()), simplex_qp(gram, sigma.float().double()))
    shared = simplex_qp(gram, sigma[0])
    assert torch.equal(shared[3], simplex_qp(gram[3], sigma[0]))
    square, s = random_problem(5, 8, 4, 5)  # as many problems as tasks
    assert torch.equal(simplex_qp(square, s)[2], simplex_qp(square[2], s[2]))


# --- torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_sigma", [True, False])
def test_opcheck(shape: tuple[int, ...], dtype: torch.dtype, with_sigma: bool) -> None:
    j = torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    sigma = torch.rand(shape[:-1], dtype=torch.float64) + 0.1 if with_sigma else None
    torch.library.opcheck(torch.ops.pcl.simplex_qp.default, (j @ j.mT, sigma))


def test_compile_traces_through() -> None:
    gram, sigma = random_problem(4, 5, 8, 3)
    step = torch.compile(lambda g, s: simplex_qp(2 * g, s) + 1, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(gram, sigma), simplex_qp(2 * gram, sigma) + 1)
    gram.requires_grad_()
    (got,) = torch.autograd.grad(step(gram, sigma).square().sum(), gram)
    (expected,) = torch.autograd.grad((simplex_qp(2 * gram, sigma) + 1).square().sum(), gram)
    torch.testing.assert_close(got, expected)


def test_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        lam, info = simplex_qp(torch.empty(3, 5, 5), return_info=True)
        assert (lam.shape, lam.dtype, info.active.shape) == ((3, 5), torch.float64, (3, 5))


@pytest.mark.parametrize("k", [1, 2, 3, 6])
@pytest.mark.parametrize("with_lower", [False, True])
def test_gradcheck(k: int, with_lower: bool) -> None:
    gram, sigma = random_problem(k, k + 3, 30 + k, 4)
    lower = torch.full((k,), 0.1 / k, dtype=torch.float64) if with_lower else None

    def weights(g: Tensor, s: Tensor) -> Tensor:
        return simplex_qp((g + g.mT) / 2, s, lower=lower)

    for g, s in ((gram, sigma), (gram[0], sigma[0]), (gram, sigma[0])):
        inputs = g.clone().requires_grad_(), s.clone().requires_grad_()
        torch.autograd.gradcheck(weights, inputs, eps=1e-7, atol=1e-5)


def test_gradient_is_finite_for_dependent_gradients() -> None:
    row = torch.randn(1, 6, dtype=torch.float64)
    j = torch.cat([row, -row, row, torch.randn(3, 6, dtype=torch.float64)]).requires_grad_()
    simplex_qp(j @ j.mT)[0].backward()
    assert j.grad is not None
    assert j.grad.isfinite().all()


def test_gradient_at_a_kink_is_that_of_the_active_set() -> None:
    """g_1·d = ‖d‖² with λ_1 = 0: on the side where the second task stays out nothing moves λ."""
    gram = torch.tensor([[1.0, 1.0], [1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    lam = simplex_qp(gram)
    assert lam.tolist() == [1, 0]
    (grad,) = torch.autograd.grad(lam[1] - 3 * lam[0], gram)
    assert torch.equal(grad, torch.zeros_like(grad))


def test_gradient_for_zero_gradients_that_share_the_weight() -> None:
    """λ_i = 1/(n σ_i) whatever the Gramian is; along σ that is the derivative, projected on the constraint."""
    gram = torch.diag(torch.tensor([0.0, 3.0, 0.0], dtype=torch.float64)).requires_grad_()
    sigma = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    lam = simplex_qp(gram, sigma)
    d_gram, d_sigma = torch.autograd.grad((lam * sigma.detach()).sum(), (gram, sigma))
    assert d_gram.abs().max() <= 1e-15
    torch.testing.assert_close(d_sigma, -lam.detach(), rtol=1e-14, atol=0)  # σᵀλ = 1 stays so


# --- refusals -------------------------------------------------------------------------------------

EYE = torch.eye(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("gram", "sigma", "error", "words"),
    [
        (torch.zeros(3, 4), None, ValueError, r"gram: expected shape \(k, k\).*got \(3, 4\)"),
        (torch.zeros(0, 0), None, ValueError, r"k >= 1"),
        (torch.zeros(2, 2, 2, 2), None, ValueError, r"got \(2, 2, 2, 2\)"),
        (EYE.half(), None, TypeError, r"gram: expected float32 or float64, got torch.float16"),
        ([[1.0]], None, TypeError, r"gram: expected a Tensor, got list"),
        (EYE, torch.ones(2), ValueError, r"sigma: expected shape \(3,\).*got \(2,\)"),
        (EYE, [1.0, 1.0, 1.0], TypeError, r"sigma: expected a Tensor, got list"),
        (EYE, torch.ones(3, dtype=torch.int64), TypeError, r"sigma: expected a floating dtype"),
        (EYE, torch.tensor([1.0, 0.0, 1.0]), ValueError, r"sigma: expected positive.*between 0 and 1"),
        (EYE, torch.tensor([1.0, -1.0, 1.0]), ValueError, r"sigma: expected positive"),
        (EYE, torch.tensor([1.0, float("nan"), 1.0]), ValueError, r"sigma: expected positive"),
        (EYE * float("nan"), None, ValueError, r"gram: expected finite numbers"),
        (EYE / 0, None, ValueError, r"gram: expected finite numbers"),
        (-EYE, None, ValueError, r"gram: expected a Gramian.*a negative number"),
        (EYE, torch.ones(3, device="meta"), ValueError, r"sigma: expected device cpu"),
    ],
)
def test_refusals(gram: Tensor, sigma: Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        simplex_qp(gram, sigma)
    with pytest.raises(error, match=words):
        simplex_qp(gram, sigma, return_info=True)


def test_refusal_names_the_problem_of_the_batch() -> None:
    gram = EYE.repeat(4000, 1, 1)
    gram[1234, 0, 1] = torch.nan
    gram[3999, 0, 1] = torch.inf
    with pytest.raises(ValueError, match=r"gram\[1234\]"):
        simplex_qp(gram)


def test_lower_bounds_that_leave_nothing() -> None:
    with pytest.raises(ValueError, match=r"lower: expected Σ lower·sigma < 1, got 1.5"):
        simplex_qp(EYE, lower=torch.full((3,), 0.5))


def test_an_indefinite_matrix_ends_and_is_reported() -> None:
    gram = torch.tensor([[1.0, -2.0], [-2.0, 1.0]], dtype=torch.float64)
    gram = torch.block_diag(gram, gram)
    lam, info = simplex_qp(gram, return_info=True)
    assert abs(lam.sum() - 1) < 1e-15
    assert info.gap > 0.1 or info.status == Status.INEXACT
