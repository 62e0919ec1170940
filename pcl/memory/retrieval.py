"""Which of the stored samples come back: at random, evenly over tasks or classes, or those that would suffer most."""

from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from pcl.devices import to_device
from pcl.memory.base import Memory, MemoryBatch, Table, distinct
from pcl.memory.incoming import Incoming
from pcl.memory.stored_losses import StoredLosses
from pcl.models.modes import evaluation_mode


class Retrieval(Protocol):
    """Chooses the memory samples of a step. Parameters, layer statistics and torch's generators end as they began."""

    def __call__(self, memory: Memory, incoming: Incoming, count: int, draws: torch.Generator) -> MemoryBatch:
        """``count`` different samples, or all of them where fewer are stored.

        Args:
            memory: not empty.
            incoming: the batches of the step, with the model.
            draws: the one source of randomness.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """What must be the same in a run that goes on from a checkpoint, as plain values."""
        ...


class MIR:
    """Maximally interfered retrieval: of some drawn samples those whose loss would rise most (Aljundi et al., *Online
    Continual Learning with Maximally Interfered Retrieval*, NeurIPS 2019).

    ``candidates`` samples are drawn at random; those with the largest l(x; theta') - l(x; theta) come back, theta' =
    theta - lr * u being where plain gradient descent on the step's batches alone would lead, with u of
    :attr:`pcl.memory.incoming.Incoming.gradient`. Samples whose losses rise alike come in the order of the draw. While
    no more than ``count`` are stored all come back, unranked.

    Candidates of the tasks in training, which streams without tasks cannot tell from others, are drawn too. With
    ``finished_only`` they are left out, as in the released code; while nothing else is stored, samples come back at
    random. That costs O(n log n) for n stored samples.

    Args:
        candidates: how many are drawn.
        lr: learning rate of the step ahead.
        finished_only: whether candidates are of tasks alone that do not take part in the step.

    Raises:
        ValueError: for candidates < 1 or lr <= 0, and in a step that wants more samples than there are candidates.
        TypeError: in a step, for a memory that does not know its samples by task, where ``finished_only`` asks.
    """

    def __init__(self, candidates: int = 50, *, lr: float, finished_only: bool = False) -> None:
        if candidates < 1 or not lr > 0:
            raise ValueError(f"MIR: expected candidates >= 1 and lr > 0, got {candidates} and {lr}")
        self.candidates = candidates
        self.lr = lr
        self.finished_only = finished_only

    def __call__(self, memory: Memory, incoming: Incoming, count: int, draws: torch.Generator) -> MemoryBatch:
        """See :class:`Retrieval`."""
        if count > self.candidates:
            raise ValueError(
                f"MIR: {count} samples are to be chosen from {self.candidates} candidates; take more candidates, "
                "several times as many, or a smaller memory_batch"
            )
        rows = _finished(memory, incoming) if self.finished_only else None
        if rows is not None and len(rows) == 0:
            return memory.sample(count, draws)
        at = None if rows is None else rows[distinct(self.candidates, len(rows), draws)]
        drawn = memory.sample(self.candidates, draws) if at is None else memory.take(at)
        if len(drawn.y) <= count:
            return drawn
        rise = self.rise(drawn, incoming)
        return drawn.take(rise.argsort(descending=True, stable=True)[:count])

    def rise(self, drawn: MemoryBatch, incoming: Incoming) -> Tensor:
        """l(x; theta') - l(x; theta) of every sample, ``(B,)``."""
        with evaluation_mode(incoming.model):
            now, losses = incoming.losses_of(drawn), StoredLosses(incoming.model, drawn, incoming.dense)
            with losses.ahead(incoming.parameters, incoming.gradient, self.lr) as later:
                return later.values() - now

    def settings(self) -> dict[str, Any]:
        """See :class:`Retrieval`."""
        return {
            "kind": "MIR",
            "candidates": self.candidates,
            "lr": self.lr,
            "finished_only": self.finished_only,
        }


def _finished(memory: Memory, incoming: Incoming) -> Tensor:
    """The rows ``(m,)`` on the CPU of tasks that do not take part in the step."""
    if not isinstance(memory, Table):
        raise TypeError(
            f"MIR: finished_only needs a memory that knows its samples by task, such as ReservoirMemory; "
            f"{type(memory).__name__} does not derive from pcl.memory.base.Table"
        )
    rows = [part for task, part in memory.rows_by_task() if memory.names[task] not in incoming.batches]
    return torch.cat(rows).sort().values if rows else torch.empty(0, dtype=torch.int64)


Group = Literal["task", "class"]


class Balanced:
    """As many samples of every task, or class, as of every other, as far as those stored of each last.

    Where the groups cannot be equal they differ by one, in favour of groups drawn anew each time. Costs O(n log n) for
    n stored samples.

    Args:
        over: ``"task"`` or ``"class"``.

    Raises:
        ValueError: for an unknown group.
    """

    def __init__(self, over: Group) -> None:
        if over not in get_args(Group):
            raise ValueError(f"Balanced: expected 'task' or 'class', got {over!r}")
        self.over = over

    def __call__(self, memory: Memory, incoming: Incoming, count: int, draws: torch.Generator) -> MemoryBatch:
        """See :class:`Retrieval`."""
        groups = memory.task if self.over == "task" else memory.y
        shuffled = to_device(torch.randperm(len(memory), generator=draws), groups.device)
        return memory.take(shuffled[rank_in_group(groups[shuffled]).argsort(stable=True)[:count]])

    def settings(self) -> dict[str, Any]:
        """See :class:`Retrieval`."""
        return {"kind": "Balanced", "over": self.over}


def rank_in_group(groups: Tensor) -> Tensor:
    """How many equal numbers stand before each, ``(n,)``: [3, 5, 3, 3, 5] gives [0, 0, 1, 2, 1]."""
    by_group = groups.argsort(stable=True)
    inorder = groups[by_group]
    place = torch.arange(len(groups), device=groups.device)
    first = torch.searchsorted(inorder, inorder)  # where each one's group begins
    return torch.empty_like(place).index_copy_(0, by_group, place - first)
