"""What one step computes on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from pcl.gradients.dense import SeenRows
from pcl.memory.base import MemoryBatch
from pcl.streams.stream import MEMORY, Batch, memory_of

MemoryTasks = Literal["one", "each"]
"""Whether the memory is one task or one for every task of which it holds something."""


@dataclass(frozen=True)
class StepData:
    """The batches of a step, on the model's device.

    Attributes:
        batches: for every active task one batch ``(x, y)``, or several that are worked off one after the other.
        recalled: samples from the memory, or None; with ``sizes`` every stored task is a stream of its own.
        memory_batch: how many of those are worked off at once.
        drawn: as many other samples from the memory, for a loss term that has a draw of its own, or None.
        faults: ``(2, k)`` bool, what is wrong with the tasks' batches as far as it could not be looked at; see
            :func:`pcl.training.intake.read_batches`. None if all was looked at.
        seen: all of the samples in an earlier pass of the step, or None.
    """

    batches: Mapping[str, Sequence[Batch]]
    recalled: MemoryBatch | None
    memory_batch: int
    faults: Tensor | None = None
    drawn: MemoryBatch | None = None
    seen: SeenRows | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The k tasks of the step; last, if memory takes part, MEMORY or "memory:<task>" of every stored task."""
        if self.recalled is None:
            return tuple(self.batches)
        if self.recalled.sizes is None:
            return (*self.batches, MEMORY)
        return (*self.batches, *(memory_of(task) for task, _, _ in self.recalled.blocks()))

    @property
    def samples(self) -> int:
        """Number of samples."""
        own = sum(y.shape[0] for batches in self.batches.values() for _, y in batches)
        return own + sum(some.y.shape[0] for some in (self.recalled, self.drawn) if some is not None)

    def tensors(self) -> list[Tensor]:
        """All tensors that the step reads, in a fixed order."""
        found = [part for batches in self.batches.values() for batch in batches for part in batch]
        for some in (self.recalled, self.drawn):
            if some is not None:
                found += [some.x, some.y, some.task, *([] if some.logits is None else [some.logits])]
        return found if self.faults is None else [*found, self.faults]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "StepData":
        """The same with other tensors, in the order of :meth:`tensors`."""
        rest: Iterator[Tensor] = iter(tensors)
        batches = {task: [(next(rest), next(rest)) for _ in some] for task, some in self.batches.items()}

        def moved(some: MemoryBatch | None) -> MemoryBatch | None:
            if some is None:
                return None
            x, y, task = next(rest), next(rest), next(rest)
            return replace(some, x=x, y=y, task=task, logits=None if some.logits is None else next(rest))

        recalled, drawn = moved(self.recalled), moved(self.drawn)
        return StepData(batches, recalled, self.memory_batch, None if self.faults is None else next(rest), drawn)
