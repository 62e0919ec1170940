"""Stored samples for the report: as they came, as edits have made them, and where the next edit would act."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pcl.memory.base import Memory
from pcl.memory.before_update import BeforeUpdate
from pcl.memory.gradient_edit import GradientEdit
from pcl.memory.stored_losses import StoredLosses
from pcl.models.modes import evaluation_mode

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer

FILE = "memory_edits.npz"
SHOWN = 24


def write_edits(trainer: "Trainer", folder: Path) -> None:
    """Write :data:`FILE`: at most :data:`SHOWN` stored samples, evenly spread over the memory; nothing where none are
    edited or their originals are not kept.

    Arrays ``before``, ``after`` ``(n, ...)``, ``y`` ``(n,)`` and names ``task`` ``(n,)``; with a gradient-guided edit
    also ``gradient`` ``(n, ...)``, see :func:`edit_gradient`.
    """
    memory, edit = trainer.memory, trainer.edit
    if memory is None or edit is None or not memory.keep_original or len(memory) == 0:
        return
    rows = _spread(memory, SHOWN)
    found = {"before": memory.original[rows], "after": memory.x[rows], "y": memory.y[rows]}
    inner = edit.edit if isinstance(edit, BeforeUpdate) else edit
    if isinstance(inner, GradientEdit):
        found["gradient"] = edit_gradient(trainer, memory, inner, rows)
    arrays: dict[str, Any] = {name: part.cpu().numpy() for name, part in found.items()}
    names = np.array([memory.names[i] for i in memory.task[rows].tolist()])
    np.savez_compressed(folder / FILE, task=names, **arrays)


def edit_gradient(trainer: "Trainer", memory: Memory, edit: GradientEdit, rows: Tensor) -> Tensor:
    """grad_x |g(x) - d|^2 of Eq. 12 at the stored samples ``rows`` ``(n, ...)``, as they and the model are now (Lyu et
    al., arXiv 2401.01054, Fig. 6).

    d is the gradient of the mean loss over a batch of stored samples, evenly spread: where rehearsal alone would go
    next. That of the last step is no part of a checkpoint, so that a resumed run would show another picture.
    """
    shared = trainer._parameters()[0]
    batch = memory.take(_spread(memory, trainer.memory_batch))
    with evaluation_mode(trainer.model):
        loss = trainer.model.mixed_losses(batch.x, batch.y, batch.task, batch.names).mean()
        direction = torch.autograd.grad(loss, shared, allow_unused=True)
    shown = memory.take(rows)

    losses = StoredLosses(trainer.model, shown, trainer.model.dense())
    return edit.gradient(trainer.model, losses, shown.x, shared, direction)


def _spread(memory: Memory, most: int) -> Tensor:
    return torch.linspace(0, len(memory) - 1, min(most, len(memory))).round().long()
