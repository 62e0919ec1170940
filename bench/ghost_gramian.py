"""The Gramian of a linear layer's gradients without the gradients, beside torch and beside gradients that are formed.

Run `python -m bench.ghost_gramian`. "torch" makes the same products of rows in float64; "formed" makes the k gradients
and multiplies them by `gramian`.
"""

from __future__ import annotations

import torch

from bench.common import machine, medians, table, threads
from pcl_kernels import ghost_gramian, gramian
from pcl_kernels.ghost_gramian import reference

LAYERS = ((784, 400), (400, 400), (4096, 4096))
ROWS = ((2, 10), (5, 10), (4, 32))  # tasks, samples of each


def measure(layer: tuple[int, int], tasks: int, samples: int) -> list[object]:
    """One layer and one number of samples."""
    torch.manual_seed(0)
    (n, m), sizes = layer, [samples] * tasks
    a, delta = torch.randn(tasks * samples, n), torch.randn(tasks * samples, m)

    def formed() -> object:
        blocks = zip(delta.split(sizes), a.split(sizes), strict=True)
        return gramian([[d.T @ x] for d, x in blocks])

    t = medians(
        {
            "ours": lambda: ghost_gramian(a, delta, sizes),
            "torch": lambda: reference.ghost_gramian(a, delta, sizes),
            "formed": formed,
        }
    )
    return [f"{n} x {m}", tasks, samples, t["ours"] * 1e6, t["torch"] / t["ours"], t["formed"] / t["ours"]]


def main() -> None:
    """One thread."""
    with threads(1):
        rows = [measure(layer, *rows) for layer in LAYERS for rows in ROWS]
    table("ghost_gramian, 1 thread", ["layer", "tasks", "samples of each", "µs", "x torch", "x formed"], rows)


if __name__ == "__main__":
    print(machine())
    main()
