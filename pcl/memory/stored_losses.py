"""The losses of stored samples, as those see them who choose and edit samples."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from pcl.gradients.dense import DenseModel, Weights, suits
from pcl.memory.base import MemoryBatch
from pcl.memory.course import Course, moved
from pcl.models.continual import ContinualModel
from pcl_kernels import mlp_row_losses, mlp_row_slopes


@dataclass
class StoredLosses:
    """l(x; theta) of samples with the labels and tasks of ``batch``; perceptrons need no autograd graph for them.

    Attributes:
        model: backbone and heads, with the parameters that it has when a loss is asked for.
        batch: the samples.
        dense: ``model.dense()``.
        layers: layers in place of those of ``dense``.
    """

    model: ContinualModel
    batch: MemoryBatch
    dense: DenseModel | None
    layers: Weights | None = None

    def __call__(self, x: Tensor, rows: slice | Tensor) -> Tensor:
        """Losses ``(b,)`` of x ``(b, ...)`` in place of the samples in those rows."""
        batch = self.batch
        return self.model.mixed_losses(x, batch.y[rows], batch.task[rows], batch.names)

    def values(self) -> Tensor:
        """Losses ``(B,)`` of the samples as they are, without derivatives."""
        batch = self.batch
        if self.dense is not None and suits(batch.x):
            return mlp_row_losses(batch.x.flatten(1), *self._weights, self._column)
        with torch.no_grad():
            return self.model.mixed_losses(batch.x, batch.y, batch.task, batch.names)

    def slopes(self, x: Tensor) -> Tensor | None:
        """Derivative of every sample's loss with respect to it, x ``(B, ...)`` in their place; None where autograd has
        to find it."""
        if self.dense is None or not suits(x):
            return None
        return mlp_row_slopes(x.flatten(1), *self._weights, self._column).view_as(x)

    @contextmanager
    def ahead(
        self, parameters: Sequence[nn.Parameter], along: Sequence[Tensor | None], lr: float
    ) -> Iterator["StoredLosses"]:
        """The losses at theta - lr * u within the block, for x like the samples; see :func:`pcl.memory.course.moved`.

        Args:
            parameters: all that train.
            along: u.
        """
        layers = along.layers(lr) if isinstance(along, Course) and self._trains(parameters) else None
        if layers is not None and suits(self.batch.x):
            there = copy(self)
            there.layers = layers
            yield there  # and the parameters stay where they are
        else:
            with moved(parameters, along, lr):
                yield self

    def _trains(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether all layers are dense, and train."""
        if self.dense is None:
            return False
        layers, known = (*self.dense.layers, *self.dense.heads), set(map(id, parameters))
        return all(p is None or id(p) in known for layer in layers for p in (layer.weight, layer.bias))

    @property
    def _weights(self) -> Weights:
        assert self.dense is not None
        return Weights.of(self.dense) if self.layers is None else self.layers

    @cached_property
    def _column(self) -> Tensor:
        """Of the labels, for a model in which they do not depend on the task."""
        return self.model.column_of(self.batch.y, self.batch.names[0])
