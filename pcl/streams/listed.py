"""Tasks of one's own, one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pcl.data.images import ImageData
from pcl.data.transforms import Transform
from pcl.streams.cuts import check_present, divided, rows_of, some
from pcl.streams.task import Task


@dataclass(frozen=True)
class Part:
    """What one task shall have.

    Attributes:
        classes: by number, or by name.
        name: of the task; task-1, task-2, ... if None.
        images: training images at most, drawn among those it has; None for all.
        transform: what is done to its images; None for nothing.
    """

    classes: Sequence[int | str]
    name: str | None = None
    images: int | None = None
    transform: Transform | None = None


@dataclass(frozen=True)
class Listed:
    """A cut into tasks that are listed.

    Attributes:
        parts: one for every task.
        shared: tasks with a class in common all have all its training images; otherwise these are divided between them.
    """

    parts: Sequence[Part]
    shared: bool = False

    def __call__(self, data: ImageData, draws: torch.Generator) -> list[Task]:
        names = [part.name or f"task-{t}" for t, part in enumerate(self.parts, 1)]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"scenario: expected at least one task, no name twice, got {', '.join(names) or 'none'}")
        label_sets = [[_number(c, data) for c in part.classes] for part in self.parts]
        for name, classes in zip(names, label_sets, strict=True):
            if not classes or len(set(classes)) < len(classes):
                raise ValueError(f"scenario: task {name!r}: expected at least one class and none twice, got {classes}")
        check_present(label_sets, data)
        if self.shared:
            rows = [rows_of(data.y_train, classes) for classes in label_sets]
        else:
            rows = divided(data.y_train, label_sets, draws)
        return [
            Task(
                name,
                tuple(classes),
                of_task if part.images is None else some(of_task, part.images, draws),
                rows_of(data.y_test, classes),
                part.transform,
            )
            for name, part, classes, of_task in zip(names, self.parts, label_sets, rows, strict=True)
        ]


def _number(c: int | str, data: ImageData) -> int:
    if isinstance(c, int) and c >= 0:
        return c
    if c in data.classes:
        return data.classes.index(str(c))
    raise ValueError(f"scenario: the data has no class {c!r}; its classes are {', '.join(data.classes[:40])}")
