"""A scenario: a data set cut into task streams on a timeline, exactly repeatable."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pcl.data.batches import Batches
from pcl.data.images import ImageData
from pcl.randomness import generator
from pcl.streams.label_sets import draw_label_sets
from pcl.streams.stream import Stream
from pcl.streams.timeline import Timeline

TimelineKind = Literal["random", "serial", "together"]


@dataclass(frozen=True)
class Scenario:
    """Tasks with their classes, their share of the data and their time.

    Label sets, timelines and run seeds are independent axes: ``build`` takes a number for each of the first two,
    :meth:`streams` takes the third, which orders the samples.

    Attributes:
        name: what it is called.
        data: the image set.
        label_sets: the classes of every task.
        rows: the training rows of every task; no row belongs to two tasks.
        timeline: when every task runs.
        batch_size, epochs: as the timeline was made for.
    """

    name: str
    data: ImageData
    label_sets: tuple[tuple[int, ...], ...]
    rows: tuple[Tensor, ...]
    timeline: Timeline
    batch_size: int
    epochs: int

    @classmethod
    def build(
        cls,
        name: str,
        data: ImageData,
        *,
        tasks: int,
        low: int,
        high: int,
        overlap: bool,
        batch_size: int,
        epochs: int = 1,
        label_set: int = 0,
        timeline: TimelineKind | Sequence[int] = "random",
        timeline_number: int = 0,
    ) -> "Scenario":
        """Draw label set number ``label_set`` and, for it, timeline number ``timeline_number``.

        The training samples of a class that several tasks share are divided evenly between them.

        Args:
            timeline: a kind, or the first step of every task.

        Raises:
            ValueError: for impossible label sets, an unknown kind of timeline or a given one that breaks the rules,
                a count below 1, or a class without samples.
        """
        if batch_size < 1 or epochs < 1:
            raise ValueError(f"scenario: expected batch_size >= 1 and epochs >= 1, got {batch_size} and {epochs}")
        draws = generator(label_set, "label sets", name)
        label_sets = draw_label_sets(len(data.classes), tasks, low, high, draws, overlap=overlap)
        for part, labels in (("training", data.y_train), ("test", data.y_test)):
            absent = sorted({c for classes in label_sets for c in classes} - set(labels.unique().tolist()))
            if absent:
                raise ValueError(
                    f"scenario {name!r}: the {part} data has no sample of {[data.classes[c] for c in absent]}"
                )
        rows = _divide(data.y_train, label_sets, draws)
        few = [t + 1 for t, of_task in enumerate(rows) if len(of_task) == 0]
        if few:
            raise ValueError(f"scenario {name!r}: too few training samples, none is left for the tasks {few}")
        lengths = [epochs * -(-len(of_task) // batch_size) for of_task in rows]
        if timeline == "random":
            times = Timeline.draw(lengths, generator(timeline_number, "timeline", name, label_set))
        elif timeline == "serial":
            times = Timeline.serial(lengths)
        elif timeline == "together":
            times = Timeline.together(lengths)
        elif isinstance(timeline, str):
            raise ValueError(f"timeline: expected 'random', 'serial' or 'together', got {timeline!r}")
        else:
            if len(timeline) != tasks:
                raise ValueError(f"timeline: expected the starts of {tasks} tasks, got {list(timeline)}")
            times = Timeline.from_starts(timeline, lengths)
        return cls(name, data, tuple(map(tuple, label_sets)), tuple(rows), times, batch_size, epochs)

    def streams(self, seed: int, parts: int = 1) -> list[Stream]:
        """The streams of a run.

        Args:
            seed: orders the samples within each.
            parts: give every batch in so many of equal size, for ``Trainer(accumulate=parts)``.

        Raises:
            ValueError: if the batch size is no multiple of ``parts``.
        """
        if self.batch_size % parts:
            raise ValueError(f"accumulate: expected a divisor of batch_size {self.batch_size}, got {parts}")
        return [
            Stream(
                f"task-{t + 1}",
                Batches(
                    self.data.x_train[rows],
                    self.data.y_train[rows],
                    self.batch_size // parts,
                    seed=seed,
                    name=f"task-{t + 1}",
                ),
                classes,
                start=self.timeline.starts[t],
                epochs=self.epochs,
                test=_of_classes(self.data, classes),
            )
            for t, (classes, rows) in enumerate(zip(self.label_sets, self.rows, strict=True))
        ]

    def describe(self) -> dict[str, Any]:
        """Plain values that say what the scenario is, with a fingerprint over these and all the data."""
        tasks = [
            {
                "task": f"task-{t + 1}",
                "classes": list(classes),
                "class_names": [self.data.classes[c] for c in classes],
                "start": self.timeline.starts[t],
                "end": self.timeline.ends[t],
                "samples": len(self.rows[t]),
            }
            for t, classes in enumerate(self.label_sets)
        ]
        description: dict[str, Any] = {
            "name": self.name,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "data": self.data.fingerprint,
            "tasks": tasks,
        }
        text = json.dumps([description, [rows.tolist() for rows in self.rows]], sort_keys=True)
        description["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return description


def _divide(labels: Tensor, label_sets: list[list[int]], draws: torch.Generator) -> list[Tensor]:
    """Training rows of every task; the rows of a class are shared out among the tasks that have it."""
    parts: list[list[Tensor]] = [[] for _ in label_sets]
    for c in sorted({c for classes in label_sets for c in classes}):
        rows = torch.nonzero(labels == c)[:, 0]
        rows = rows[torch.randperm(len(rows), generator=draws)]
        holders = [t for t, classes in enumerate(label_sets) if c in classes]
        for t, share in zip(holders, rows.tensor_split(len(holders)), strict=True):
            parts[t].append(share)
    return [torch.cat(of_task).sort().values for of_task in parts]


def _of_classes(data: ImageData, classes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    keep = torch.isin(data.y_test, torch.tensor(classes))
    return data.x_test[keep], data.y_test[keep]
