"""gramian against J @ J.T on a stacked J, against stacking and multiplying, and against reading the bytes.

Run `pytest bench/test_gramian.py -s`. PCL_BENCH_COLUMNS sets m (default 1e7, plus a small size).
"""

from __future__ import annotations

import os

import pytest
import torch

from bench.common import machine, medians, read_floor, table, threads
from pcl_kernels import gramian

COLUMNS = int(float(os.environ.get("PCL_BENCH_COLUMNS", "1e7")))


def measure(k: int, m: int) -> list[object]:
    cut = m // 3
    grads = [[torch.randn(cut), torch.randn(m - cut)] for _ in range(k)]  # two parameters
    stacked = torch.stack([torch.cat(row) for row in grads])

    def stack_and_multiply() -> torch.Tensor:
        jacobian = torch.stack([torch.cat(row) for row in grads])
        return jacobian @ jacobian.T

    t = medians(
        {
            "read": read_floor([g for row in grads for g in row]),
            "gramian": lambda: gramian(grads),
            "stacked": lambda: stacked @ stacked.T,
            "stacking": stack_and_multiply,
        }
    )
    truth = stacked.double() @ stacked.double().T
    norms = truth.diagonal().sqrt()
    assert ((gramian(grads) - truth).abs() <= 1e-12 * norms[:, None] * norms).all()
    ratios = [t[peer] / t["gramian"] for peer in ("read", "stacked", "stacking")]
    return [k, *(seconds * 1e6 for seconds in t.values()), *ratios]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("m", [1000, COLUMNS])
def test_gramian(m: int, count: int) -> None:
    with threads(count):
        rows = [measure(k, m) for k in (2, 5, 10, 20, 40)]
    table(
        f"gramian, m = {m}, {count} thread(s), microseconds, medians; {machine()}",
        ["k", "read", "gramian", "J @ J.T", "cat+stack+matmul", "of read speed", "x J @ J.T", "x stacking"],
        rows,
    )
