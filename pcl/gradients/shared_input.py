"""Multi-task learning: k losses of one batch, whose model runs forward once.

Every loss gets the features f = model(x), and delta_i = d loss_i / d f ``(n, ...)``. Two levels:

- "parameters": g_i = the pullback of delta_i through the model, k backward passes;
- "features": G_ij = <delta_i, delta_j>, no backward pass through the model, and one, that of sum_i weights_i delta_i,
  for the direction (Sener and Koltun 2018, arXiv 1810.04650, Sec. 3.3: an upper bound of the problem over parameters).
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pcl.gradients.loop import add_to
from pcl.gradients.result import Gradient, StoredGradients, TaskGradients, weights_for
from pcl_kernels import combine, gramian


def of_parameters(
    losses: Mapping[str, Callable[[Tensor], Tensor]],
    shared: Sequence[Tensor],
    own: Sequence[Tensor],
    model: Callable[[Tensor], Tensor],
    x: Tensor,
) -> TaskGradients:
    """Task gradients with respect to parameters, from one forward pass."""
    run = _Run(losses, shared, own, model, x)
    each: list[Gradient] = []
    for i, delta in enumerate(run.deltas):
        gradients = list(run.beside[i])
        add_to(gradients, run.pull_back(delta, keep=i + 1 < len(run.deltas)))
        each.append(gradients)
    return StoredGradients(tuple(losses), run.losses, run.own, each)


class FeatureGradients(TaskGradients):
    """Task gradients with respect to the features. It holds the graph until it is dropped.

    Raises:
        ValueError: if a loss uses a shared parameter other than through the features.
    """

    def __init__(
        self,
        losses: Mapping[str, Callable[[Tensor], Tensor]],
        shared: Sequence[Tensor],
        own: Sequence[Tensor],
        model: Callable[[Tensor], Tensor],
        x: Tensor,
    ) -> None:
        self._run = _Run(losses, shared, own, model, x)
        if any(gradient is not None for beside in self._run.beside for gradient in beside):
            raise ValueError(
                "level: 'features' weights the tasks by their gradients with respect to the features, but a loss uses "
                "a shared parameter besides them; pass it in own, or use level='parameters'"
            )
        self.tasks, self.own = tuple(losses), self._run.own
        self.losses = torch.stack(self._run.losses)

    def gramian(self) -> Tensor:
        """<delta_i, delta_j>."""
        return gramian([[delta] for delta in self._run.deltas])

    def combine(self, weights: Tensor | Sequence[float]) -> Gradient:
        """As :meth:`TaskGradients.combine`: the pullback of sum_i weights_i delta_i, one backward pass."""
        (total,) = combine([[delta] for delta in self._run.deltas], weights_for(self.losses, weights))
        return self._run.pull_back(total, keep=True)

    def each(self) -> list[Gradient]:
        """As :meth:`TaskGradients.each`, with respect to parameters, by k backward passes."""
        return [self._run.pull_back(delta, keep=True) for delta in self._run.deltas]


class _Run:
    """The forward pass, and every loss differentiated down to the features."""

    def __init__(
        self,
        losses: Mapping[str, Callable[[Tensor], Tensor]],
        shared: Sequence[Tensor],
        own: Sequence[Tensor],
        model: Callable[[Tensor], Tensor],
        x: Tensor,
    ) -> None:
        self._shared = list(shared)
        self._out = model(x)
        self.losses: list[Tensor] = []
        self.deltas: list[Tensor | None] = []
        self.beside: list[Gradient] = []  # gradients of shared parameters that do not come through the features
        self.own: Gradient = [None] * len(own)
        for loss_of in losses.values():
            leaf = self._out.detach().requires_grad_()
            loss = loss_of(leaf)
            delta, *found = torch.autograd.grad(loss, [leaf, *shared, *own], allow_unused=True)
            rest: Gradient = list(found)
            self.losses.append(loss.detach())
            self.deltas.append(delta)
            self.beside.append(rest[: len(shared)])
            add_to(self.own, rest[len(shared) :])

    def pull_back(self, delta: Tensor | None, *, keep: bool) -> Gradient:
        if delta is None:
            return [None] * len(self._shared)
        return list(torch.autograd.grad(self._out, self._shared, delta, retain_graph=keep, allow_unused=True))
