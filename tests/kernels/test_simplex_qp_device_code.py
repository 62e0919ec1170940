"""The GPU solver's source, built for the processor: its logic is tested where there is no GPU.

As a warp of one lane it solves the hard set; as a warp of threads under a thread sanitizer it shows that no
lane reads what another has yet to write.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcl_kernels import Status, simplex_qp
from pcl_kernels.simplex_qp.op import QPInfo
from tests.kernels.hard_gramians import Problem, excess, hard_set, kkt_residual, rounding_excess

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
CXX = shutil.which("g++") or shutil.which("c++")

pytestmark = pytest.mark.skipif(CXX is None or not CSRC.is_dir(), reason="needs a C++ compiler and csrc/")

Solve = Callable[..., tuple[Tensor, QPInfo]]


def build(out: Path, *flags: str) -> Path:
    assert CXX is not None
    source = HERE / "simplex_qp_on_host.cpp"
    warnings = ["-Wall", "-Wextra"]
    command = [CXX, "-std=c++17", *warnings, f"-I{CSRC}", f"-I{HERE}", *flags, str(source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


# nvcc contracts a*b + c, so the solver must be as exact with contraction as without.
CONTRACTION = {"plain": ["-ffp-contract=off"], "fma": ["-ffp-contract=fast", "-mfma"]}


@pytest.fixture(scope="module", params=CONTRACTION.values(), ids=CONTRACTION.keys())
def solve(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Solve:
    if "-mfma" in request.param and " fma " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("needs a processor with FMA")
    path = build(tmp_path_factory.mktemp("solver") / "solver.so", "-O2", "-shared", "-fPIC", *request.param)
    library = ctypes.CDLL(str(path))

    def run(gram: Tensor, sigma: Tensor | None = None) -> tuple[Tensor, QPInfo]:
        gram = gram.contiguous()
        k, batch = gram.shape[-1], gram.shape[:-2]
        lam = torch.full(gram.shape[:-1], float("nan"), dtype=torch.float64)
        info = QPInfo(
            torch.zeros(batch, dtype=torch.float64),
            torch.zeros(gram.shape[:-1], dtype=torch.bool),
            torch.full(batch, -1, dtype=torch.int32),
            torch.full(batch, -1, dtype=torch.int32),
        )
        stride = k if sigma is not None and sigma.dim() == lam.dim() and batch else 0
        at = [ctypes.c_void_p(0 if t is None else t.data_ptr()) for t in (gram, sigma, lam, *info)]
        library.simplex_qp_on_host(
            at[0], ctypes.c_int(gram.dtype == torch.float32), at[1], ctypes.c_long(stride), *at[2:],
            ctypes.c_long(lam[..., 0].numel()), ctypes.c_int(k),
        )  # fmt: skip
        return lam, info

    return run


def failure(problem: Problem, solve: Solve) -> str:
    """'' where λ is the exact minimiser to 1e-15 in objective and 1e-12 in the optimality conditions."""
    lam, info = solve(problem.gram(), problem.sigma_tensor())
    above, residual = excess(problem, lam), kkt_residual(problem, lam)
    if above <= 1e-15 and residual <= 1e-12 and info.status == Status.SOLVED:
        return ""
    if above <= 2 * rounding_excess(problem):  # nor can any float64 λ do better than that
        return ""
    return f"{problem.family} k={problem.k}: {above:.1e} above the minimum, residual {residual:.1e}"


def test_hard_set_is_solved_exactly(solve: Solve) -> None:
    failures = [line for p in hard_set(1200, seed=3) if (line := failure(p, solve))]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 20, 64, 66])
def test_batch_agrees_with_the_cpu_solver(solve: Solve, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    j = torch.randn(12, k, k + 3, generator=generator, dtype=torch.float64)
    gram, sigma = j @ j.mT, torch.rand(12, k, generator=generator, dtype=torch.float64) + 0.1
    for s in (None, sigma[0], sigma):
        lam, info = solve(gram, s)
        expected, cpu = simplex_qp(gram, s, return_info=True)
        assert ((lam - expected).abs() <= 1e-11 * expected.abs().amax(-1, keepdim=True)).all()
        assert torch.equal(info.active, lam > 0)
        assert (info.status == Status.SOLVED).all()
        objective = (lam * (gram @ lam.unsqueeze(-1)).squeeze(-1)).sum(-1)
        assert (info.gap >= 0).all()
        assert ((info.gap - cpu.gap).abs() <= 1e-12 * objective).all()


def test_never_a_negative_weight(solve: Solve) -> None:
    """Dependent gradients, whose hull holds zero: many minimisers, and rounding decides among them."""
    generator = torch.Generator().manual_seed(0)
    for k in (10, 20):
        j = torch.randn(400, k, k // 2 + 2, generator=generator, dtype=torch.float64)
        sigma = torch.rand(400, k, generator=generator, dtype=torch.float64) + 0.1
        lam, _ = solve(j @ j.mT, sigma)
        assert (lam >= 0).all()
        assert ((lam * sigma).sum(-1) - 1).abs().max() < 1e-14


def test_float32_gramian(solve: Solve) -> None:
    j = torch.randn(50, 8, 5, generator=torch.Generator().manual_seed(1))
    gram = j @ j.mT
    lam, info = solve(gram)
    objective = (lam * (gram.double() @ lam.unsqueeze(-1)).squeeze(-1)).sum(-1)
    best_single = gram.diagonal(dim1=-2, dim2=-1).amin(-1).double()
    assert (objective - simplex_minimum(j.double()) <= 1e-6 * best_single).all()
    assert (info.status == Status.SOLVED).all()


def simplex_minimum(j: Tensor) -> Tensor:
    gram = j @ j.mT
    lam = simplex_qp(gram)
    return (lam * (gram @ lam.unsqueeze(-1)).squeeze(-1)).sum(-1)


def test_bad_problems_are_nan_rows_among_good_ones(solve: Solve) -> None:
    good = torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 3.0]], dtype=torch.float64)
    gram = good.repeat(6, 1, 1)
    gram[1, 0, 2] = float("nan")
    gram[2, 2, 2] = float("inf")
    gram[3, 1, 1] = -1.0
    sigma = torch.ones(6, 3, dtype=torch.float64)
    sigma[4, 1] = 0.0
    lam, info = solve(gram, sigma)
    bad = torch.tensor([False, True, True, True, True, False])
    assert torch.equal(lam.isnan().all(-1), bad)
    assert torch.equal(info.status == Status.NOT_FINITE, bad)
    assert torch.equal(lam[0], lam[5])
    assert (info.status[~bad] == Status.SOLVED).all()


def test_zero_gradients_share_the_weight(solve: Solve) -> None:
    gram = torch.diag(torch.tensor([1.0, 0.0, 4.0, 0.0], dtype=torch.float64))
    sigma = torch.tensor([1.0, 0.5, 1.0, 0.25], dtype=torch.float64)
    lam, info = solve(gram, sigma)
    assert torch.equal(lam, torch.tensor([0.0, 1.0, 0.0, 2.0], dtype=torch.float64))
    assert info.gap == 0


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
