"""One gradient per task, by one backward pass per task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Gradient = list[Tensor | None]
"""One tensor per parameter, in the parameter's own layout; None where the loss does not depend on it."""


@dataclass(frozen=True)
class TaskGradients:
    """What :func:`task_gradients` found.

    Attributes:
        tasks: the k tasks, in the order of everything below.
        losses: ``(k,)``, detached.
        shared: k gradients with respect to the parameters on which the tasks may conflict.
        own: the gradient of the sum of all losses with respect to the remaining parameters (heads).
    """

    tasks: tuple[str, ...]
    losses: Tensor
    shared: list[Gradient]
    own: Gradient


def task_gradients(
    losses: Mapping[str, Callable[[], Tensor]], shared: Sequence[Tensor], own: Sequence[Tensor]
) -> TaskGradients:
    """g_i = d loss_i / d shared for every task i, and sum_i d loss_i / d own.

    Every task's graph is built, used and freed before the next one, so that memory does not grow with the
    number of tasks beyond their gradients.

    Args:
        losses: for each task a function that runs its forward pass and returns its scalar loss.
        shared: parameters whose task gradients are kept apart.
        own: parameters whose task gradients are summed.
    """
    values: list[Tensor] = []
    kept: list[Gradient] = []
    total: Gradient = [None] * len(own)
    for loss_of in losses.values():
        loss = loss_of()
        found = torch.autograd.grad(loss, [*shared, *own], allow_unused=True)
        values.append(loss.detach())
        kept.append(list(found[: len(shared)]))
        for j, gradient in enumerate(found[len(shared) :]):
            if gradient is not None:
                so_far = total[j]
                total[j] = gradient if so_far is None else so_far + gradient
    return TaskGradients(tuple(losses), torch.stack(values), kept, total)
