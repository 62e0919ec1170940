"""What is left of a draw from the memory beside a model whose finished tasks no longer learn."""

import torch
from growth_cases import three, trainer

from pcl import ReservoirMemory, is_memory
from pcl.memory.base import MemoryBatch
from pcl.training.rehearsal import _unsettled
from tests.models.growing_cases import CLASSES, growing


def drawn(*task: int) -> MemoryBatch:
    rows = torch.tensor(task)
    return MemoryBatch(torch.rand(len(task), 1, 6, 6), 2 * rows, rows, ("a", "b"), torch.arange(len(task)))


def test_finished_tasks_are_left_out_and_no_sample_is_alone() -> None:
    model = growing("conv")
    for task in ("a", "b"):
        model.add_task(task, CLASSES[task])
    assert _unsettled(model, drawn(0, 1, 0), 3) is not None  # none has ended
    model.task_ended("a")
    found = _unsettled(model, drawn(1, 0, 1), 3)
    assert found is not None
    assert found.index.tolist() == [0, 2]
    assert _unsettled(model, drawn(0, 0, 0), 3) is None
    assert _unsettled(model, drawn(0, 1, 0), 3) is None
    found = _unsettled(model, drawn(1, 1, 0, 1), 2)  # as where a step accumulates: two parts, of two and of one
    assert found is not None
    assert found.index.tolist() == [0, 1]
    assert _unsettled(model, drawn(1), 1) is not None  # as many as were asked for


def test_samples_of_finished_tasks_are_not_rehearsed() -> None:
    t, watch = trainer(*three(), memory=ReservoirMemory(30))
    t.fit()
    rehearsed = [record["step"] for record in watch.steps if any(map(is_memory, record["tasks"]))]
    assert 8 not in rehearsed  # a has ended, of b nothing is stored yet
    assert {3, 12} <= set(rehearsed)
