"""The toy problem of the EMGD paper (Lyu et al., arXiv 2401.01054, Fig. 2 and its footnote).

    f1(x, y) = log(1 + x^2) + 0.8 (1 - e^x sin y)^2           the old task
    f2(x, y) = log(1 + y^2) + 0.004 (0.1 + e^y cos x)^2       arrives at iteration 500

from (3, 3), by steepest descent with step 2e-5 for 1,500 iterations. ``python -m studies.toy_problem`` draws
``studies/results/toy_problem.png``. :func:`descend` is also the shortest use of the library without its Trainer.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcl import EMGD, MGDA, Mean, Weighting, task_gradients

START = (3.0, 3.0)
STEP_SIZE = 2e-5
ITERATIONS = 1500
ARRIVAL = 500

WEIGHTINGS = {
    "mean": Mean,
    "MGDA": MGDA,
    "EMGD (GMC)": lambda: EMGD("gmc"),
    "EMGD (GS)": lambda: EMGD("gs"),
}


def f1(p: Tensor) -> Tensor:
    """The old task's loss at p = (x, y)."""
    x, y = p
    return torch.log1p(x**2) + 0.8 * (1 - torch.exp(x) * torch.sin(y)) ** 2


def f2(p: Tensor) -> Tensor:
    """The new task's loss at p = (x, y)."""
    x, y = p
    return torch.log1p(y**2) + 0.004 * (0.1 + torch.exp(y) * torch.cos(x)) ** 2


def descend(weighting: Weighting) -> Tensor:
    """Positions and losses ``(ITERATIONS + 1, 4)`` float64: x, y, f1, f2 before every iteration and at the end."""
    p = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    path = []
    for iteration in range(ITERATIONS + 1):
        path.append(torch.stack([*p.detach(), f1(p).detach(), f2(p).detach()]))
        losses = {"f1": partial(f1, p)} | ({"f2": partial(f2, p)} if iteration >= ARRIVAL else {})
        found = task_gradients(losses, [p], [])
        weights = weighting(found.gramian(), found.losses, found.tasks)
        (direction,) = found.combine(weights)
        with torch.no_grad():
            p -= STEP_SIZE * direction
    return torch.stack(path)


def draw(paths: dict[str, Tensor], target: Path) -> None:
    """Losses from shortly before f2 arrives, one panel per task, and the paths in the plane."""
    from matplotlib.figure import Figure

    since = ARRIVAL - 100
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    for name, path in paths.items():
        for axis, column, task in ((axes[0], 2, "f1, the old task"), (axes[1], 3, "f2, the new task")):
            axis.plot(range(since, ITERATIONS + 1), path[since:, column], label=name)
            axis.set(title=task, xlabel="iteration", ylabel="loss")
        axes[2].plot(path[:, 0], path[:, 1], label=name)
    for axis in axes[:2]:
        axis.axvline(ARRIVAL, color="0.6", linestyle=":", zorder=0)
    axes[0].text(ARRIVAL + 15, axes[0].get_ylim()[1], "f2 arrives", va="top", color="0.4")
    axes[2].plot(*START, "k*", markersize=11)
    axes[2].set(title="path from the star at (3, 3)", xlabel="x", ylabel="y")
    axes[2].legend(frameon=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


def main() -> None:
    """Run all four, print the final losses, draw the picture."""
    paths = {name: descend(make()) for name, make in WEIGHTINGS.items()}
    print(f"{'':12}  f1 at 500   f1 at end   f2 at 500   f2 at end")
    for name, path in paths.items():
        a, b = path[ARRIVAL], path[-1]
        print(f"{name:12}  {a[2]:9.4f}   {b[2]:9.4f}   {a[3]:9.4f}   {b[3]:9.4f}")
    target = Path(__file__).parent / "results" / "toy_problem.png"
    draw(paths, target)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
