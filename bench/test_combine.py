"""combine and the fused updates against weights @ J and torch.optim, and against reading the bytes.

Run `pytest bench/test_combine.py -s`. PCL_BENCH_COLUMNS sets m (default 1e7, plus a small size).
"""

from __future__ import annotations

import os

import pytest
import torch

from bench.common import machine, medians, read_floor, table, threads
from pcl_kernels import combine, combine_adamw_, combine_sgd_

COLUMNS = int(float(os.environ.get("PCL_BENCH_COLUMNS", "1e7")))


def measure(k: int, m: int) -> list[object]:
    stacked = torch.randn(k, m)
    grads = list(stacked)
    weights = torch.full((k,), 1.0 / k)
    param, out = torch.randn(m), torch.empty(m)
    means, squares = torch.zeros(m), torch.zeros(m)
    theirs = torch.nn.Parameter(param.clone())
    theirs.grad = torch.empty(m)
    sgd = torch.optim.SGD([theirs], lr=1e-6, foreach=True)
    adamw = torch.optim.AdamW([theirs], lr=1e-6, foreach=True)
    floor = read_floor(grads)

    def read_and_update() -> None:
        floor()
        param.mul_(1.0)

    def peer(optimizer: torch.optim.Optimizer) -> None:
        torch.matmul(weights, stacked, out=theirs.grad)
        optimizer.step()

    moments = {"exp_avgs": [means], "exp_avg_sqs": [squares], "step": 9}
    with torch.no_grad():
        t = medians(
            {
                "floor": read_and_update,
                "combine": lambda: combine(grads, weights, out=out),
                "matmul": lambda: torch.matmul(weights, stacked, out=out),
                "sgd": lambda: combine_sgd_([param], grads, weights, lr=1e-6),
                "torch sgd": lambda: peer(sgd),
                "adamw": lambda: combine_adamw_([param], grads, weights, lr=1e-6, **moments),
                "torch adamw": lambda: peer(adamw),
            }
        )
    ratios = [t["sgd"] / t["floor"], t["torch sgd"] / t["sgd"], t["torch adamw"] / t["adamw"]]
    return [k, *(seconds * 1e6 for seconds in t.values()), *ratios]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("m", [1000, COLUMNS])
def test_combine_and_update(m: int, count: int) -> None:
    with threads(count):
        rows = [measure(k, m) for k in (2, 5, 10, 20)]
    columns = (
        "k, read+update, combine, weights @ J, combine_sgd_, matmul + SGD, combine_adamw_, matmul + AdamW, "
    )
    table(
        f"combine and updates, m = {m}, {count} thread(s), microseconds, medians; {machine()}",
        (columns + "sgd / floor, x SGD, x AdamW").split(", "),
        rows,
    )
