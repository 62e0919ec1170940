"""Small trainers for the tests of the loop, and their states compared to the bit."""

import copy
from typing import Any

import torch
from torch import Tensor

from pcl import MLP, Batches, ClassMemory, ContinualModel, Stream, Trainer


def blobs(classes: list[int], n: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points in [0, 1]^6 around a corner per class."""
    draws = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 2, (10, 6), generator=torch.Generator().manual_seed(9)).float()
    y = torch.tensor(classes)[torch.arange(n) % len(classes)]
    return (corners[y] * 0.8 + 0.2 * torch.rand(n, 6, generator=draws)), y


def stream(task: str, classes: list[int], n: int = 24, **arguments: Any) -> Stream:
    x, y = blobs(classes, n)
    return Stream(task, Batches(x, y, 4, name=task), classes, test=blobs(classes, seed=1), **arguments)


def trainer(*streams: Stream, setting: str = "task", **arguments: Any) -> Trainer:
    torch.manual_seed(0)
    model = ContinualModel(MLP(6, [16, 8]), 8, setting)  # type: ignore[arg-type]
    given: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.2), "memory": ClassMemory(3)}
    made = Trainer(model, **{**given, **arguments})
    for s in streams:
        made.add(s)
    return made


def everything(t: Trainer) -> dict[str, Any]:
    return copy.deepcopy(t.state_dict())  # the state holds the tensors in use


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
