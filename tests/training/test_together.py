"""One head and one cross-entropy for all samples of a step, beside those of every task."""

from collections import Counter
from typing import Any

import pytest
import torch
from training_cases import blobs, trainer

from pcl import MAS, Fixed, LwF, ReservoirMemory, Stream, Trainer
from pcl.training.losses import StepLosses


def three_steps(sizes: tuple[int, int], setting: str, **arguments: Any) -> Trainer:
    """Two tasks with classes in common, with weights that are not 1, and memory."""
    t = trainer(
        setting=setting, weighting=Fixed({"a": 2.0, "b": 0.5}), memory_batch=4,
        memory=ReservoirMemory(12, logits=True), **arguments,
    )  # fmt: skip
    t.model.double()
    for (task, classes), size in zip((("a", [3, 1]), ("b", [1, 5, 4])), sizes, strict=True):
        x, y = blobs(classes, 40)
        t.add(Stream(task, list(zip(x.double().split(size), y.split(size), strict=True)), classes))
    t.fit(3)
    return t


@pytest.mark.parametrize("sizes", [(4, 4), (5, 2)])
@pytest.mark.parametrize("over", ["backbone", "all"])
def test_a_shared_classifier_runs_once_and_gives_the_same(
    sizes: tuple[int, int], over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Counter[int] = Counter()
    together = StepLosses._together
    monkeypatch.setattr(StepLosses, "_together", lambda self, f: (made.update([len(f)]), together(self, f))[1])
    one = three_steps(sizes, "class", gradients_over=over)
    assert made[sum(sizes) + 4] == 2  # the first step has no memory, and one task has other sizes
    made.clear()
    each = three_steps(sizes, "class", gradients_over=over, loss_terms=[LwF(1.0)])  # it has nothing to add yet
    assert not made
    pairs = zip(one.model.parameters(), each.model.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in pairs)
    assert one.memory is not None
    assert each.memory is not None
    assert torch.equal(one.memory.y, each.memory.y)
    stored = [m.state_dict()["logits"] for m in (one.memory, each.memory)]
    assert torch.allclose(*stored, rtol=1e-12, atol=1e-14, equal_nan=True)


def test_penalties_of_parameters_do_not_stand_in_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    together = StepLosses._together
    monkeypatch.setattr(StepLosses, "_together", lambda self, f: (made.append(len(f)), together(self, f))[1])
    three_steps((4, 4), "class", loss_terms=[MAS(1.0)])
    assert made


def test_heads_of_single_tasks_run_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepLosses, "_together", None)
    three_steps((4, 4), "task")
