"""What only a real device can show: no synchronisation, graph capture, the same bits, the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from pcl_kernels import Status, combine, gramian, simplex_qp
from pcl_kernels.gramian.reference import gramian as gramian_reference
from tests.kernels.gradient_cases import task_gradients
from tests.kernels.hard_gramians import excess, hard_set, kkt_residual, rounding_excess

pytestmark = pytest.mark.gpu

SHAPES = [(300, 17), (17,), (4096, 3), (5,)]


@pytest.fixture(autouse=True)
def device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def no_synchronisation() -> Iterator[Callable[[], None]]:
    """Call it after warming up: from there on a host wait raises."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def step(grads: list[list[Tensor]], sigma: Tensor) -> list[Tensor]:
    """A whole weighting step: Gramian, weights, combination."""
    sums = combine(grads, simplex_qp(gramian(grads), sigma))
    return [d for d in sums if d is not None]


@pytest.mark.parametrize("k", [2, 5, 20])
def test_a_weighting_step_never_waits(k: int, no_synchronisation: Callable[[], None]) -> None:
    grads = task_gradients(SHAPES, k, torch.float32, device="cuda")
    sigma = torch.rand(k, device="cuda", dtype=torch.float64) + 0.1
    expected = step(grads, sigma)
    no_synchronisation()
    got = step(grads, sigma)
    combine(grads, [1.0] * k)
    torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("k", [2, 5, 20])
def test_a_weighting_step_is_captured_in_a_graph(k: int) -> None:
    grads = task_gradients(SHAPES, k, torch.float32, device="cuda")
    sigma = torch.rand(k, device="cuda", dtype=torch.float64) + 0.1
    step(grads, sigma)  # compiles the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(grads, sigma)
    for seed in (7, 8):
        for row, new in zip(grads, task_gradients(SHAPES, k, torch.float32, seed=seed), strict=True):
            for g, n in zip(row, new, strict=True):
                g.copy_(n)
        # whatever pinned memory the capture left behind is overwritten by others
        torch.empty(1 << 20, pin_memory=True).fill_(float("nan"))
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, step(grads, sigma), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 16, 17, 33, 64, 70])
def test_gramian_accuracy(k: int, dtype: torch.dtype) -> None:
    grads = task_gradients([*SHAPES, (100_003,)], k, dtype, device="cuda")
    gram = gramian(grads)
    truth = gramian_reference(grads)
    norms = truth.diagonal().sqrt()
    assert ((gram - truth).abs() <= 1e-12 * norms[:, None] * norms).all()
    assert torch.equal(gram, gramian(grads))
    assert torch.equal(gram, gram.T)


def test_gramian_under_cancellation() -> None:
    """Two huge opposite halves hide a small inner product from float32 sums."""
    half = torch.randn(1_000_000, device="cuda") * 1e4
    rest = torch.randn(1000, device="cuda")
    g = torch.cat([half, half, rest])
    h = torch.cat([half, -half, rest])
    exact = (rest.double() ** 2).sum()
    error = (gramian([g, h])[0, 1] - exact).abs() / exact
    assert error < 1e-6


def test_simplex_qp_on_the_hard_set() -> None:
    failures = []
    for problem in hard_set(2400):
        lam, info = simplex_qp(problem.gram().cuda(), problem.sigma_tensor().cuda(), return_info=True)
        lam = lam.cpu()
        above = excess(problem, lam)
        exact = above <= 1e-15 and kkt_residual(problem, lam) <= 1e-12 and info.status.item() == Status.SOLVED
        if not exact and above > 2 * rounding_excess(problem):
            failures.append(f"{problem.family} k={problem.k}: {above:.1e} above the minimum")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("k", [1, 2, 3, 8, 20, 33, 64, 100])
def test_simplex_qp_batches(k: int) -> None:
    j = torch.randn(5000, k, k + 3, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
    gram, sigma = j @ j.mT, torch.rand(k, dtype=torch.float64) + 0.1
    lam, info = simplex_qp(gram.cuda(), sigma.cuda(), return_info=True)
    expected = simplex_qp(gram, sigma)
    assert ((lam.cpu() - expected).abs() <= 1e-10 * expected.abs().amax(-1, keepdim=True)).all()
    assert (info.status == Status.SOLVED).all()


def test_bad_problems_are_nan_rows(no_synchronisation: Callable[[], None]) -> None:
    gram = torch.eye(3, device="cuda", dtype=torch.float64).repeat(3, 1, 1)
    gram[1, 0, 0] = float("nan")
    no_synchronisation()
    lam, info = simplex_qp(gram, return_info=True)
    torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(lam.isnan().all(-1).cpu(), torch.tensor([False, True, False]))
    assert info.status.tolist() == [Status.SOLVED, Status.NOT_FINITE, Status.SOLVED]
