"""Perceptrons whose passes need no graph, and what their tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pcl import MLP, ContinualModel
from pcl.gradients.dense import DensePass

ROWS = {"a": 6, "b": 6, "memory": 3}


def model(heads: int = 2, setting: Any = "class") -> ContinualModel:
    torch.manual_seed(0)
    made = ContinualModel(MLP(12, [9, 7]), 7, setting)
    for number in range(heads):
        made.add_task(f"task {number}", [2 * number, 2 * number + 1])
    return made


def batches(sizes: dict[str, int], columns: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    x = {task: torch.randn(n, 3, 4, generator=draws) for task, n in sizes.items()}
    return x, {task: torch.randint(columns, (n,), generator=draws) for task, n in sizes.items()}


def passed(of: ContinualModel, sizes: dict[str, int]) -> tuple[DensePass, list[Tensor]]:
    """The pass, and the losses that autograd differentiates."""
    x, y = batches(sizes, sum(len(head.weight) for head in of.heads))  # type: ignore[misc, arg-type]
    rows = torch.cat(list(x.values())), torch.cat(list(y.values()))
    run = DensePass(of.dense(), *rows, list(sizes.values()), list(sizes))  # type: ignore[arg-type]
    return run, [cross_entropy(of.logits(of.backbone(x[task]), "task 0"), y[task]) for task in sizes]


def gradient(losses: list[Tensor], weights: list[float], of: list[nn.Parameter]) -> tuple[Tensor, ...]:
    total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    return torch.autograd.grad(total, of, retain_graph=True)  # type: ignore[arg-type]


def close(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def hooked(of: ContinualModel) -> None:
    of.backbone[1].register_forward_hook(lambda *_: None)  # type: ignore[index, operator, union-attr]
