"""GSS-Greedy as its released code has it, to see whether this is what the published table was made with."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pcl.gradients.task_gradients import task_gradients
from pcl.memory.base import MemoryBatch, Seen, distinct
from pcl.memory.reservoir import ReservoirMemory
from pcl.models.continual import ContinualModel
from pcl.models.modes import evaluation_mode

COMPARED, SIZE = 10, 10


class GSSByBatches(ReservoirMemory):
    """As :class:`pcl.GSSGreedy`, but

    - samples are compared with the gradients of ten stored batches of ten, not of ten stored samples;
    - a full memory changes only when the mean gradient of the whole batch that comes points away from all of these;
    - rows that may go are drawn by how far their scores lie above the lowest, and one goes with probability
      C / (C + c), C and c being the scores of the stored sample and of the new one.
    """

    numbers = ("score",)

    def observe(
        self, task: str, x: Tensor, y: Tensor, classes: Sequence[int], draws: torch.Generator, seen: Seen | None = None
    ) -> None:
        """Let a batch go by; see :meth:`pcl.ReservoirMemory.observe`."""
        assert seen is not None
        of_samples, of_batch = torch.full((len(y),), 0.1, dtype=torch.float64), -1.0
        if len(self):
            of_samples, of_batch = compare(seen.model, task, x, y, self._batches(draws))
        columns = {**self._arriving(task, x, y, seen), "score": of_samples}
        first = self._fill(columns)
        if first or of_batch >= 0:  # the released code lets go what is left of the batch that fills the memory
            return
        scores = self._room["score"]
        span = scores.max() - scores.min()
        rows = torch.multinomial((scores - scores.min()) / (span + 0.01) + 1e-12, len(y), generator=draws)
        new, old = (of_samples + 1) / 2, (scores[rows] + 1) / 2
        taken = torch.rand(len(y), generator=draws, dtype=torch.float64) * (old + new) < old
        for name, values in columns.items():
            self._room[name][rows[taken]] = values[taken].to(self._room[name].dtype)

    def _batches(self, draws: torch.Generator) -> list[MemoryBatch]:
        size = min(SIZE, len(self))
        count = min(COMPARED, len(self) // size)
        drawn = self.take(distinct(count * size, len(self), draws))
        return [drawn.take(torch.arange(size) + i * size) for i in range(count)]


def compare(
    model: ContinualModel, task: str, x: Tensor, y: Tensor, stored: Sequence[MemoryBatch]
) -> tuple[Tensor, float]:
    """The largest cosine of the gradient of every sample ``(B,)``, and of their mean, with those of stored batches."""
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        f"new {b}": partial(_loss, model, y[b : b + 1], task) for b in range(len(y))
    }
    inputs = dict(zip(losses, x.split(1), strict=True))
    for i, batch in enumerate(stored):
        losses[f"stored {i}"] = partial(_mixed_loss, model, batch)
        inputs[f"stored {i}"] = batch.x
    shared = [p for p in model.parameters() if p.requires_grad]
    with evaluation_mode(model):
        gram = task_gradients(losses, shared, model=model.backbone, inputs=inputs, root=model, strategy="lowmem")
    k, b = gram.gramian().double(), len(y)
    norms = k.diagonal().clamp(min=1e-30).sqrt()
    mean = k[:b, b:].mean(dim=0) / (k[:b, :b].mean().clamp(min=1e-30).sqrt() * norms[b:])
    return (k[:b, b:] / torch.outer(norms[:b], norms[b:])).max(dim=1).values, float(mean.max())


def _loss(model: ContinualModel, y: Tensor, task: str, features: Tensor) -> Tensor:
    return model.feature_losses(features, y, task).mean()


def _mixed_loss(model: ContinualModel, batch: MemoryBatch, features: Tensor) -> Tensor:
    return model.mixed_feature_losses(features, batch.y, batch.task, batch.names).mean()
