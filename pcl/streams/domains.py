"""Cuts by domain: every task has all classes, and images that are changed in a way of its own (domain-incremental).

In the class-incremental setting all tasks share one classifier, and nothing tells the domain of a test image: that is
domain-incremental learning as GMED has it. In the task-incremental setting every domain has a head of its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcl.data.images import ImageData
from pcl.data.transforms import Permute, Rotate, Transform
from pcl.streams.cuts import check_present, some
from pcl.streams.task import Task


@dataclass(frozen=True)
class Permuted:
    """The same images in every task, under another permutation of the pixels; the first task has them as they are.

    Permuted MNIST as GMED has it: 10 tasks, 950 training images, all test images in every task.

    Attributes:
        tasks: how many.
        images, test_images: how many are drawn, once, for all tasks; None for all.
    """

    tasks: int
    images: int | None = None
    test_images: int | None = None

    def __call__(self, data: ImageData, draws: torch.Generator) -> list[Task]:
        _check(self.tasks, data)
        numbers = torch.randint(2**31, (self.tasks,), generator=draws).tolist()
        rows = _drawn(data.y_train, self.images, draws)
        test_rows = _drawn(data.y_test, self.test_images, draws)
        transforms = [None, *map(Permute, numbers[1:])]
        return [_task(t, data, rows, test_rows, transform) for t, transform in enumerate(transforms, 1)]


@dataclass(frozen=True)
class Rotated:
    """Every task has images of its own draw, all turned by one angle; task t of T an angle between 180 (t - 1) / T and
    180 t / T degrees, drawn uniformly.

    Rotated MNIST as GMED has it: 20 tasks, 950 training and 1,000 test images in each. An image may be in several.

    Attributes:
        tasks: how many.
        images, test_images: how many are drawn for each task; None for all.
        degrees: in place of 180.
    """

    tasks: int
    images: int | None = None
    test_images: int | None = None
    degrees: float = 180.0

    def __call__(self, data: ImageData, draws: torch.Generator) -> list[Task]:
        _check(self.tasks, data)
        within = torch.rand(self.tasks, generator=draws, dtype=torch.float64)
        angles = ((torch.arange(self.tasks) + within) * self.degrees / self.tasks).tolist()
        return [
            _task(
                t, data, _drawn(data.y_train, self.images, draws), _drawn(data.y_test, self.test_images, draws),
                Rotate(angle),
            )
            for t, angle in enumerate(angles, 1)
        ]  # fmt: skip


def _check(tasks: int, data: ImageData) -> None:
    if tasks < 1:
        raise ValueError(f"scenario: expected at least 1 task, got {tasks}")
    check_present([range(len(data.classes))], data)


def _drawn(labels: Tensor, count: int | None, draws: torch.Generator) -> Tensor:
    rows = torch.arange(len(labels))
    return rows if count is None else some(rows, count, draws)


def _task(t: int, data: ImageData, rows: Tensor, test_rows: Tensor, transform: Transform | None) -> Task:
    return Task(f"task-{t}", tuple(range(len(data.classes))), rows, test_rows, transform)
