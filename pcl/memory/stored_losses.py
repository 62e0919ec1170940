"""The losses of stored samples, as those see them who choose and edit samples."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pcl.gradients.dense import DenseModel, DensePass
from pcl.memory.base import MemoryBatch
from pcl.models.continual import ContinualModel


@dataclass(frozen=True)
class StoredLosses:
    """l(x; theta) of samples with the labels and tasks of ``batch``; perceptrons need no autograd graph for them.

    Attributes:
        model: backbone and heads, with the parameters that it has when a loss is asked for.
        batch: the samples.
        dense: ``model.dense()``.
    """

    model: ContinualModel
    batch: MemoryBatch
    dense: DenseModel | None

    def __call__(self, x: Tensor, rows: slice | Tensor) -> Tensor:
        """Losses ``(b,)`` of x ``(b, ...)`` in place of the samples in those rows."""
        batch = self.batch
        return self.model.mixed_losses(x, batch.y[rows], batch.task[rows], batch.names)

    def values(self) -> Tensor:
        """Losses ``(B,)`` of the samples as they are, without derivatives."""
        batch = self.batch
        found = self._pass(batch.x)
        if found is not None:
            return found.losses
        with torch.no_grad():
            return self.model.mixed_losses(batch.x, batch.y, batch.task, batch.names)

    def slopes(self, x: Tensor) -> Tensor | None:
        """Derivative of every sample's loss with respect to it, x ``(B, ...)`` in their place; None where autograd has
        to find it."""
        found = self._pass(x)
        return None if found is None else found.of_inputs().view_as(x)

    def _pass(self, x: Tensor) -> DensePass | None:
        return None if self.dense is None else DensePass.of_samples(self.dense, x, self._column)

    @cached_property
    def _column(self) -> Tensor:
        """Of the labels, for a model in which they do not depend on the task."""
        return self.model.column_of(self.batch.y, self.batch.names[0])
