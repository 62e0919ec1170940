"""What loss terms add to a step, beside the way that is common: the penalty of every finished task through autograd.

Both train an MLP 784-400-400 on one stream without rehearsal, by SGD. "bare" is a loop in plain PyTorch, "+ EWC" with
lambda / 2 * sum_t (F_t * (theta - theta_t) ** 2).sum() in its loss; the Trainer has a term of the library.

Run `python -m bench.loss_terms`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.common import machine, medians, table, threads
from pcl import EWC, MAS, MLP, SI, ContinualModel, LossTerm, LwF, Stream, Trainer

CLASSES = list(range(10))
STRENGTH, RATE = 1e-3, 1e-3
TERMS: dict[str, Callable[[], list[LossTerm]]] = {
    "Trainer": list,
    "+ EWC": lambda: [EWC(STRENGTH, samples=16)],
    "+ MAS": lambda: [MAS(STRENGTH, samples=16)],
    "+ SI": lambda: [SI(STRENGTH)],
    "+ LwF": lambda: [LwF()],
}


def model() -> ContinualModel:
    torch.manual_seed(0)
    return ContinualModel(MLP(784, [400, 400]), 400)


def trained(terms: list[LossTerm], batch: tuple[Tensor, Tensor], finished: int) -> Trainer:
    """A trainer whose next steps are on the same batch, with so many tasks behind it."""
    t = Trainer(model(), optimizer=lambda p: torch.optim.SGD(p, lr=RATE), loss_terms=terms)
    for i in range(finished + 1):
        batches = [batch] * (2 if i < finished else 100_000)
        t.add(Stream(f"task {i}", batches, CLASSES, start=2 * i))
    t.fit(2 * finished + 3)
    return t


def bare(batch: tuple[Tensor, Tensor], finished: int) -> Callable[[], None]:
    """The step of a plain loop with the penalties of so many tasks."""
    network = model()
    network.add_task("now", CLASSES)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    protected = list(network.backbone.parameters())
    anchors = [copy.deepcopy([p.detach() for p in protected]) for _ in range(finished)]
    fishers = [[torch.rand_like(p) for p in protected] for _ in range(finished)]
    x, y = batch

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x, "now"), y)
        for fisher, anchor in zip(fishers, anchors, strict=True):
            for f, p, a in zip(fisher, protected, anchor, strict=True):
                loss = loss + STRENGTH / 2 * (f * (p - a) ** 2).sum()
        loss.backward()
        optimizer.step()

    return step


def measure(size: int, finished: int) -> list[object]:
    batch = torch.rand(size, 784), torch.arange(size) % 10
    runs: dict[str, Callable[[], object]] = {"bare": bare(batch, 0), "bare + EWC": bare(batch, finished)}
    runs |= {name: trained(make(), batch, finished).step for name, make in TERMS.items()}
    t = medians(runs, rounds=7)
    times = [seconds * 1e3 for seconds in t.values()]
    return [size, finished, *times, t["+ EWC"] / t["bare + EWC"]]


def main() -> None:
    """Small batches and usual ones, after one task and after ten."""
    with threads(1):
        rows = [measure(size, finished) for size in (10, 128) for finished in (1, 10)]
    columns = ["batch", "finished tasks", "bare", "bare + EWC", *TERMS, "EWC: Trainer ÷ bare"]
    table("a step with a loss term, MLP 784-400-400, 1 thread, ms", columns, rows)


if __name__ == "__main__":
    print(machine())
    main()
