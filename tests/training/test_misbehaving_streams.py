"""Streams as the world has them: late, stalled, bursty, out of order, dry, imbalanced; what is promised holds."""

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from training_cases import blobs, everything, same, stream, trainer

from pcl import MEMORY, Batches, ClassMemory, Stream, Sum, Trainer
from pcl.streams.stream import Batch


class Log:
    def __init__(self) -> None:
        self.tasks: list[tuple[str, ...]] = []
        self.samples: list[int] = []

    def on_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        self.tasks.append(tuple(record["tasks"]))
        self.samples.append(record["samples"])


def test_a_late_stream_takes_part_from_the_next_step_with_all_its_batches() -> None:
    log = Log()
    t = trainer(stream("a", [0, 1], 40), callbacks=[log])
    t.fit(steps=6)
    t.add(stream("late", [2, 3], 24, start=2))  # its start has passed
    t.fit()
    assert [("late" in tasks) for tasks in log.tasks[:12]] == [False] * 6 + [True] * 6
    assert t.ended_at["late"] == 11


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_stalled_stream_waits_while_paused_and_then_loses_nothing(prefetch: int) -> None:
    """While it is paused its source is not asked; the others go on as if it were not there."""
    free = threading.Event()
    x, y = blobs([2, 3], 24)

    def source() -> Iterator[Batch]:
        for i, batch in enumerate(Batches(x, y, 4, name="slow")):
            if i == 2:
                assert free.wait(10)
            yield batch

    log = Log()
    t = trainer(
        stream("a", [0, 1], 40), Stream("slow", source(), [2, 3], test=(x, y), prefetch=prefetch), callbacks=[log]
    )
    t.fit(steps=2)
    t.streams["slow"].pause()
    t.fit(steps=5)
    assert log.tasks == [("a", "slow")] * 2 + [("a",)] * 5
    free.set()
    t.streams["slow"].resume()
    t.fit()
    assert sum("slow" in tasks for tasks in log.tasks) == 6
    assert t.memory is not None
    assert len(t.memory) == 3 * 4


def test_bursts_are_used_as_they_come_and_every_task_counts_by_its_mean() -> None:
    sizes = [1, 64, 2, 31, 1]
    x, y = blobs([2, 3], sum(sizes))
    bursts = list(zip(x.split(sizes), y.split(sizes), strict=True))
    log = Log()
    t = trainer(stream("a", [0, 1], 20), Stream("bursty", bursts, [2, 3]), callbacks=[log], memory=None)
    t.fit()
    assert log.samples == [4 + size for size in sizes]

    def head_after(burst: Batch) -> torch.Tensor:
        one = trainer(Stream("b", [burst], [2, 3]), memory=None, weighting=Sum())
        one.step()
        return torch.cat([p.detach().flatten() for p in one.model.parameters()])

    few, many = (bursts[1][0][:2], bursts[1][1][:2]), (bursts[1][0][:2].repeat(50, 1), bursts[1][1][:2].repeat(50))
    assert torch.allclose(head_after(few), head_after(many), atol=1e-6)


def test_streams_may_be_added_in_any_order_of_their_starts() -> None:
    def make(task: str) -> Stream:
        return stream(task, {"a": [0, 1], "b": [2, 3], "c": [4, 5]}[task], 16, start={"a": 0, "b": 2, "c": 3}[task])

    logs = [Log(), Log()]
    runs = [trainer(*map(make, order), callbacks=[log]) for order, log in zip(("abc", "cba"), logs, strict=True)]
    for run in runs:
        run.fit()
    assert [set(tasks) for tasks in logs[0].tasks] == [set(tasks) for tasks in logs[1].tasks]
    assert runs[0].ended_at == runs[1].ended_at
    assert all(run.model.tasks == ("a", "b", "c") for run in runs)


def test_samples_may_come_sorted_by_class_and_are_all_stored_from() -> None:
    """The memory of a task has every class alike, whatever the order of the stream."""
    x, y = blobs([0, 1, 2], 60)
    order = y.argsort()
    t = trainer(Stream("sorted", Batches(x[order], y[order], 4, order=lambda _: torch.arange(60)), [0, 1, 2]))
    t.fit()
    assert t.memory is not None
    assert Counter(t.memory.y.tolist()) == {0: 3, 1: 3, 2: 3}


def test_a_stream_that_runs_dry_early_ends_and_is_rehearsed() -> None:
    """Its end was planned for later; what it gave until then is in memory."""
    log = Log()
    t = trainer(stream("a", [0, 1], 8, end=100), stream("b", [2, 3], 24), callbacks=[log])
    t.fit()
    assert t.ended_at == {"a": 1, "b": 5}
    assert [tasks[-1] == MEMORY for tasks in log.tasks] == [False] * 2 + [True] * 4


def test_a_gap_is_an_error_that_can_be_got_over() -> None:
    t = trainer(stream("a", [0, 1], 8), stream("b", [2, 3], 8, start=5))
    with pytest.raises(RuntimeError, match="a gap in the timeline: no stream is active at step 2"):
        t.fit()
    t.add(stream("c", [4, 5], 12))
    t.fit()
    assert t.ended_at == {"a": 1, "c": 4, "b": 6}


def test_imbalanced_streams_and_classes_keep_their_place_in_memory() -> None:
    """One task has forty times the batches of the other, and one of its classes nine in ten samples."""
    x, y = blobs([0] * 9 + [1], 480)
    t = trainer(
        Stream("large", Batches(x, y, 4, name="large"), [0, 1]), stream("small", [2, 3], 12), memory=ClassMemory(3)
    )
    t.fit()
    assert t.memory is not None
    assert Counter(t.memory.y.tolist()) == {0: 3, 1: 3, 2: 3, 3: 3}


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_source_that_fails_changes_nothing_and_the_others_can_go_on(prefetch: int) -> None:
    x, y = blobs([2, 3], 24)

    def source() -> Iterator[Batch]:
        yield x[:4], y[:4]
        raise OSError("the disk is gone")

    log = Log()
    t = trainer(stream("a", [0, 1], 24), Stream("bad", source(), [2, 3], prefetch=prefetch), callbacks=[log])
    t.fit(steps=1)
    before = everything(t)
    with pytest.raises(OSError, match="the disk is gone"):
        t.fit()
    assert same(everything(t), before)
    t.streams["bad"].end()
    t.fit()
    assert [tasks[0] for tasks in log.tasks] == ["a"] * 6
    assert all(("bad" in tasks) == (i == 0) for i, tasks in enumerate(log.tasks))


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_run_with_prefetch_resumes_to_the_same_bits(stop: int) -> None:
    def fresh(prefetch: int) -> Trainer:
        return trainer(*(stream(task, c, 24, prefetch=prefetch) for task, c in (("a", [0, 1]), ("b", [2, 3]))))

    whole, stopped, resumed = fresh(0), fresh(2), fresh(2)
    whole.fit()
    stopped.fit(steps=stop)
    resumed.load_state_dict(everything(stopped))
    resumed.fit()
    assert same(everything(resumed), everything(whole))
