"""simplex_qp beside the solvers that people use today: `python -m bench.simplex_qp`.

Every peer solves the same problems in the same run, from arrays already converted for it. The time of ours is
the whole Python call from tensors to tensors. Peers that are not installed are left out, with a word; `pip install
qpth qpax` brings the two batched ones that the bench extra leaves out for their size.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.common import machine, medians, table, threads
from pcl_kernels import simplex_qp
from tests.kernels.hard_gramians import excess, hard_set

SIZES = (2, 5, 10, 20, 40)
BATCH = 1024
Solver = Callable[[Tensor], Callable[[], Any]]  # Gramians (B, k, k) -> the call to time


def gramians(k: int, batch: int) -> Tensor:
    j = torch.randn(batch, k, 2 * k, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    return j @ j.mT


def ours(gram: Tensor) -> Callable[[], Any]:
    one = gram[0].clone() if len(gram) == 1 else gram
    return lambda: simplex_qp(one)


def quadprog_peer(gram: Tensor) -> Callable[[], Any]:
    quadprog = importlib.import_module("quadprog")
    k = gram.shape[-1]
    constraints = np.concatenate([np.ones((k, 1)), np.eye(k)], 1)
    bounds, linear = np.concatenate([[1.0], np.zeros(k)]), np.zeros(k)
    matrices = [g.numpy().copy() for g in gram]
    return lambda: [quadprog.solve_qp(g, linear, constraints, bounds, 1)[0] for g in matrices]


def torchjd_peer(gram: Tensor) -> Callable[[], Any]:
    weighting = importlib.import_module("torchjd.aggregation").MGDAWeighting()
    return lambda: [weighting(g) for g in gram]


def proxqp_peer(gram: Tensor) -> Callable[[], Any]:
    proxsuite = importlib.import_module("proxsuite")
    k = gram.shape[-1]
    solvers = []
    for g in gram:
        qp = proxsuite.proxqp.dense.QP(k, 1, k)
        qp.init(2 * g.numpy(), np.zeros(k), np.ones((1, k)), np.ones(1), np.eye(k), np.zeros(k), np.full(k, 1e20))
        solvers.append(qp)

    def run() -> list[Any]:
        for qp in solvers:
            qp.solve()
        return [qp.results.x for qp in solvers]

    return run


def qpth_peer(gram: Tensor) -> Callable[[], Any]:
    qp = importlib.import_module("qpth.qp").QPFunction(verbose=-1, check_Q_spd=False)
    n, k, _ = gram.shape
    eye = torch.eye(k, dtype=torch.float64)
    zeros, ones = torch.zeros(n, k, dtype=torch.float64), torch.ones(n, 1, k, dtype=torch.float64)
    args = 2 * gram, zeros, -eye.expand(n, k, k), zeros, ones, ones[..., 0]
    return lambda: qp(*args)


def qpax_peer(gram: Tensor) -> Callable[[], Any]:
    # read when jax starts: as many threads as the others have
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    jax, qpax = importlib.import_module("jax"), importlib.import_module("qpax")
    jax.config.update("jax_enable_x64", True)
    k = gram.shape[-1]
    rest = np.zeros(k), np.ones((1, k)), np.ones(1), -np.eye(k), np.zeros(k)
    solve = jax.jit(jax.vmap(lambda matrix: qpax.solve_qp_primal(matrix, *rest)))
    matrices = jax.numpy.asarray(2 * gram.numpy())
    return lambda: solve(matrices).block_until_ready()


SINGLE_PEERS: dict[str, Solver] = {"quadprog": quadprog_peer, "torchjd": torchjd_peer}
BATCH_PEERS: dict[str, Solver] = {
    "quadprog loop": quadprog_peer,
    "ProxQP loop": proxqp_peer,
    "qpth": qpth_peer,
    "qpax": qpax_peer,
}


def works(name: str, peer: Solver) -> bool:
    try:
        peer(gramians(2, 1))()
    except ImportError as error:
        print(f"{name}: left out, {error}")
        return False
    return True


def installed(peers: dict[str, Solver]) -> dict[str, Solver]:
    return {name: peer for name, peer in peers.items() if works(name, peer)}


def compare(title: str, batch: int, peers: dict[str, Solver], rounds: int) -> None:
    available = installed(peers)
    rows = []
    for k in SIZES:
        gram = gramians(k, batch)
        runs = {"ours": ours(gram), **{name: peer(gram) for name, peer in available.items()}}
        time = {name: t / batch * 1e6 for name, t in medians(runs, rounds=rounds).items()}
        rows.append([k, *time.values(), *(time[name] / time["ours"] for name in available)])
    table(title, ["k", "ours", *available, *(f"{n} ÷ ours" for n in available)], rows)


def threads_gain() -> None:
    rows = []
    for k in SIZES:
        gram = gramians(k, BATCH)
        time = {}
        for n in (1, 2):
            with threads(n):
                time[n] = medians({"ours": ours(gram)})["ours"] / BATCH * 1e6
        rows.append([k, time[1], time[2], time[1] / time[2]])
    table(f"simplex_qp, batch {BATCH}, µs per problem", ["k", "1 thread", "2 threads", "gain"], rows)


def accuracy(count: int = 600) -> None:
    """Share of the hard set solved to 1e-15 of the best single task; σ = 1, as most peers know no other."""
    problems = [p for p in hard_set(count, k_max=16) if set(p.sigma) == {1.0}]
    solvers: dict[str, Solver] = {"ours": ours, **installed({**SINGLE_PEERS, "ProxQP": proxqp_peer})}
    rows = []
    for name, solver in solvers.items():
        solved = {1e-15: 0, 1e-10: 0}
        for problem in problems:
            try:
                out = solver(problem.gram().unsqueeze(0))()
            except ValueError:  # quadprog: "matrix G is not positive definite"
                continue
            lam = torch.as_tensor(np.asarray(out[0] if isinstance(out, list) else out)).double().clamp_min(0)
            lam = lam / lam.sum()
            if lam.isfinite().all():
                above = excess(problem, lam)
                for limit in solved:
                    solved[limit] += above <= limit
        rows.append([name, *(f"{100 * n / len(problems):.1f} %" for n in solved.values())])
    table(f"simplex_qp, {len(problems)} hard problems, k <= 16, solved to", ["solver", "1e-15", "1e-10"], rows)


def main() -> None:
    """One problem, batches, the gain of a second thread, and the share of hard problems solved."""
    with threads(1):
        compare("simplex_qp, one problem, 1 thread, µs a call", 1, SINGLE_PEERS, rounds=15)
        compare(f"simplex_qp, batch {BATCH}, 1 thread, µs per problem", BATCH, BATCH_PEERS, rounds=5)
    threads_gain()
    accuracy()


if __name__ == "__main__":
    print(machine())
    main()
