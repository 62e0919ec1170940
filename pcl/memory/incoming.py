"""What a step has in hand before it: the batches that have come."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from pcl.gradients.dense import DenseModel, DensePass, SeenRows, Weights
from pcl.gradients.dense_gradients import DenseLoss
from pcl.memory.base import MemoryBatch
from pcl.memory.course import Course, Shortcut
from pcl.memory.stored_losses import StoredLosses
from pcl.models.continual import ContinualModel
from pcl.models.modes import evaluation_mode
from pcl.parts import trainable
from pcl.streams.stream import Batch


def _of_dense(run: DensePass, parameters: Sequence[nn.Parameter]) -> Course:
    even, check = torch.full((len(run.tasks),), 1 / len(run.tasks)), run.keep()

    def find() -> Sequence[Tensor | None]:
        check()
        return DenseLoss(run, parameters, []).combine(even)

    def reached(lr: float) -> Weights | None:
        check()
        return run.reached(even, lr)

    return Course(find, Shortcut(reached, run.by_parameter))


class Incoming:
    """The batches of a step's streams, as retrieval and edits that look ahead see them.

    Args:
        model: backbone and heads.
        batches: for every task in training one batch ``(x, y)``, or several.
    """

    def __init__(self, model: ContinualModel, batches: Mapping[str, Sequence[Batch]]) -> None:
        self.model = model
        self.batches = batches
        self._joint: tuple[DensePass, MemoryBatch] | None = None  # a pass over stored samples beside the batches

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """Those that train, of backbone and heads."""
        return trainable(self.model)

    @cached_property
    def dense(self) -> DenseModel | None:
        """The model as passes without a graph take it, if it is such a one."""
        return self.model.dense()

    @cached_property
    def gradient(self) -> Course:
        """Of the mean over the tasks of their mean losses, one tensor per parameter; None where it does not reach.

        With one task this is the gradient of the batch. It is found once a step, when it is first asked for, with the
        model in evaluation mode, so that layer statistics, generators and carried states stay as they are. (All of
        several batches that a step accumulates go on from the state before the step.)
        """
        run = self._pass() if self._joint is None else self._joint[0].leading()
        if run is not None:
            return _of_dense(run, self.parameters)
        total: list[Tensor | None] = [None] * len(self.parameters)
        with evaluation_mode(self.model):
            for task, batches in self.batches.items():
                samples = len(self.batches) * sum(len(y) for _, y in batches)
                for x, y in batches:
                    features = self.model.encode(self.model.window(x, task))  # on from the state that is carried
                    loss = self.model.feature_losses(features, y, task).sum() / samples
                    found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
                    total = [b if a is None else a if b is None else a + b for a, b in zip(total, found, strict=True)]
        return Course(lambda: total)

    def losses_of(self, stored: MemoryBatch) -> Tensor:
        """l(x; theta) ``(B,)`` of stored samples, without derivatives and in the mode that the model is in. Where no
        graph is needed the batches run along with them, and need no pass of their own any more."""
        run = None if self._joint is not None or "gradient" in vars(self) else self._pass(stored)
        if run is None:
            return StoredLosses(self.model, stored, self.dense).values()
        self._joint = run, stored
        return run.losses[len(self.batches) :]

    def seen(self, stored: MemoryBatch) -> SeenRows | None:
        """The rows of the batches, and behind them those of stored samples, as :meth:`losses_of` has seen them; None if
        it has not seen all of them. The samples must not have been edited since."""
        if self._joint is None:
            return None
        run, looked_at = self._joint
        first = sum(run.rows.sizes[: len(self.batches)])
        row_of = {place: row for row, place in enumerate(looked_at.index.tolist(), first)}
        rows = [row_of.get(place, -1) for place in stored.index.tolist()]
        return None if -1 in rows else SeenRows(run, torch.tensor([*range(first), *rows]))

    def _pass(self, stored: MemoryBatch | None = None) -> DensePass | None:
        """All tasks in one pass without a graph, where the model allows it; with stored samples beside them."""
        if any(len(batches) != 1 for batches in self.batches.values()):
            return None
        inputs, labels = ({task: batches[0][part] for task, batches in self.batches.items()} for part in (0, 1))
        beside = None if stored is None else (stored.x, stored.y)
        return DensePass.of(self.model, self.dense, inputs, labels, beside=beside)

    def gradient_on(self, stored: MemoryBatch) -> tuple[Tensor | None, ...]:
        """Of the mean loss of stored samples, likewise."""
        with evaluation_mode(self.model):
            loss = self.model.mixed_losses(stored.x, stored.y, stored.task, stored.names).mean()
            return torch.autograd.grad(loss, self.parameters, allow_unused=True)
