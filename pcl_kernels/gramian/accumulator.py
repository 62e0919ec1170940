"""A Gramian that grows parameter by parameter, while gradients become ready and are dropped again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl_kernels.gramian.op import gramian


class GramianAccumulator:
    """Adds up the Gramian of k tasks over parameters, so that no k x m storage is ever needed.

    G = Σ_p J_p J_pᵀ, where J_p `(k, n_p)` holds the tasks' gradients of parameter p. Each term is as exact as
    `gramian`; terms are added in float64 in the order they come, so the same order gives the same bits. Not
    differentiable.

    Example:
        >>> total = GramianAccumulator(2)
        >>> total.add([torch.ones(3), torch.ones(3)])
        >>> total.add([torch.ones(2), None])
        >>> total.gram
        tensor([[5., 3.],
                [3., 3.]], dtype=torch.float64)
    """

    def __init__(self, tasks: int, *, device: torch.device | str = "cpu") -> None:
        if tasks < 1:
            raise ValueError(f"GramianAccumulator: tasks must be at least 1; got {tasks}")
        self.tasks = tasks
        #: the sum so far, `(k, k)` float64
        self.gram = torch.zeros(tasks, tasks, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, grads: Sequence[Tensor | None]) -> None:
        """Add one parameter: its k gradients, of one shape and dtype; None is a gradient of zeros.

        Raises TypeError and ValueError as `gramian`, and ValueError for another number of tasks; the sum then
        stays as it was.
        """
        if len(grads) != self.tasks:
            raise ValueError(f"GramianAccumulator: expected the gradients of {self.tasks} tasks; got {len(grads)}")
        if any(g is not None for g in grads):
            self.gram += gramian([[g] for g in grads])
