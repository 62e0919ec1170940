"""Multi-Fashion+MNIST: final training losses of CAGrad over c, beside the mean, MGDA and PCGrad.

    python -m studies.multi_fashion_mnist --data-root DIR [--images 20000] [--epochs 10] [--seeds 3] [--processes 1]

Fig. 3.4 of Bo Liu's dissertation (2025, Sec. 3.6.1), with its network, a shrunk LeNet of 15 thousand parameters, and
its training: Adam at 0.001, weight decay 0.01, batches of 256. Its size, which takes days on a CPU, is
``--images 120000 --epochs 50``. Both tasks share a batch, so that a step is one forward pass and one backward pass per
task.

Adam is blind to the length of a direction, but its weight decay is added to it: the longer the direction, the weaker
the decay. With a large c, CAGrad has a direction of up to 1 + c times the length of the mean gradient. So every method
runs twice: with the weights as its paper has them, and with weights that sum to 1.

Runs that are done are kept in ``studies/results/multi_fashion_mnist.jsonl`` and not repeated; table and picture are
made from that file. Interrupt and go on as you like.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pcl import MGDA, Batches, CAGrad, Mean, PCGrad, Weighting, task_gradients
from pcl.data.batches import as_float
from pcl.data.multi_fashion_mnist import PairedImages, multi_fashion_mnist
from pcl.randomness import seeded
from studies.runs import complete, key_of

RESULTS = Path(__file__).parent / "results"
TASKS = ("digit", "clothing")
LEARNING_RATE = 0.001
WEIGHT_DECAY = 0.01
BATCH = 256
CS = (0.0, 0.2, 0.5, 0.8, 10.0)
SCALES = {"paper": "weights as in the papers", "unit": "weights that sum to 1"}
METHODS: dict[str, Callable[[], Weighting]] = {
    "mean": Mean,
    **{f"CAGrad c={c:g}": partial(CAGrad, c) for c in CS},
    "MGDA": MGDA,
    "PCGrad": PCGrad,
}


@dataclass(frozen=True)
class Run:
    """One training of the study."""

    method: str
    scale: str
    seed: int
    images: int
    epochs: int


class ShrunkLeNet(nn.Module):
    """The network of Sec. 3.6.1 from ``(n, 1, 36, 36)``, with one linear head per task."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(  # feature maps: 36 -> 28 -> 14 -> 10 -> 5 pixels
            *(nn.Conv2d(1, 5, 9, 1), nn.MaxPool2d(2), nn.ReLU(), nn.BatchNorm2d(5)),
            *(nn.Conv2d(5, 10, 5, 1), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(250)),
            nn.Linear(250, 50),
        )
        self.heads = nn.ModuleDict({task: nn.Linear(50, 10) for task in TASKS})


def train(run: Run, data: PairedImages) -> ShrunkLeNet:
    """The trained network; the seed chooses its first weights and the order of the images."""
    with seeded(run.seed, "shrunk LeNet"):
        model = ShrunkLeNet().to(memory_format=torch.channels_last)
    shared, own = list(model.base.parameters()), list(model.heads.parameters())
    optimizer = torch.optim.Adam([*shared, *own], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    weighting = METHODS[run.method]()
    rows_of = torch.arange(len(data.x_train))
    batches = Batches(data.x_train, rows_of, BATCH, seed=run.seed, name="multi-fashion-mnist")
    for epoch in range(run.epochs):
        batches.set_epoch(epoch)
        for x, rows in batches:
            found = task_gradients(losses(model, data.y_train[rows]), shared, own, model=model.base, inputs=x)
            weights = weighting(found.gramian(), found.losses, found.tasks)
            if run.scale == "unit":
                weights = weights / weights.sum()
            for p, g in zip([*shared, *own], [*found.combine(weights), *found.own], strict=True):
                p.grad = g
            optimizer.step()
    return model


def losses(model: ShrunkLeNet, y: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """For each task its loss of the features; y ``(n, 2)``."""

    def loss(head: nn.Module, labels: Tensor, features: Tensor) -> Tensor:
        return cross_entropy(head(features), labels)

    return {task: partial(loss, model.heads[task], y[:, i]) for i, task in enumerate(TASKS)}


@torch.no_grad()
def evaluate(model: ShrunkLeNet, x: Tensor, y: Tensor) -> tuple[list[float], list[float]]:
    """Loss and accuracy of each task over all images, with the running statistics of the normalisation."""
    model.eval()
    features = torch.cat([model.base(as_float(part)) for part in x.split(1000)])
    scores = [model.heads[task](features) for task in TASKS]
    found = [cross_entropy(s, y[:, i]).item() for i, s in enumerate(scores)]
    right = [(s.argmax(dim=1) == y[:, i]).float().mean().item() for i, s in enumerate(scores)]
    return found, right


@cache
def _data(data_root: str, images: int) -> PairedImages:
    return multi_fashion_mnist(Path(data_root), train=images, test=images // 6)  # the ratio of the published set


def measure(run: Run, data_root: str) -> dict[str, list[float]]:
    """Final losses on the training images, losses and accuracies on the test images, per task."""
    torch.set_num_threads(1)
    data = _data(data_root, run.images)
    model = train(run, data)
    (train_loss, _), (test_loss, accuracy) = (
        evaluate(model, x, y) for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test))
    )
    return {"train_loss": train_loss, "test_loss": test_loss, "test_accuracy": accuracy}


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def average_and_tasks(result: list[float]) -> list[float]:
    """Mean over the tasks, then each task."""
    return [statistics.mean(result), *result]


def by_method(runs: list[Run], done: dict[str, dict[str, list[float]]], key: str) -> dict[str, list[list[float]]]:
    """For each method the values over the seeds of the average and of each task."""
    return {
        method: [
            list(values)
            for values in zip(
                *(average_and_tasks(done[key_of(r)][key]) for r in runs if r.method == method), strict=True
            )
        ]
        for method in METHODS
    }


def table(runs: list[Run], done: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: a row per method, the lowest mean loss of every column and the highest accuracy in bold."""
    columns = [("training loss", "train_loss", min, 1), ("test accuracy %", "test_accuracy", max, 100)]
    found = {key: by_method(runs, done, key) for _, key, _, _ in columns}
    heads = [f"{what}, {part}" for what, *_ in columns for part in ("average", *TASKS)]
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for method in METHODS:
        cells = []
        for _, key, best, scale in columns:
            for i, values in enumerate(found[key][method]):
                shown = spread([scale * v for v in values], 3 if scale == 1 else 1)
                top = best(statistics.mean(other[i]) for other in found[key].values())
                cells.append(f"**{shown}**" if statistics.mean(values) == top else shown)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(runs: list[Run], done: dict[str, dict[str, list[float]]], target: Path) -> None:
    """Final training losses, mean and standard deviation with every seed as a dot; a row per scale of the weights."""
    from matplotlib.figure import Figure

    from pcl.report.style import LIGHT

    figure = Figure(figsize=(11, 6.6), layout="constrained")
    axes: Any = figure.subplots(2, 3, sharex="col", sharey=True)
    places = [len(METHODS) - i for i in range(len(METHODS))]
    for row, (scale, title) in zip(axes, SCALES.items(), strict=True):
        found = by_method([run for run in runs if run.scale == scale], done, "train_loss")
        for i, (axis, part) in enumerate(zip(row, ("average", *TASKS), strict=True)):
            for place, (method, values) in zip(places, found.items(), strict=True):
                colour = LIGHT[1] if method.startswith("CAGrad") else LIGHT[0]
                axis.plot(values[i], [place] * len(values[i]), "o", color=colour, alpha=0.35, markersize=4, mew=0)
                deviation = statistics.stdev(values[i]) if len(values[i]) > 1 else 0.0
                axis.errorbar(statistics.mean(values[i]), place, xerr=deviation, fmt="D", color=colour, capsize=3, ms=5)
            axis.set_title(f"{part}: {title}", fontsize=10)
            axis.grid(axis="x", color="0.9")
            axis.set_axisbelow(True)
        row[0].set_yticks(places, list(METHODS))
    figure.supxlabel("final training loss", fontsize=10)
    figure.savefig(target, dpi=110)


def main() -> None:
    """Complete the study, then write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--images", type=int, default=20_000, help="training images; the paper has 120000")
    parser.add_argument("--epochs", type=int, default=10, help="the paper has 50")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    each = [(scale, seed, method) for scale in SCALES for seed in range(given.seeds) for method in METHODS]
    runs = [Run(method, scale, seed, given.images, given.epochs) for scale, seed, method in each]
    make = partial(measure, data_root=given.data_root)
    done = complete(runs, RESULTS / "multi_fashion_mnist.jsonl", make, given.processes)
    parts = [f"{given.images:,} images, {given.epochs} epochs, {given.seeds} seeds"]
    for scale, title in SCALES.items():
        parts += [f"**{title}**", table([run for run in runs if run.scale == scale], done)]
    text = "\n\n".join(parts) + "\n"
    (RESULTS / "multi_fashion_mnist.md").write_text(text)
    draw(runs, done, RESULTS / "multi_fashion_mnist.png")
    print(text)


if __name__ == "__main__":
    main()
