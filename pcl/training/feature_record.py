"""Features of test samples and of stored ones, when their task ended and at the end of the run, for the report."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from pcl.memory.generative import GenerativeMemory
from pcl.training.checkpoint import write_atomically
from pcl.training.evaluation import features

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer

FOLDER = "features"
When = Literal["early", "late"]


class FeatureRecorder:
    """Callback: ``features/<number of the task>-early.npz`` in the run's folder whenever a task ends.

    :meth:`finish` writes the ``-late`` ones. Each file holds the name ``task``; ``x`` ``(n, features)`` float16 and
    ``y`` ``(n,)`` of test samples, the same in both files; ``stored`` ``(m, features)`` and ``stored_y`` ``(m,)`` of
    what the memory holds of the task. Features are divided by the largest of their file, so that float16 can hold
    them. A run that is resumed leaves the same files as one that was never interrupted.

    Args:
        folder: the run's folder.
        samples: n, at most, but one of every class at least; and m at most.
    """

    def __init__(self, folder: Path, samples: int) -> None:
        self.folder = folder / FOLDER
        self.samples = samples

    def on_task_end(self, trainer: "Trainer", task: str) -> None:
        self._write(trainer, task, "early")

    def finish(self, trainer: "Trainer") -> None:
        """Write what the tasks have become; the run is over."""
        for task in trainer.ended_at:
            self._write(trainer, task, "late")

    def _write(self, trainer: "Trainer", task: str, when: When) -> None:
        test = trainer.streams[task].test
        if test is None:
            return
        x, y = (part[_of_every_class(test[1], self.samples)] for part in test)
        stored, stored_y = _stored(trainer, task, self.samples)
        found = features(trainer.model, x, task=task).float()
        if len(stored):
            found = torch.cat([found, features(trainer.model, stored, task=task).float()])
        small = (found / found.abs().max().clamp(min=torch.finfo(torch.float32).tiny)).to(torch.float16).numpy()
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, task=np.array(task), x=small[: len(y)], y=y.cpu().numpy(), stored=small[len(y) :],
            stored_y=stored_y.cpu().numpy(),
        )  # fmt: skip
        self.folder.mkdir(exist_ok=True)
        number = list(trainer.streams).index(task)
        write_atomically(self.folder / f"{number:03d}-{when}.npz", buffer.getvalue())


def _of_every_class(y: Tensor, most: int) -> Tensor:
    """Rows of the first samples of every class, equally many of each where there are so many."""
    classes = y.unique()
    each = max(1, most // len(classes))
    return torch.cat([(y == c).nonzero()[:each, 0] for c in classes])


def _stored(trainer: "Trainer", task: str, most: int) -> tuple[Tensor, Tensor]:
    """x, y of what the memory holds of the task."""
    memory = trainer.memory
    if memory is None or isinstance(memory, GenerativeMemory) or task not in memory.names:  # it makes samples up
        return torch.empty(0), torch.empty(0, dtype=torch.int64)
    found = memory.take((memory.task == memory.names.index(task)).nonzero()[:most, 0])
    return found.x, found.y
