"""Which rows of a batch belong to which task."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Consecutive blocks of rows, one per task.

    Attributes:
        tasks: number of the task of every block.
        sizes: rows of every block.
    """

    tasks: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Rows of all blocks together."""
        return sum(self.sizes)

    @property
    def equal(self) -> bool:
        """True where all blocks have the same number of rows."""
        return len(set(self.sizes)) == 1

    def times(self, factor: int) -> "Rows":
        """The blocks where every row became ``factor`` consecutive ones."""
        return self if factor == 1 else Rows(self.tasks, tuple(size * factor for size in self.sizes))

    def of(self, tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(task, its block of ``tensor``) for every block."""
        return zip(self.tasks, tensor.split(self.sizes), strict=True)
