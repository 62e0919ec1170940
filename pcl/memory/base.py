"""What a memory is, and the table of samples that all of them are."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pcl.devices import to_device
from pcl.models.continual import ContinualModel


@dataclass(frozen=True)
class MemoryBatch:
    """Samples drawn from a memory.

    Attributes:
        x: ``(B, ...)``.
        y: ``(B,)`` class numbers.
        task: ``(B,)`` int64, index into ``names``.
        names: the tasks that may occur.
        index: ``(B,)`` int64, where the samples are stored.
        sizes: for a batch made of one block per task, in the order of ``names``, how many samples each block has.
        logits: ``(B, W)``, what the model said of the samples when they were stored, in the columns of their tasks; NaN
            in those that did not exist then. None where the memory keeps none.
    """

    x: Tensor
    y: Tensor
    task: Tensor
    names: tuple[str, ...]
    index: Tensor
    sizes: tuple[int, ...] | None = None
    logits: Tensor | None = None

    def blocks(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(task, x, y) of every block; only for a batch with ``sizes``."""
        assert self.sizes is not None
        return zip(self.names, self.x.split(self.sizes), self.y.split(self.sizes), strict=True)

    def take(self, rows: Tensor) -> "MemoryBatch":
        """Some of its samples, without blocks; rows ``(b,)`` int64 on the device of x."""
        x, y, task, index = (part.index_select(0, rows) for part in (self.x, self.y, self.task, self.index))
        logits = None if self.logits is None else self.logits.index_select(0, rows)
        return MemoryBatch(x, y, task, self.names, index, logits=logits)

    def with_rows(self, other: "MemoryBatch") -> "MemoryBatch":
        """With the samples of another draw from the same memory behind its own, without blocks."""
        names = ("x", "y", "task", "index", *(["logits"] if self.logits is not None else []))
        joined: dict[str, Any] = {n: torch.cat([getattr(self, n), getattr(other, n)]) for n in names}
        return replace(self, **joined, sizes=None)


@dataclass(frozen=True)
class Seen:
    """What a memory may know of a batch beside its samples.

    Attributes:
        model: after the update of the step that trained on the batch.
        logits: ``(B, columns)`` of the step's own forward pass, before its update, in the columns of the batch's task;
            only for a memory that keeps them.
    """

    model: ContinualModel
    logits: Tensor | None = None


class Memory(Protocol):
    """What the trainer asks of a memory. Nothing in it waits for a GPU but :meth:`commit` and :meth:`mean_drift`; nor
    does anything else, unless x is kept elsewhere than the rest, see :class:`pcl.ReservoirMemory`, or a memory says so.

    Attributes:
        names: the tasks of which something may be stored.
        x, y, task: what is stored: ``(n, ...)``, ``(n,)`` class numbers, ``(n,)`` indices into ``names``.
        original: the samples as they came ``(n, ...)``, where ``keep_original``.
        keep_logits: whether it stores what the model said of its samples; see :attr:`MemoryBatch.logits`.
    """

    keep_original: bool
    keep_logits: bool

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def x(self) -> Tensor: ...
    @property
    def y(self) -> Tensor: ...
    @property
    def task(self) -> Tensor: ...
    @property
    def original(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def observe(
        self, task: str, x: Tensor, y: Tensor, classes: Sequence[int], draws: torch.Generator, seen: Seen | None = None
    ) -> None:
        """A batch of a task has been trained on, for the first time; ``classes`` are those of the task."""

    def commit(self, task: str) -> None:
        """The task has ended."""

    def sample(self, count: int, draws: torch.Generator) -> MemoryBatch:
        """``count`` different samples, or all of them where fewer are stored."""

    def sample_each(self, count: int, draws: torch.Generator) -> MemoryBatch:
        """A block for every task of which something is stored; see :meth:`pcl.ClassMemory.sample_each`."""

    def take(self, index: Tensor) -> MemoryBatch:
        """The samples at ``index``."""

    def replace(self, index: Tensor, x: Tensor) -> None:
        """Store edited samples in place of those at ``index``; labels stay."""

    def mean_drift(self) -> float:
        """Mean of |x - original| over everything that is stored."""

    def settings(self) -> dict[str, Any]:
        """What must be the same in a run that goes on from a checkpoint, as plain values."""

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Take over a state on ``device``."""


@runtime_checkable
class MeetsModel(Protocol):
    """What a memory has that asks the model what to keep."""

    def meet(self, model: ContinualModel) -> None:
        """The model that will be trained; the memory sees it as it is whenever it looks."""


@runtime_checkable
class Prepares(Protocol):
    """What a memory has that may refuse samples, or needs room for them."""

    def prepare(self, task: str, x: Tensor, y: Tensor) -> None:
        """The first batch of a task is next to be trained on: refuse it now, or never."""


_AT_ONCE = 4096  # samples: a large memory has no room for copies of itself


class Table(ABC):
    """The rows of a memory, and what does not depend on how they were chosen: retrieval, edits, drift.

    Args:
        keep_original: keep every sample as it came beside the one that edits may change, at twice the room.
        keep_logits: keep what the model said of it too.
    """

    def __init__(self, keep_original: bool, keep_logits: bool = False) -> None:
        self.keep_original = keep_original
        self.keep_logits = keep_logits
        self.names: tuple[str, ...] = ()
        self.x = torch.empty(0)
        self.original = torch.empty(0)
        self.y = torch.empty(0, dtype=torch.int64)
        self.task = torch.empty(0, dtype=torch.int64)
        self.logits = torch.empty(0)

    def __len__(self) -> int:
        return self.y.shape[0]  # len(tensor) takes longer

    @abstractmethod
    def rows_by_task(self) -> list[tuple[int, Tensor]]:
        """(index into ``names``, rows ``(n_t,)`` on the CPU) of every task of which something is stored."""

    def take(self, index: Tensor) -> MemoryBatch:
        """The samples at ``index`` ``(B,)`` int64, on the CPU or on the device of y, to which those of x come too."""
        if self.x.is_cpu and self.y.is_cpu:
            x = self.x.index_select(0, index)
        else:
            x = to_device(self.x.index_select(0, to_device(index, self.x.device)), self.y.device)
            index = to_device(index, self.y.device)
        y, task = (part.index_select(0, index) for part in (self.y, self.task))
        logits = self.logits.index_select(0, index) if self.keep_logits else None
        return MemoryBatch(x, y, task, self.names, index, logits=logits)

    def sample(self, count: int, draws: torch.Generator) -> MemoryBatch:
        """``count`` different samples, or all of them where fewer are stored, every choice equally likely."""
        return self.take(distinct(count, len(self), draws))

    def sample_each(self, count: int, draws: torch.Generator) -> MemoryBatch:
        """Different samples of every task, a block per task: ``count`` shared evenly, but at least one of each.

        The first tasks get what remains of the division; of a task that holds less than its share, all come back.
        ``names`` are the tasks of which something is stored.
        """
        stored = self.rows_by_task()
        share, rest = divmod(count, len(stored))
        counts = [max(1, share + (i < rest)) for i in range(len(stored))]
        blocks = [
            rows.index_select(0, distinct(n, rows.shape[0], draws)) for n, (_, rows) in zip(counts, stored, strict=True)
        ]
        batch = self.take(torch.cat(blocks))
        sizes = tuple(len(block) for block in blocks)
        task = torch.arange(len(blocks)).repeat_interleave(torch.tensor(sizes))
        names = tuple(self.names[t] for t, _ in stored)
        return replace(batch, task=to_device(task, self.y.device), names=names, sizes=sizes)

    def replace(self, index: Tensor, x: Tensor) -> None:
        """Store edited samples in place of those at ``index``; labels stay."""
        home = self.x.device
        self.x.index_copy_(0, to_device(index, home), to_device(x.to(self.x.dtype), home))

    def drift(self) -> Tensor:
        """Mean absolute difference ``(n,)`` between every sample and its original, in units of x.

        Raises:
            RuntimeError: if the originals were not kept.
        """
        if not self.keep_original:
            raise RuntimeError(
                f"drift: the originals were not kept; use {type(self).__name__}(..., keep_original=True)"
            )
        parts = zip(self.x.split(_AT_ONCE), self.original.split(_AT_ONCE), strict=True)
        return torch.cat([(x - original).abs().flatten(1).mean(dim=1) for x, original in parts])

    def mean_drift(self) -> float:
        """Mean of |x - original| over everything that is stored, in units of x; 0 while nothing is."""
        return float(self.drift().mean()) if len(self) else 0.0


def stored_bytes(memory: Memory) -> int:
    """Bytes of all tensors that a checkpoint of the memory holds: samples, their originals where they are kept, labels,
    and whatever else it remembers of them."""
    left: list[Any] = [memory.state_dict()]
    total = 0
    while left:
        part = left.pop()
        if isinstance(part, Tensor):
            total += part.numel() * part.element_size()
        elif isinstance(part, dict):
            left += part.values()
        elif isinstance(part, (list, tuple)):
            left += part
    return total


def distinct(count: int, n: int, draws: torch.Generator) -> Tensor:
    """``min(count, n)`` different numbers of 0 .. n-1 on the CPU, every sequence of them equally likely.

    Of a few among many the cost is O(count): numbers are drawn until enough have appeared, and those that appear first
    are taken, so that each is uniform among those not yet taken.
    """
    if _permuted(count, n):
        return torch.randperm(n, generator=draws)[:count]
    found: dict[int, None] = {}
    while len(found) < count:  # 53 random bits, as randint's remainder of 32 would prefer small numbers
        uniform = torch.rand(count, generator=draws, dtype=torch.float64)
        found.update(dict.fromkeys((uniform * n).to(torch.int64).tolist()))
    return torch.tensor(list(found)[:count])


def _permuted(count: int, n: int) -> bool:
    """Whether a permutation of n numbers is quicker than ``count`` of them one by one, as measured on a CPU."""
    return n <= max(2048, 32 * count)
