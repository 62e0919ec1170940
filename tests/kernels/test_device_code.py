"""The GPU's solvers, built for the processor and, where there is one, on a GPU; tests/kernels/solvers.py has more.

As a warp of one lane they solve the hard set; as a warp of threads under a thread sanitizer they show that no
lane reads what another has yet to write. The grids of the other files run them too.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pcl_kernels import Status, simplex_qp
from tests.kernels.hard_gramians import Problem, excess, hard_set, kkt_residual, rounding_excess
from tests.kernels.solvers import build, needs_compiler, solver_params, solvers_named


@pytest.fixture(params=solver_params("device", "device-fma", "cuda"))
def device(request: pytest.FixtureRequest, device_code: Callable[[str], Path]) -> Iterator[SimpleNamespace]:
    with solvers_named(request.param, device_code) as ops:
        yield ops


def failure(problem: Problem, device: SimpleNamespace) -> str:
    """'' where λ is the exact minimiser to 1e-15 in objective and 1e-12 in the optimality conditions."""
    lam, info = device.simplex_qp(problem.gram(), problem.sigma_tensor(), return_info=True)
    above, residual = excess(problem, lam), kkt_residual(problem, lam)
    if above <= 1e-15 and residual <= 1e-12 and info.status == Status.SOLVED:
        return ""
    if above <= 2 * rounding_excess(problem):  # nor can any float64 λ do better than that
        return ""
    return f"{problem.family} k={problem.k}: {above:.1e} above the minimum, residual {residual:.1e}"


@pytest.mark.no_cover  # takes long, and goes no way that others do not
def test_hard_set_is_solved_exactly(device: SimpleNamespace) -> None:
    failures = [line for p in hard_set(1200, seed=3) if (line := failure(p, device))]
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_whole_hard_set_is_solved_exactly(device: SimpleNamespace) -> None:
    failures = [line for p in hard_set(2400) if (line := failure(p, device))]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 20, 64, 66])
def test_batch_agrees_with_the_cpu_solver(device: SimpleNamespace, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    j = torch.randn(12, k, k + 3, generator=generator, dtype=torch.float64)
    gram, sigma = j @ j.mT, torch.rand(12, k, generator=generator, dtype=torch.float64) + 0.1
    for s in (None, sigma[0], sigma):
        lam, info = device.simplex_qp(gram, s, return_info=True)
        expected, cpu = simplex_qp(gram, s, return_info=True)
        assert ((lam - expected).abs() <= 1e-11 * expected.abs().amax(-1, keepdim=True)).all()
        assert torch.equal(info.active, lam > 0)
        assert (info.status == Status.SOLVED).all()
        objective = (lam * (gram @ lam.unsqueeze(-1)).squeeze(-1)).sum(-1)
        assert (info.gap >= 0).all()
        assert ((info.gap - cpu.gap).abs() <= 1e-12 * objective).all()


def test_never_a_negative_weight(device: SimpleNamespace) -> None:
    """Dependent gradients, whose hull holds zero: many minimisers, and rounding decides among them."""
    generator = torch.Generator().manual_seed(0)
    for k in (10, 20):
        j = torch.randn(400, k, k // 2 + 2, generator=generator, dtype=torch.float64)
        sigma = torch.rand(400, k, generator=generator, dtype=torch.float64) + 0.1
        lam = device.simplex_qp(j @ j.mT, sigma)
        assert (lam >= 0).all()
        assert ((lam * sigma).sum(-1) - 1).abs().max() < 1e-14


def test_an_order_that_names_no_task_gives_nan_and_leaves_the_targets(device: SimpleNamespace) -> None:
    """Also behind a gradient of which cancellation has left nothing, which meets nobody any more."""
    j = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    targets = torch.full((3, 3), 0.25, dtype=torch.float64)
    for wrong in (-1, 3):
        orders = torch.tensor([[1, 2, wrong], [0, 2, 1], [0, 1, 2]])
        assert device.pcgrad(j @ j.T, orders).isnan().all()
        weights, moved = device.gradvac(j @ j.T, orders, targets, 0.5)
        assert weights.isnan().all()
        assert torch.equal(moved, targets)


def test_float32_gramian(device: SimpleNamespace) -> None:
    j = torch.randn(50, 8, 5, generator=torch.Generator().manual_seed(1))
    gram = j @ j.mT
    lam, info = device.simplex_qp(gram, return_info=True)
    objective = (lam * (gram.double() @ lam.unsqueeze(-1)).squeeze(-1)).sum(-1)
    best_single = gram.diagonal(dim1=-2, dim2=-1).amin(-1).double()
    assert (objective - simplex_minimum(j.double()) <= 1e-6 * best_single).all()
    assert (info.status == Status.SOLVED).all()


def simplex_minimum(j: Tensor) -> Tensor:
    gram = j @ j.mT
    lam = simplex_qp(gram)
    return (lam * (gram @ lam.unsqueeze(-1)).squeeze(-1)).sum(-1)


def test_bad_problems_are_nan_rows_among_good_ones(device: SimpleNamespace) -> None:
    good = torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 3.0]], dtype=torch.float64)
    gram = good.repeat(6, 1, 1)
    gram[1, 0, 2] = float("nan")
    gram[2, 2, 2] = float("inf")
    gram[3, 1, 1] = -1.0
    vector = torch.ones(6, 3, dtype=torch.float64)
    vector[4, 1] = float("nan")
    calls = {
        "simplex_qp": lambda: device.simplex_qp(gram, vector, return_info=True),
        "cone_qp": lambda: device.cone_qp(gram, -vector, return_info=True),
        "cagrad_dual": lambda: device.cagrad_dual(gram, 0.5, vector, return_info=True),
        "maxdo": lambda: device.maxdo(gram, return_info=True),
        "nash_mtl": lambda: device.nash_mtl(gram, vector, alpha=2.0, return_info=True),
        "imtl_g": lambda: device.imtl_g(gram, return_info=True),
    }
    for op, call in calls.items():
        out, info = call()
        bad = torch.tensor([False, True, True, True, op not in ("maxdo", "imtl_g"), False])
        assert torch.equal(out.isnan().all(-1), bad), op
        assert torch.equal(info.status == Status.NOT_FINITE, bad), op
        assert torch.equal(out[0], out[5]), op
        assert (info.status[~bad] == Status.SOLVED).all(), op
        assert torch.equal(info[0].isnan(), bad), op  # the gap, or the residual


def test_problems_without_an_answer_are_nan_rows(device: SimpleNamespace) -> None:
    opposite = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    gram = torch.stack([torch.eye(2, dtype=torch.float64), opposite])
    minus = -torch.ones(2, dtype=torch.float64)
    for out, info in (
        device.cone_qp(gram, minus, return_info=True),
        device.nash_mtl(gram, return_info=True),
        device.imtl_g(gram, return_info=True),
    ):
        assert info.status.tolist() == [Status.SOLVED, Status.NO_SOLUTION]
        assert torch.equal(out.isnan().all(-1), torch.tensor([False, True]))


def test_zero_gradients_share_the_weight(device: SimpleNamespace) -> None:
    gram = torch.diag(torch.tensor([1.0, 0.0, 4.0, 0.0], dtype=torch.float64))
    sigma = torch.tensor([1.0, 0.5, 1.0, 0.25], dtype=torch.float64)
    lam, info = device.simplex_qp(gram, sigma, return_info=True)
    assert torch.equal(lam, torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=torch.float64))
    assert info.gap == 0


@needs_compiler
def test_lanes_do_not_race(tmp_path: Path) -> None:
    flags = ["-O1", "-g", "-ffp-contract=off", "-pthread", "-fsanitize=thread", "-DPCL_WARP_MAIN"]
    try:
        program = build(tmp_path / "lanes", *flags, '-DPCL_WARP="warp_of_threads.hpp"')
    except AssertionError as error:
        if "tsan" in str(error):
            pytest.skip("this compiler has no thread sanitizer")
        raise
    done = subprocess.run([program], capture_output=True, text=True, timeout=120)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the thread sanitizer does not run under this kernel's address layout")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-13
