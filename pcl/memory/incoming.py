"""What a step has in hand before it: the batches that have come, and the step that they alone would make."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from pcl.memory.base import MemoryBatch
from pcl.models.continual import ContinualModel
from pcl.models.modes import evaluation_mode
from pcl.streams.stream import Batch


class Incoming:
    """The batches of a step's streams, as retrieval and edits that look ahead see them.

    Args:
        model: backbone and heads.
        batches: for every task in training one batch ``(x, y)``, or several.
    """

    def __init__(self, model: ContinualModel, batches: Mapping[str, Sequence[Batch]]) -> None:
        self.model = model
        self.batches = batches

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """Those that train, of backbone and heads."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @cached_property
    def gradient(self) -> tuple[Tensor | None, ...]:
        """Of the mean over the tasks of their mean losses, one tensor per parameter; None where it does not reach.

        With one task this is the gradient of the batch. It is found once a step, when it is first asked for, with the
        model in evaluation mode, so that layer statistics, generators and carried states stay as they are. (All of
        several batches that a step accumulates go on from the state before the step.)
        """
        total: list[Tensor | None] = [None] * len(self.parameters)
        with evaluation_mode(self.model):
            for task, batches in self.batches.items():
                samples = len(self.batches) * sum(len(y) for _, y in batches)
                for x, y in batches:
                    features = self.model.encode(self.model.window(x, task))  # on from the state that is carried
                    loss = self.model.feature_losses(features, y, task).sum() / samples
                    found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
                    total = [b if a is None else a if b is None else a + b for a, b in zip(total, found, strict=True)]
        return tuple(total)

    def gradient_on(self, stored: MemoryBatch) -> tuple[Tensor | None, ...]:
        """Of the mean loss of stored samples, likewise."""
        with evaluation_mode(self.model):
            loss = self.model.mixed_losses(stored.x, stored.y, stored.task, stored.names).mean()
            return torch.autograd.grad(loss, self.parameters, allow_unused=True)


@contextmanager
def moved(parameters: Sequence[nn.Parameter], along: Sequence[Tensor | None], lr: float) -> Iterator[None]:
    """Parameters at theta - lr * u within the block; afterwards they hold the tensors that they held."""
    changed = [(p, u, p.data) for p, u in zip(parameters, along, strict=True) if u is not None]
    try:
        for p, u, theta in changed:
            p.data = torch.sub(theta, u, alpha=lr)
        yield
    finally:
        for p, _, theta in changed:
            p.data = theta
