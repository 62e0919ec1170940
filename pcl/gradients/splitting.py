"""From a and delta of a layer to its k task gradients, or to the Gramian of these without them.

With A_i ``(rows, in)`` and D_i ``(rows, out)`` of task i, the gradient of a Linear layer is D_iᵀ A_i and

    <g_i, g_j> = sum over rows b of i and c of j of (a_b . a_c)(delta_b . delta_c),

so that the Gramian follows from two ``(rows, rows)`` matrices and no gradient has to be formed: "ghost" products. They
are summed in float64, as the Gramian of stored gradients is.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcl.gradients.rules.linear import LINEAR
from pcl.gradients.rules.rule import ALL
from pcl.gradients.tape import Use
from pcl_kernels import ghost_gramian as kernel


def split(
    uses: Sequence[Use], tasks: int, idle: frozenset[int], buffer: Callable[[], Tensor], channels: slice = ALL
) -> list[Tensor | None]:
    """The gradient of every task with respect to a weight; None for a task that no run belongs to.

    Args:
        uses: all runs in which the weight was used.
        tasks: how many.
        idle: tasks to leave out of runs that all tasks share.
        buffer: gives memory for all gradients, ``(tasks, *shape)``, uninitialised. It is used where a matrix product
            can be written to it; convolutions bring their own.
        channels: a range of the layer's output channels, if only their part of the gradient is wanted.
    """
    found: list[Tensor | None] = [None] * tasks
    memory: Tensor | None = None
    for use in uses:
        weight = use.layer.weight
        assert isinstance(weight, Tensor)
        if use.rule is LINEAR and use.a.dtype == use.delta.dtype == weight.dtype:
            memory = buffer() if memory is None else memory
            _add_products(use, found, memory, channels)
            continue
        for (task, a), (_, delta) in zip(use.rows.of(use.a), use.rows.of(use.delta), strict=True):
            gradient = use.rule.weight(use.layer, a, delta, channels).to(weight.dtype)  # type: ignore[misc]
            so_far = found[task]
            found[task] = gradient if so_far is None else so_far + gradient
    alone = {use.rows.tasks[0] for use in uses if len(use.rows.tasks) == 1}
    return [None if task in idle - alone else gradient for task, gradient in enumerate(found)]


def _add_products(use: Use, found: list[Tensor | None], buffer: Tensor, channels: slice) -> None:
    """D_iᵀ A_i straight into memory, all tasks in one call where they have equally many rows."""
    delta, tasks = use.delta[..., channels], use.rows.tasks
    if use.rows.equal and len(tasks) == len(found) and all(gradient is None for gradient in found):
        a, delta = (t.reshape(len(tasks), -1, t.shape[-1]) for t in (use.a, delta))
        found[:] = torch.bmm(delta.transpose(1, 2), a, out=buffer).unbind()
        return
    for (task, a), (_, d) in zip(use.rows.of(use.a), use.rows.of(delta), strict=True):
        a, d, so_far = a.reshape(-1, a.shape[-1]), d.reshape(-1, d.shape[-1]), found[task]
        if so_far is None:
            found[task] = torch.mm(d.T, a, out=buffer[task])
        else:
            so_far.addmm_(d.T, a)


def ghost_is_cheaper(uses: Sequence[Use], tasks: int) -> bool:
    """Whether ghost products of a weight cost less than forming, multiplying and combining k gradients."""
    (use, *others) = uses
    if others or use.rule is not LINEAR or len(use.rows.tasks) != tasks:
        return False
    ghost, stored = costs(use, tasks)
    return ghost < stored


def costs(use: Use, tasks: int) -> tuple[float, float]:
    """Of ghost products, and of k gradients of a Linear layer.

    Counted in float64 multiplications: n^2 (in + out) / 2 + 8 n^2 for n rows, where 8 pay for passes over ``(n, n)``;
    k in out ((k + 1) / 2 + 4) for stored gradients, where 4 pay for their way through memory.
    """
    width_in, width_out = use.a.shape[-1], use.delta.shape[-1]
    rows = use.a.numel() // width_in
    return rows * rows * ((width_in + width_out) / 2 + 8), tasks * width_in * width_out * ((tasks + 1) / 2 + 4)


def ghost_gramian(use: Use) -> Tensor:
    """The weight's part of the Gramian ``(k, k)`` float64 by :func:`pcl_kernels.ghost_gramian`."""
    a, delta = (t.reshape(-1, t.shape[-1]) for t in (use.a, use.delta))
    return kernel(a, delta, use.rows.times(len(a) // use.rows.count).sizes)


def weighted(use: Use, weights: Tensor) -> Tensor:
    """sum_i weights_i g_i of one run in one product, sum_b (weights_task(b) delta_b) a_bᵀ for a Linear layer."""
    of_rows = torch.cat([weights[task].expand(size) for task, size in zip(use.rows.tasks, use.rows.sizes, strict=True)])
    of_rows = of_rows.to(use.delta.dtype).view(-1, *[1] * (use.delta.dim() - 1))
    gradient: Tensor = use.rule.weight(use.layer, use.a, use.delta * of_rows, ALL)  # type: ignore[misc]
    return gradient.to(use.layer.weight.dtype)  # type: ignore[arg-type]  # they differ under autocast
