"""One growth phase, 1 thread: steps of the over-grown network and scores of all its candidates beside training steps.

Run `python -m bench.growth`. "plain" is forward and backward of the network in training; "over-grown" those of the
network with all candidates, to all candidates; "scores" is `scores` of one batch with n = 3. "Eq. 5.5" is how many
forward and backward passes the scores would take neuron by neuron. A phase is `Firefly().grow`: 40 steps, scores over 4
batches, the network rebuilt with Adam's state.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.common import machine, medians, table, threads
from pcl import MLP, Budget, Firefly, WidthGraph
from pcl.models.growth.candidates import Candidates
from pcl.models.growth.overgrown import OverGrown
from pcl.models.growth.scoring import scores

Batch = tuple[Tensor, Tensor]
POINTS = 3


def thin_vgg(width: int) -> nn.Sequential:
    """Six convolutions of `width` to 4 `width` channels, three of them in front of a maximum pooling."""
    layers: list[nn.Module] = []
    before = 3
    for stage in (1, 2, 4):
        for _ in range(2):
            after = stage * width
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "MLP 784-256-256": lambda: (nn.Sequential(MLP(784, [256, 256]), nn.Linear(256, 10)), torch.randn(128, 784)),
    "VGG, 16 to 64 channels": lambda: (thin_vgg(16), torch.randn(64, 3, 32, 32)),
}


def objective(f: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    return F.cross_entropy(f(batch[0]), batch[1])


def measure(name: str) -> list[object]:
    torch.manual_seed(0)
    net, x = CASES[name]()
    batch = (x, torch.randint(10, (len(x),)))
    graph = WidthGraph(net, x)
    candidates = Candidates(graph)
    network = OverGrown(graph, candidates)
    net.eval()  # as in a growth phase
    trained, own = candidates.trained(), list(net.parameters())
    seconds = medians(
        {
            "plain": lambda: torch.autograd.grad(objective(net.train(), batch), own),
            "over-grown": lambda: torch.autograd.grad(objective(_evaluating(net, network), batch), trained),
            "scores": lambda: scores(_evaluating(net, network), [batch], objective, points=POINTS),
        },
        rounds=5,
    )
    phases = []
    for _ in range(3):
        grown = copy.deepcopy(net).train()
        optimizer = torch.optim.Adam(grown.parameters())
        objective(grown, batch).backward()
        optimizer.step()
        start = time.perf_counter()
        Firefly().grow(grown, [batch], objective, Budget(neurons=64), optimizer=optimizer)
        phases.append(time.perf_counter() - start)
    count = sum(c.group.width + c.new for c in candidates.groups.values())
    plain, over, score = seconds.values()
    ratios = [over / plain, score / over, median(phases) / over, median(phases) / plain]
    return [name, count, POINTS * count, *(s * 1e3 for s in (plain, over, score)), *ratios]


def _evaluating(net: nn.Module, network: OverGrown) -> OverGrown:
    net.eval()
    return network


def main() -> None:
    header = "network, candidates, Eq. 5.5: passes, plain ms, over-grown ms, scores ms, over-grown ÷ plain"
    header += ", scores ÷ over-grown, phase ÷ over-grown, phase ÷ plain"
    with threads(1):
        table("one growth phase, 1 thread", header.split(", "), [measure(name) for name in CASES])


if __name__ == "__main__":
    print(machine())
    main()
