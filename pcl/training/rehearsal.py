"""What the memory gives to a step, and what the step's edit gives back to it."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pcl.gradients.dense import SeenRows
from pcl.memory.base import MemoryBatch
from pcl.memory.before_update import BeforeUpdate
from pcl.memory.edit import Edit
from pcl.memory.incoming import Incoming
from pcl.memory.stored_losses import StoredLosses
from pcl.models.continual import ContinualModel
from pcl.models.modes import evaluation_mode
from pcl.streams.stream import Batch

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer


@dataclass(frozen=True)
class Edited:
    """Stored samples at ``index`` ``(B,)``, as they were and as they are to be, ``(B, ...)``."""

    index: Tensor
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Recall:
    """What the memory gives to a step.

    Attributes:
        recalled: stored samples, None while nothing is stored.
        drawn: as many others, for a loss term that has a draw of its own.
        edited: what an edit that acts before the update has made, of the recalled ones or others.
        seen: the batches and the recalled samples in a pass that retrieval has made.
    """

    recalled: MemoryBatch | None = None
    drawn: MemoryBatch | None = None
    edited: Edited | None = None
    seen: SeenRows | None = None


def recall(trainer: "Trainer", batches: Mapping[str, Sequence[Batch]]) -> Recall:
    """Samples for a step; the memory stays as it is."""
    memory, retrieval, edit = trainer.memory, trainer.retrieval, trainer.edit
    if memory is None or len(memory) == 0:
        return Recall()
    count, draws = trainer.memory_batch * trainer.accumulate, trainer._retrieval
    incoming = Incoming(trainer.model, batches)
    if memory.names and all(map(trainer.model.settled, memory.names)):  # nothing is left that these samples could teach
        return Recall()
    looks_ahead = retrieval is not None or isinstance(edit, BeforeUpdate)
    with evaluation_mode(trainer.model) if looks_ahead else nullcontext():  # once for all who look
        at_random = memory.sample if trainer.memory_tasks == "one" else memory.sample_each
        found = at_random(count, draws) if retrieval is None else retrieval(memory, incoming, count, draws)
        recalled = _unsettled(trainer.model, found, trainer.memory_batch)
        replays = trainer.loss_terms.replays
        drawn = at_random(count, draws) if replays is not None and replays.own_draw else None
        seen = incoming.seen(found) if recalled is found and drawn is None else None
        if not isinstance(edit, BeforeUpdate) or recalled is None:
            return Recall(recalled, drawn, seen=seen)
        chosen = recalled if edit.samples == "recalled" else memory.sample(count, draws)
        ahead = incoming.gradient if edit.direction == "incoming" else incoming.gradient_on(memory.sample(count, draws))
        losses = StoredLosses(trainer.model, chosen, incoming.dense)
        edited = _edit(edit.edit, losses, incoming.parameters, ahead)
    if edit.samples == "recalled":
        return Recall(replace(recalled, x=edited.after), drawn, edited)
    return Recall(recalled, drawn, edited, seen)


def _unsettled(model: ContinualModel, batch: MemoryBatch, size: int) -> MemoryBatch | None:
    """The samples of tasks that still learn; None if there are none. In parts of ``size`` none of them is left alone,
    as BatchNorm refuses a single sample."""
    settled = [i for i, name in enumerate(batch.names) if model.settled(name)]
    if not settled:
        return batch
    rows = torch.isin(batch.task, torch.tensor(settled, device=batch.task.device), invert=True).nonzero()[:, 0]
    rows = rows[: len(rows) - (len(rows) % size == 1)]
    return batch.take(rows) if len(rows) else None


def edit_after(trainer: "Trainer", recalled: MemoryBatch | None, direction: Sequence[Tensor | None]) -> Edited | None:
    """What an edit that acts after the update makes of the samples that the step has trained on."""
    if recalled is None or trainer.edit is None or isinstance(trainer.edit, BeforeUpdate):
        return None
    losses = StoredLosses(trainer.model, recalled, trainer.model.dense())
    return _edit(trainer.edit, losses, trainer._parameters()[0], direction)


def store(trainer: "Trainer", edited: Edited | None) -> Tensor | None:
    """Write edited samples into the memory; by how much they changed, mean and absolute, or None."""
    if edited is None or trainer.memory is None:
        return None
    after = edited.after
    if trainer._guard.bad is not None:
        after = torch.where(trainer._guard.bad > 0, edited.before, after)
    trainer.memory.replace(edited.index, after)
    return (after - edited.before).abs().mean()


def _edit(
    edit: Edit, losses: StoredLosses, shared: Sequence[nn.Parameter], direction: Sequence[Tensor | None]
) -> Edited:
    batch = losses.batch
    return Edited(batch.index, batch.x, edit(losses.model, losses, batch.x, shared, direction))
