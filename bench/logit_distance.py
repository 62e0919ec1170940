"""The distance of logits from stored ones with its derivative, beside torch.

Run `python -m bench.logit_distance`. "torch" makes the same of torch's operators in float32 for logits of which all are
known; "autograd" differentiates `mse_loss`. The floor is the time that it takes to read and write as many bytes.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from bench.common import machine, medians, table, threads
from pcl_kernels import logit_distance

SHAPES = ((10, 10), (128, 100), (128, 1000), (1024, 1000))


def measure(rows: int, columns: int) -> list[object]:
    """One batch."""
    torch.manual_seed(0)
    now, then = torch.randn(rows, columns), torch.randn(rows, columns)
    asked, out = now.clone().requires_grad_(), torch.empty_like(now)

    def composed() -> object:
        apart = now - then
        slopes = apart * (2 / (rows * columns))
        return (slopes * apart).sum() / 2, slopes

    def graph() -> object:
        loss = F.mse_loss(asked, then)
        return loss, torch.autograd.grad(loss, asked)

    t = medians(
        {
            "ours": lambda: logit_distance(now, then),
            "torch": composed,
            "autograd": graph,
            "bytes": lambda: torch.add(now, then, out=out),
        }
    )
    ratios = [t[peer] / t["ours"] for peer in ("torch", "autograd", "bytes")]
    return [f"{rows} x {columns}", t["ours"] * 1e6, *ratios]


def main() -> None:
    """One thread."""
    with threads(1):
        rows = [measure(*shape) for shape in SHAPES]
    table("logit_distance, 1 thread", ["logits", "µs", "x torch", "x autograd", "floor / ours"], rows)


if __name__ == "__main__":
    print(machine())
    main()
