"""What a call costs beyond its kernel, and whether our threads and torch's stand in each other's way.

The first is the whole Python call less the compiled function on operands read before. For the second a step takes
turns between gramian and a product of matrices, each on all threads: threads of two pools would spin against each
other.

Run `python -m bench.overhead`.
"""

from __future__ import annotations

import torch

from bench.common import machine, medians, table, threads
from pcl_kernels import _C, combine, combine_sgd_, gramian

ELEMENTS = 1000  # of each task, in all


def measure(tasks: int, parameters: int) -> list[object]:
    grads: list[object] = [torch.randn(ELEMENTS) for _ in range(tasks)]
    out: object = torch.empty(ELEMENTS)
    if parameters > 1:
        grads = [list(torch.randn(ELEMENTS).chunk(parameters)) for _ in range(tasks)]
        out = list(torch.empty(ELEMENTS).chunk(parameters))
    params = out if isinstance(out, list) else [out]
    weights = torch.full((tasks,), 1.0 / tasks, dtype=torch.float64)
    gram = torch.empty(tasks, tasks, dtype=torch.float64)
    operands = _C.read(grads, (params,), True, True)
    t = medians(
        {
            "gramian kernel": lambda: _C.gramian(operands, gram.data_ptr(), 1),
            "gramian": lambda: gramian(grads),
            "combine kernel": lambda: _C.combine(operands, weights, False, 1),
            "combine": lambda: combine(grads, weights, out=out),
            "sgd kernel": lambda: _C.combine_sgd(operands, weights, 1e-6, 0.0, 0.0, 0.0, False, False, 1),
            "sgd": lambda: combine_sgd_(params, grads, weights, lr=1e-6),
        }
    )
    beyond = [t[name] - t[f"{name} kernel"] for name in ("gramian", "combine", "sgd")]
    return [tasks, parameters, tasks * parameters, *(seconds * 1e6 for seconds in beyond)]


def taking_turns(tasks: int, elements: int) -> list[object]:
    grads = list(torch.randn(tasks, elements))
    a, b = torch.randn(2, 700, 700)

    def both() -> None:
        gramian(grads)
        torch.matmul(a, b)

    t = medians({"gramian": lambda: gramian(grads), "matmul": lambda: torch.matmul(a, b), "both": both})
    return [tasks, *(s * 1e3 for s in t.values()), t["both"] / (t["gramian"] + t["matmul"])]


def main() -> None:
    """Flat gradients, and lists of six tensors; then both thread pools at work."""
    with threads(1):
        rows = [measure(k, p) for k, p in ((2, 1), (5, 1), (10, 1), (20, 1), (40, 1), (5, 6), (20, 6))]
    columns = ["tasks", "parameters", "tensors", "gramian", "combine into out", "combine_sgd_"]
    table("a call beyond its kernel, 1 thread, µs", columns, rows)
    with threads(2):
        rows = [taking_turns(k, 200_000) for k in (5, 20)]
    table(
        "gramian and torch's matmul in turns, 2 threads, ms", ["tasks", "gramian", "matmul", "both", "both ÷ sum"], rows
    )


if __name__ == "__main__":
    print(machine())
    main()
