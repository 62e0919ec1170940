"""A scenario: a data set cut into task streams on a timeline, exactly repeatable."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pcl.data.batches import Batches
from pcl.data.images import ImageData
from pcl.randomness import generator
from pcl.streams.cuts import Cut
from pcl.streams.stream import Stream
from pcl.streams.task import Task
from pcl.streams.timeline import Timeline, TimelineKind


@dataclass(frozen=True)
class Scenario:
    """Tasks with their classes, their share of the data and their time.

    Label sets, timelines and run seeds are independent axes: ``build`` takes a number for each of the first two,
    :meth:`streams` takes the third, which orders the samples. ``print`` shows the tasks,
    :func:`pcl.report.scenario.draw` draws them, :func:`pcl.scenario_files.write_scenario` writes them into a file.

    Attributes:
        name: what it is called.
        data: the image set.
        tasks: in the order of their starts.
        timeline: when every task runs.
        batch_size, epochs: as the timeline was made for.
    """

    name: str
    data: ImageData
    tasks: tuple[Task, ...]
    timeline: Timeline
    batch_size: int
    epochs: int

    @classmethod
    def build(
        cls,
        name: str,
        data: ImageData,
        cut: Cut,
        *,
        batch_size: int,
        epochs: int = 1,
        label_set: int = 0,
        timeline: TimelineKind | Sequence[int] = "random",
        timeline_number: int = 0,
    ) -> "Scenario":
        """Cut the data, with the draws of number ``label_set``, and draw timeline number ``timeline_number`` for that.

        For example Split-MNIST, and two tasks of one's own, the second of turned images::

            pcl.Scenario.build("split", data, pcl.cuts.Split(5), batch_size=10, timeline="serial")
            parts = [pcl.cuts.Part([0, 1, 2]), pcl.cuts.Part([2, 3], transform=pcl.cuts.Rotate(90.0), images=500)]
            pcl.Scenario.build("mine", data, pcl.cuts.Listed(parts), batch_size=10, timeline=[0, 20])

        Args:
            cut: makes the tasks; see :mod:`pcl.cuts`.
            timeline: a kind, or the first step of every task.

        Raises:
            ValueError: if the data cannot be cut so, for an unknown kind of timeline or a given one that breaks the
                rules, a count below 1, or a class without samples.
        """
        if batch_size < 1 or epochs < 1:
            raise ValueError(f"scenario: expected batch_size >= 1 and epochs >= 1, got {batch_size} and {epochs}")
        tasks = cut(data, generator(label_set, "label sets", name))
        lengths = [epochs * -(-len(task.rows) // batch_size) for task in tasks]
        times = Timeline.make(timeline, lengths, generator(timeline_number, "timeline", name, label_set))
        return cls(name, data, tuple(tasks), times, batch_size, epochs)

    def streams(self, seed: int, parts: int = 1) -> list[Stream]:
        """The streams of a run.

        Args:
            seed: orders the samples within each.
            parts: give every batch in so many of equal size, for ``Trainer(accumulate=parts)``.

        Raises:
            ValueError: if the batch size is no multiple of ``parts``.
        """
        return [
            Stream(
                task.name,
                Batches(*task.train(self.data), part_of(self.batch_size, parts), seed=seed, name=task.name),
                task.classes,
                start=start,
                epochs=self.epochs,
                test=task.test(self.data),
            )
            for task, start in zip(self.tasks, self.timeline.starts, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """Plain values that say what the scenario is, with a fingerprint over these, all the data and its division."""
        times = zip(self.tasks, self.timeline.starts, self.timeline.ends, strict=True)
        return with_fingerprint(
            {
                "name": self.name,
                "batch_size": self.batch_size,
                "epochs": self.epochs,
                "data": self.data.fingerprint,
                "tasks": [{**task.describe(self.data), "start": start, "end": end} for task, start, end in times],
            },
            self.tasks,
        )

    def __str__(self) -> str:
        return as_text(self.describe())


def part_of(batch_size: int, parts: int) -> int:
    """The batch size in so many equal parts.

    Raises:
        ValueError: if it is no multiple.
    """
    if batch_size % parts:
        raise ValueError(f"accumulate: expected a divisor of batch_size {batch_size}, got {parts}")
    return batch_size // parts


def with_fingerprint(description: dict[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
    """The description and, as ``fingerprint``, 16 hex digits of SHA-256 over it and the rows of all tasks."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for rows in (rows for task in tasks for rows in (task.rows, task.test_rows)):
        digest.update(torch.tensor(len(rows)).numpy().tobytes() + rows.contiguous().numpy().tobytes())
    return {**description, "fingerprint": digest.hexdigest()[:16]}


def as_text(description: Mapping[str, Any]) -> str:
    """A description in lines for people."""
    head = f"{description['name']}, batches of {description['batch_size']}, {description['epochs']} epoch(s)"
    lines = [f"{head}, fingerprint {description['fingerprint']}"]
    for task in description["tasks"]:
        change = "".join(f", {name} {value:g}" for name, value in task.get("transform", {}).items())
        lines.append(
            f"  {task['task']}: steps {task['start']} to {task['end']}, {task['samples']} images of "
            f"{_short(task['class_names'])}{change}"
        )
    return "\n".join(lines)


def _short(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{len(names)} classes ({', '.join(names[:3])}, ...)"
