"""The gradients of a :class:`~pcl.gradients.dense.DensePass`, as the loop asks for them: together, or of every task."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from pcl.gradients.collectors import Store
from pcl.gradients.dense import DensePass
from pcl.gradients.result import Gradient, TaskGradients, weights_for
from pcl.gradients.rules.rule import block_sums
from pcl.gradients.splitting import costs
from pcl.gradients.workspace import Workspace
from pcl_kernels import ghost_gramian


class DenseLoss:
    """What :class:`~pcl.gradients.summed.SummedLoss` finds, of a :class:`DensePass`; attributes and use as there."""

    def __init__(self, run: DensePass, shared: Sequence[Tensor], own: Sequence[Tensor]) -> None:
        self.tasks, self.losses = run.tasks, run.losses
        self.own: Gradient = []
        self._run, self._shared, self._others = run, list(shared), list(own)

    def combine(self, weights: Tensor) -> Gradient:
        """As :meth:`pcl.gradients.summed.SummedLoss.combine`."""
        wanted = {id(p) for p in (*self._shared, *self._others)}
        found = self._run.gradients(weights, wanted=wanted, weighted_heads=not self._others)
        self.own = [found.get(id(p)) for p in self._others]
        return [found.get(id(p)) for p in self._shared]

    def descend(self, weights: Tensor, lr: float) -> bool:
        """In place of :meth:`combine` and an update by gradient descent, whose bits it has: all parameters of the model
        go down along their gradients, which are not kept. See :meth:`DensePass.descend`."""
        return self._run.descend(weights, lr, weighted_heads=not self._others)


class DenseGradients(TaskGradients):
    """The gradients of every task, of a :class:`DensePass`. None of them is formed where their Gramian and their
    combination cost less without; use as :class:`DenseLoss`."""

    def __init__(self, run: DensePass, shared: Sequence[Tensor], own: Sequence[Tensor], workspace: Workspace) -> None:
        self.tasks, self.losses, self.shared = run.tasks, run.losses, list(shared)
        self._run, self._workspace, self._wanted = run, workspace, {id(p) for p in shared}
        found = run.backward(None, wanted={id(p) for p in own}, weighted_heads=False)
        of_own = run.by_parameter((found.weights, found.biases))
        self.own = [of_own.get(id(p)) for p in own]
        self._uses = [
            use for use in run.uses(found.deltas) if self._wants(use.layer.weight) or self._wants(use.layer.bias)
        ]
        whole = all(self._wants(use.layer.weight) and self._wants(use.layer.bias) for use in self._uses)
        ghost, stored = map(sum, zip(*[costs(use, len(self.tasks)) for use in self._uses], strict=True))
        self._formless = whole and ghost < stored

    def gramian(self) -> Tensor:
        """As :meth:`TaskGradients.gramian`."""
        if not self._formless:
            return self._stored.gramian()
        sizes = self._run.rows.sizes
        first, *others = [ghost_gramian(use.a, use.delta, sizes, bias=True) for use in self._uses]
        return sum(others, start=first)

    def combine(self, weights: Tensor | Sequence[float]) -> Gradient:
        """As :meth:`TaskGradients.combine`."""
        weights = weights_for(self.losses, weights)
        if not self._formless:
            return self._stored.combine(weights, self.shared)
        found = self._run.gradients(weights, wanted=self._wanted, weighted_heads=not self.own)
        return [found.get(id(p)) for p in self.shared]

    def descend(self, weights: Tensor, lr: float) -> bool:
        """As :meth:`DenseLoss.descend`; not where gradients are stored."""
        return self._formless and self._run.descend(weights, lr, weighted_heads=not self.own)

    def each(self) -> list[Gradient]:
        """As :meth:`TaskGradients.each`."""
        return self._stored.each(self.shared)

    @cached_property
    @torch.no_grad()
    def _stored(self) -> Store:
        store, rows = Store(len(self.tasks), self._workspace, self.losses.device), self._run.rows
        for use in self._uses:
            weight, bias = use.layer.weight, use.layer.bias
            if isinstance(bias, Tensor) and self._wants(bias):
                store.small(bias, rows, block_sums(use.delta[:, None], rows))
            if isinstance(weight, Tensor) and self._wants(weight):
                store.weight(weight, [use])
        return store

    def _wants(self, parameter: object) -> bool:
        return id(parameter) in self._wanted
