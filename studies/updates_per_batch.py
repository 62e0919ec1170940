"""Updates as GSS's released code makes them: one on the batch, then one on samples of the memory, several times over.

Aljundi et al., *Gradient based sample selection for online continual learning*, see every batch once; the commands
that go with their code set three such pairs of updates on each, every pair with other samples of the memory.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pcl.memory.reservoir import ReservoirMemory
from pcl.streams.stream import Batch, is_memory
from pcl.weighting.base import Stateless
from studies.gss_by_batches import GSSByBatches


def repeated(batches: Iterable[Batch], updates: int) -> list[Batch]:
    """Every batch so many times in a row."""
    return [batch for batch in batches for _ in range(updates)]


class InTurn(Stateless):
    """The loss of the batch alone, at the next update that of the memory alone, and so on.

    It is of use over all parameters, heads too: ``gradients_over="all"``. Runs are not resumed.
    """

    needs = "losses"

    def __init__(self) -> None:
        self._memory = True

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        """1 for those whose turn it is, 0 for the others ``(k,)``."""
        self._memory = not self._memory
        return torch.tensor([float(is_memory(task) == self._memory) for task in tasks], dtype=torch.float64)


class OncePerBatch:
    """Lets the memory behind it see a batch after the last of its updates alone; to be put in front of a memory among
    the base classes."""

    def __init__(self, capacity: int, updates: int) -> None:
        super().__init__(capacity)  # type: ignore[call-arg]
        self._updates, self._made = updates, 0

    def observe(self, *batch: Any) -> None:
        """See :meth:`pcl.ReservoirMemory.observe`."""
        self._made += 1
        if self._made % self._updates == 0:
            super().observe(*batch)  # type: ignore[misc]


class ReservoirOncePerBatch(OncePerBatch, ReservoirMemory):
    """A reservoir of batches on which several updates are made."""


class GSSOncePerBatch(OncePerBatch, GSSByBatches):
    """The released GSS-Greedy on batches on which several updates are made."""
